"""Addresses that cannot be listened on."""

from __future__ import annotations

import socket

import pytest

from llm.common.errors import RUNNING, USAGE, UserError
from llm.serve.server import _listen


@pytest.mark.parametrize(("host", "code"), [("127.0.0.1", RUNNING), ("a" * 64, USAGE), ("192.0.2.1", USAGE)])
def test_only_a_port_in_use_is_held_by_another_process(host: str, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held, pytest.raises(UserError, match=f"^{host}:") as raised:
        _listen(host, held.getsockname()[1])
    assert raised.value.code == code
