"""`llm serve`: one process with uvicorn."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress

import uvicorn

from llm.common.errors import RUNNING, USAGE, Terminated, UserError
from llm.common.urls import is_this_machine
from llm.runtime.device import RuntimeConfig
from llm.serve import models
from llm.serve.app import make_app
from llm.serve.metrics import Metrics
from llm.serve.service import Limits

CONNECTIONS = 1000
GRACE_SECONDS = 5  # for running answers when the server ends


def serve(
    folders: Sequence[str], runtime: RuntimeConfig, host: str, port: int, room: models.Room, limits: Limits
) -> None:
    """Serve the models in `folders` until SIGINT or SIGTERM. Raises UserError if it cannot start."""
    if not 0 <= port < 2**16:
        raise UserError(f"port {port}", "is no port", "give one from 0 to 65535; 0 takes a free one", USAGE)
    metrics = Metrics()
    loaded = models.load(folders, runtime, room, metrics.step)
    with _listen(host, port) as listening:
        if not is_this_machine(host):
            print(f"warning: --host {host}: whoever reaches it may use it, there is no password", file=sys.stderr)
        address = f"[{host}]" if ":" in host else host
        print(f"http://{address}:{listening.getsockname()[1]}/ (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(
            make_app(loaded, limits, metrics, host),
            log_level="warning",
            access_log=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=GRACE_SECONDS,
            server_header=False,
            ws="none",
        )
        with suppress(KeyboardInterrupt, Terminated):  # uvicorn raises the signal again when it has ended
            uvicorn.Server(config).run(sockets=[listening])
        print("stopped", file=sys.stderr)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=512)
    except (OSError, UnicodeError) as error:
        what = str(getattr(error, "strerror", None) or error)
        in_use = getattr(error, "errno", None) == errno.EADDRINUSE
        code = RUNNING if in_use else USAGE
        raise UserError(f"{host}:{port}", what, "give another --host or --port", code) from None
