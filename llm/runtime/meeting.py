"""How the machines of a training find the first one, before PyTorch connects them.

PyTorch alone would wait for ever for another program that accepts and says nothing, and print traces of other failures.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

from llm.common.errors import RUNNING, SERVICE, USAGE, UserError

REFUSED = 3  # the exit code of `main`
OWN_SECONDS = 10.0  # a machine reaches itself at once, or a firewall drops what it sends


def find_first(where: str, endpoint: str, nodes: int, node: int, seconds: float) -> None:
    """Wait until the first of `nodes` machines answers at HOST:PORT; on that one (`node` 0), check that it can.

    Raises UserError about `where` if the host is not known, or if nothing or another program answers.
    """
    name, _, digits = endpoint.rpartition(":")
    host, port = name.strip("[]"), int(digits)  # brackets of an IPv6 address
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        what = f"the host {host!r} is not known on this machine: {getattr(error, 'strerror', None) or error}"
        raise UserError(where, what, "give a name or an address that all machines know", SERVICE) from None
    if node == 0:
        _reach_itself(where, endpoint, host, port)
        return
    until = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), max(0.1, until - time.monotonic())).close()
            break
        except OSError as error:
            if time.monotonic() > until:
                raise apart(where, endpoint, nodes, f": {error.strerror or error}") from None
            time.sleep(0.2)
    if not _answers(host, port, seconds):
        what = f"another program than the first machine's stage listens at {endpoint}"
        raise UserError(where, what, "give a port that is free on the first machine", SERVICE)


def _reach_itself(where: str, endpoint: str, host: str, port: int) -> None:
    both = socket.has_dualstack_ipv6()
    try:
        server = socket.create_server(
            ("", port), family=socket.AF_INET6 if both else socket.AF_INET, dualstack_ipv6=both
        )
    except OSError as error:
        what = f"the port of {endpoint} cannot be used on this machine: {os.strerror(error.errno or 0)}"
        code = RUNNING if error.errno == errno.EADDRINUSE else USAGE
        raise UserError(where, what, "give another port", code) from None
    try:
        with server:
            socket.create_connection((host, port), OWN_SECONDS).close()
    except OSError as error:
        what = f"this machine, the first one, cannot reach itself at {endpoint}: {error.strerror or error}"
        raise UserError(
            where, what, "give its own name or address, or start it with another NODE_RANK", USAGE
        ) from None


def apart(where: str, endpoint: str, nodes: int, why: str = "") -> UserError:
    """The error if machines do not come."""
    fix = "start the stage on each, with NODE_RANK from 0; or raise launch.timeout_seconds"
    return UserError(where, f"{nodes} machines did not meet at {endpoint}{why}", fix, SERVICE)


def _answers(host: str, port: int, seconds: float) -> bool:
    """Whether PyTorch's store answers there. Asked by a process of its own, as only its end ends the waiting."""
    words = ["-m", __spec__.name, host, str(port), str(math.ceil(seconds))]
    asked = subprocess.run([sys.executable, *words], stderr=subprocess.DEVNULL, check=False)
    return asked.returncode not in (REFUSED, -signal.SIGALRM)


def main(host: str, port: str, seconds: str) -> None:
    """Connect to PyTorch's store. Ends with REFUSED, or by SIGALRM, if it does not answer in time."""
    from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

    signal.alarm(int(seconds))
    try:
        TCPStore(host, int(port), timeout=timedelta(seconds=int(seconds)), wait_for_workers=False)
    except DistError:
        sys.exit(REFUSED)


if __name__ == "__main__":
    main(*sys.argv[1:])
