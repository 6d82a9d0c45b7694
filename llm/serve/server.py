"""`llm serve`: one process with uvicorn."""

from __future__ import annotations

import asyncio
import errno
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import uvicorn

from llm.common.errors import RUNNING, USAGE, Terminated, UserError
from llm.common.urls import is_this_machine
from llm.runtime.device import RuntimeConfig
from llm.serve import models
from llm.serve.app import Guard, make_app
from llm.serve.metrics import Metrics
from llm.serve.service import Limits

CONNECTIONS = 1000
GRACE_SECONDS = 5  # for running answers when the server ends


class Server(uvicorn.Server):
    """Ends the answers that still run GRACE_SECONDS after a signal to end, or at the second one."""

    def __init__(self, config: uvicorn.Config, app: Guard) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit or self._app.stopping:
            super().handle_exit(sig, frame)  # at the third signal, uvicorn does not wait for the current step
        else:
            self._app.stop()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().call_later(GRACE_SECONDS, self._app.stop)
        await super().shutdown(sockets)


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
        app = make_app(loaded, limits, metrics, host)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=2 * GRACE_SECONDS,
            server_header=False,
            ws="none",
        )
        with suppress(KeyboardInterrupt, Terminated):  # uvicorn raises the signal again when it has ended
            Server(config, app).run(sockets=[listening])
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
