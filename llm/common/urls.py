"""What a URL says, without a request."""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from urllib.parse import urlsplit


def is_plain_url(url: str) -> bool:
    """Return whether this is an http(s) URL with a host, and without user, password, blanks or backslashes."""
    with suppress(ValueError):  # a bad port or bracket
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        return known and "@" not in parts.netloc and not re.search(r"[\s\\]", url)
    return False


def is_loopback(url: str) -> bool:
    """Return whether the URL names this machine."""
    return is_this_machine(urlsplit(url).hostname or "")


def is_this_machine(host: str) -> bool:
    """Return whether a host is `localhost` or a loopback address."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
