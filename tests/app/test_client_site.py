"""What the settings leave out of a server."""

from __future__ import annotations

from pathlib import Path

from synapse_like.app.client_site import chat_mounts
from synapse_like.config import parse
from synapse_like.http.routing import Router


def serves_the_chat_page(webclient: dict[str, object], folder: Path) -> bool:
    config = parse({"server_name": "a.example", "webclient": webclient}, source="test", folder=folder, environ={})
    return Router(chat_mounts(config)).match("GET", [""]) is not None


def test_chat_page_is_there_unless_the_operator_turns_it_off(tmp_path: Path) -> None:
    assert serves_the_chat_page({}, tmp_path)
    assert not serves_the_chat_page({"enabled": False}, tmp_path)
