"""The keys by which this server proves who it is, and the files that they are in (FED-9).

`signing.key` has a key in each line; the first one signs, all others did once. `signing.key.old` beside it has the
public halves of the others, each with the time at which it ended. That is written when the server starts for the first
time with another key in front: until then the old one may still have been in use. Each file is only ever replaced as a
whole, so that nothing is lost whenever the power goes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct
from signedjson.key import (
    decode_verify_key_base64,
    encode_verify_key_base64,
    get_verify_key,
    read_signing_keys,
    write_signing_keys,
)
from signedjson.types import SigningKey, VerifyKey

from synapse_like.protocol.server_keys import MOST_KEYS


class KeysUnusable(Exception):
    """A file of keys cannot be read; says why, for the operator."""


class OldKey(NamedTuple):
    """The public half of a key that signs no more.

    :ivar ended: when it ended, in milliseconds since 1970.
    """

    key: VerifyKey
    ended: int


class OwnKeys(Struct, frozen=True):
    """Our keys.

    :ivar signing: signs everything.
    :ivar old: by ID.
    """

    server_name: str
    signing: SigningKey
    old: Mapping[str, OldKey]

    @property
    def signing_id(self) -> str:
        """The ID of the key that signs."""
        return f"{self.signing.alg}:{self.signing.version}"


def old_file(path: Path) -> Path:
    """The file that remembers when the others of a file of signing keys ended."""
    return path.with_name(f"{path.name}.old")


def read_signing_file(path: Path) -> list[SigningKey]:
    """The keys of a file, the one that signs in front.

    :raises KeysUnusable: there is none.
    """
    try:
        with path.open(encoding="utf-8") as file:
            keys = read_signing_keys(file)
    except (OSError, ValueError) as error:
        raise KeysUnusable(f"cannot read the signing key {path}: {error}") from error
    if not keys:
        raise KeysUnusable(f"there is no key in {path}")
    return list(keys)


def load(path: Path, server_name: str, now_ms: int) -> OwnKeys:
    """The keys that a server is to use from now on; those that have ended since the last start are remembered as such.

    :raises KeysUnusable: a file cannot be read or written.
    """
    signing, *others = read_signing_file(path)
    remembered = _read_old(old_file(path))
    ended = dict(remembered)
    for key in others:
        ended.setdefault(_id(key), OldKey(get_verify_key(key), now_ms))
    # A key that was brought back has not ended.
    ended.pop(_id(signing), None)
    if ended != remembered:
        try:
            replace_file(old_file(path), _old_text(ended))
        except OSError as error:
            raise KeysUnusable(f"cannot write {old_file(path)}: {error.strerror}") from error
    newest = sorted(ended.items(), key=lambda item: item[1].ended, reverse=True)[:MOST_KEYS]
    return OwnKeys(server_name, signing, dict(newest))


def rotate(path: Path, new: SigningKey) -> None:
    """Put a new key in front of a file.

    :raises KeysUnusable: it cannot be read or written.
    """
    keys = read_signing_file(path)
    text = StringIO()
    write_signing_keys(text, [new, *keys])
    try:
        replace_file(path, text.getvalue())
    except OSError as error:
        raise KeysUnusable(f"cannot write {path}: {error.strerror}") from error


def replace_file(path: Path, text: str) -> None:
    """Write a file that only its owner may read, wholly or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read_old(path: Path) -> dict[str, OldKey]:
    """Each line of the file is `algorithm version ended key`."""
    if not path.exists():
        return {}
    keys = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            algorithm, version, ended, key = line.split()
            keys[f"{algorithm}:{version}"] = OldKey(decode_verify_key_base64(algorithm, version, key), int(ended))
    except (OSError, ValueError) as error:
        raise KeysUnusable(f"cannot read the old keys in {path}: {error}") from error
    return keys


def _old_text(keys: Mapping[str, OldKey]) -> str:
    return "".join(
        f"{old.key.alg} {old.key.version} {old.ended} {encode_verify_key_base64(old.key)}\n" for old in keys.values()
    )


def _id(key: SigningKey) -> str:
    return f"{key.alg}:{key.version}"
