"""What a server is made of, by its settings: who shares its database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from signedjson.key import generate_signing_key, write_signing_keys
from signedjson.types import SigningKey

from synapse_like.app.errors import StartError
from synapse_like.app.parts import load_keys, open_database
from synapse_like.config import parse
from synapse_like.federation.own_keys import rotate
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Database
from tests.support.postgres import PostgreSQL
from tests.support.threads import ThreadBridge


class Machine:
    """One of those that share a database."""

    def __init__(self, folder: Path, url: str, name: str, key: SigningKey) -> None:
        folder.mkdir()
        self.key_file = folder / "signing.key"
        with self.key_file.open("w") as file:
            write_signing_keys(file, [key])
        settings: dict[str, Any] = {"server_name": name, "database": {"url": url, "shared": True}}
        self._config = parse(settings, source="test", folder=folder, environ={})

    def start(self) -> Database:
        return open_database(self._config, load_keys(self._config, 1), ThreadBridge(), Bus())


def test_machines_that_share_a_database_have_one_name_and_one_key(postgresql: PostgreSQL, tmp_path: Path) -> None:
    """FED-9: a key may be changed on one after the other."""
    key = generate_signing_key("first")
    with postgresql.database() as url:
        one, two = (Machine(tmp_path / name, url, "here.example", key) for name in ("one", "two"))
        running = [one.start(), two.start()]
        for name, other_key in (("there.example", key), ("here.example", generate_signing_key("first"))):
            stranger = Machine(tmp_path / f"{name} {other_key is key}", url, name, other_key)
            with pytest.raises(StartError, match=r"give this one the same `server_name`, and copies of .*signing.key"):
                stranger.start()
        running.pop().stop()
        rotate(two.key_file, generate_signing_key("second"))
        running.append(two.start())
        running.pop(0).stop()
        with pytest.raises(StartError, match=r"signing\.key"):
            one.start()
        one.key_file.write_text(two.key_file.read_text())
        running.append(one.start())
        for database in running:
            database.stop()
