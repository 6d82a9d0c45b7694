"""Refuses requests that a foreign web page could send, and bodies that are too large or too slow."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect, Request

from llm.common.urls import is_this_machine
from llm.serve.protocol import MAX_BODY, ApiError

BODY_SECONDS = 20.0
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def check_origin(request: Request, host: str) -> None:
    """Refuse a request to another name (DNS rebinding) or from another origin. Raises ApiError 403.

    `host` is the address that the server listens on. If it is not loopback, any IP address is a name of the server.
    """
    asked, name = request.headers.get("host", ""), ""
    with suppress(ValueError):
        name = urlsplit(f"//{asked}").hostname or ""
    own = name and not is_this_machine(host) and (name == host.lower() or _is_address(name))
    if not (own or is_this_machine(name)):
        raise ApiError(403, f"the host {asked!r:.100} is not a name of this server", code="host_not_allowed")
    origin = request.headers.get("origin")
    if origin is not None and origin.lower() != f"http://{asked}".lower():
        raise ApiError(403, f"requests from {origin!r:.100} are not allowed", code="origin_not_allowed")


async def read_body(request: Request) -> bytes:
    """The body of at most MAX_BODY bytes. Raises ApiError for another type, a larger or a slow one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(415, f"the content type is {kind!r:.100}, send application/json", code="unsupported_media_type")
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > MAX_BODY:
                    raise ApiError(413, f"the body has more than {MAX_BODY} bytes", code="body_too_large")
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"the body took more than {BODY_SECONDS:g} s", code="timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "the client left", code="client_left") from None
    return b"".join(parts)


def _is_address(name: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False
