"""What decides a judge's score, and which servers may be asked at all."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from llm.common.errors import USAGE, UserError
from llm.common.params import Problem, at_least_zero, positive

KEY_VARIABLE = "OPENAI_API_KEY"


@dataclass(frozen=True)
class JudgeConfig:
    """All that decides a score; nothing of it comes from the environment."""

    backend: Literal["reference", "ollama", "openai"]  # reference: offline, against the reference answer, no LLM
    prompt: Literal["book", "guarded"]  # guarded: a marker around the answer that the answer cannot contain
    model: str
    url: str  # of the server; /api/chat or /v1/chat/completions is appended
    allowed_hosts: tuple[str, ...]  # that may be asked beside this machine
    seed: int
    temperature: float
    num_ctx: int  # the judge's context in tokens
    timeout_seconds: float  # for one request as a whole, however slowly it trickles in
    retries: int
    max_failed: int  # requests without a valid reply; one more ends the stage with code 4
    min_coverage: float  # scored / items; below it the stage ends with code 4

    def problems(self) -> Iterator[Problem]:
        """What can be known without asking anyone."""
        yield from positive(self, "num_ctx", "timeout_seconds")
        yield from at_least_zero(self, "temperature", "retries", "max_failed", "min_coverage")
        for name, highest in (("timeout_seconds", 3600), ("retries", 10), ("min_coverage", 1)):
            if getattr(self, name) > highest:
                yield name, f"{getattr(self, name)} is above {highest}", f"give {highest} or less"
        if not self.model.strip():
            yield "model", f"{self.model!r} names no model", "write its name, such as llama3"
        for host in self.allowed_hosts:
            if not host or not host.isascii() or not host.isprintable() or set(host) & set("/@?# *"):
                yield "allowed_hosts", f"{host!r} is not a host name", "write the bare name, such as judge.example.org"
        try:
            Address.of(self.url, self.allowed_hosts)
        except _UrlError as error:
            yield "url", error.what, error.fix


@dataclass(frozen=True)
class Address:
    """A server that may be asked: http or https, this machine or a listed host, no password in the URL."""

    host: str
    base: str  # put together anew from its parts, so that no two parsers can differ over it

    @classmethod
    def of(cls, url: str, allowed_hosts: tuple[str, ...], chat: str = "") -> Address:
        """Read the URL without looking anything up; a path that already ends with `chat` (or its `/v1`) is cut."""
        host, port, scheme, path = _parts(url)
        address = _ip(host)
        if address is not None and _is_forbidden(address):
            raise _UrlError(f"{host} is a link-local or unspecified address")
        if not _is_loopback(host) and host not in {name.strip("[]").lower() for name in allowed_hosts}:
            fix = f"add {host} there if it may be asked"
            raise _UrlError(f"{host} is not this machine, and not in judge.allowed_hosts", fix)
        path = path.rstrip("/").removesuffix(chat)
        path = path.removesuffix("/v1") if chat.startswith("/v1/") else path
        shown = f"[{host}]" if ":" in host else host
        return cls(host, f"{scheme}://{shown}{'' if port is None else f':{port}'}{path}")

    @property
    def loopback(self) -> bool:
        """Whether it is this machine."""
        return _is_loopback(self.host)

    @property
    def private(self) -> bool:
        """Whether a key may be sent there."""
        return self.loopback or self.base.startswith("https://")

    def check(self) -> None:
        """Look the host up; refuse a link-local or unspecified address, and a `localhost` that is elsewhere.

        Raises OSError for an unknown name.
        """
        try:
            found = {str(entry[4][0]) for entry in socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)}
        except (OSError, UnicodeError):
            raise OSError(f"the name {self.host} is unknown") from None
        for text in sorted(found):
            address = _ip(text)
            if address is None or _is_forbidden(address) or (self.loopback and not address.is_loopback):
                what = f"{self.host} stands for {text}, which is not asked"
                raise UserError(f"judge.url ({self.base})", what, "name another server", USAGE)


class _UrlError(UserError):
    def __init__(self, what: str, fix: str = "write http://127.0.0.1:11434 or the like") -> None:
        super().__init__("judge.url", what, fix, USAGE)


def _parts(url: str) -> tuple[str, int | None, str, str]:
    if "@" in url:  # not quoted: what stands before it may be a password
        raise _UrlError("a user name or password in the URL", f"remove it; a key is read from {KEY_VARIABLE} alone")
    if not url.isascii() or not url.isprintable() or set(url) & set(" \\?#"):
        raise _UrlError(f"{url!r} holds a character that has no place in it")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise _UrlError(f"{url!r} is not a URL: {error}") from None
    if parts.scheme not in ("http", "https"):
        raise _UrlError(f"{url!r} begins with neither http:// nor https://")
    if not host:
        raise _UrlError(f"{url!r} names no host")
    return host, port, parts.scheme, parts.path


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_forbidden(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_link_local or address.is_unspecified or address.is_multicast


def _is_loopback(host: str) -> bool:
    address = _ip(host)
    return host == "localhost" if address is None else address.is_loopback
