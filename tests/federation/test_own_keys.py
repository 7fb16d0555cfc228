"""Our own keys: which one signs, and when the others ended (FED-9)."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from signedjson.key import generate_signing_key, write_signing_keys

from synapse_like.federation import own_keys
from synapse_like.federation.own_keys import KeysUnusable, load, old_file, read_signing_file, rotate
from synapse_like.protocol.server_keys import MOST_KEYS

NAME = "a.example"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "signing.key"
    with path.open("w") as file:
        write_signing_keys(file, [generate_signing_key("1")])
    return path


def test_single_key_signs_and_nothing_is_old(path: Path) -> None:
    keys = load(path, NAME, 1000)
    assert keys.signing_id == "ed25519:1"
    assert keys.old == {}
    assert not old_file(path).exists()


def test_old_key_ends_when_the_server_first_starts_with_another(path: Path) -> None:
    first = load(path, NAME, 1000).signing
    rotate(path, generate_signing_key("2"))
    keys = load(path, NAME, 2000)
    assert keys.signing_id == "ed25519:2"
    assert keys.old == {"ed25519:1": (first.verify_key, 2000)}
    # Later starts change nothing about that.
    assert load(path, NAME, 3000).old == keys.old
    rotate(path, generate_signing_key("3"))
    assert {key_id: old.ended for key_id, old in load(path, NAME, 4000).old.items()} == {
        "ed25519:1": 2000,
        "ed25519:2": 4000,
    }
    assert stat.S_IMODE(old_file(path).stat().st_mode) == 0o600


def test_old_key_stays_known_without_its_private_half(path: Path) -> None:
    rotate(path, generate_signing_key("2"))
    old = load(path, NAME, 2000).old
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert load(path, NAME, 3000).old == old


def test_key_that_is_brought_back_has_not_ended(path: Path) -> None:
    rotate(path, generate_signing_key("2"))
    load(path, NAME, 2000)
    path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    keys = load(path, NAME, 3000)
    assert keys.signing_id == "ed25519:1"
    assert {key_id: old.ended for key_id, old in keys.old.items()} == {"ed25519:2": 3000}


def test_only_the_newest_old_keys_are_published(path: Path) -> None:
    for number in range(2, MOST_KEYS + 5):
        rotate(path, generate_signing_key(str(number)))
        load(path, NAME, number)
    old = load(path, NAME, 10**6).old
    assert len(old) == MOST_KEYS
    assert min(key.ended for key in old.values()) == 5


def test_rotation_that_is_interrupted_anywhere_loses_no_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call by which a file is written is made to be the last one."""

    class Killed(BaseException):
        pass

    before = path.read_text()
    for name in ("open", "fsync", "replace"):
        owner: Any = Path if name == "replace" else os
        with monkeypatch.context() as patched:

            def die(*_: object, **__: object) -> None:
                raise Killed

            patched.setattr(owner, name, die)
            with pytest.raises(Killed):
                rotate(path, generate_signing_key("2"))
        assert path.read_text() == before
    rotate(path, generate_signing_key("2"))
    with monkeypatch.context() as patched:
        patched.setattr(own_keys, "replace_file", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(KeysUnusable, match=r"signing\.key\.old: No space left"):
            load(path, NAME, 2000)
    assert load(path, NAME, 3000).old["ed25519:1"].ended == 3000
    assert len(read_signing_file(path)) == 2


@pytest.mark.parametrize("text", ["nonsense", "ed25519 1 x y", "ed25519 1 5", "rsa 1 5 AAAA"])
def test_unreadable_old_keys_are_named(path: Path, text: str) -> None:
    old_file(path).write_text(text)
    with pytest.raises(KeysUnusable, match=r"signing\.key\.old"):
        load(path, NAME, 1000)


def test_no_key_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    for file in ("nowhere", "empty"):
        with pytest.raises(KeysUnusable, match=file):
            load(tmp_path / file, NAME, 1000)
