"""What the commands do with what users have said: old history taken out, one user's data given out, or forgotten."""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from synapse_like.app.content import BlockingMeans, do_at_once
from synapse_like.app.errors import StartError
from synapse_like.app.parts import connect
from synapse_like.config import Config
from synapse_like.handlers import rooms as room_handlers
from synapse_like.handlers.content_store import ContentStore
from synapse_like.handlers.purging import Freed, HistoryPurge, WordsOfUser, words_of
from synapse_like.protocol.errors import Forbidden, NotFound
from synapse_like.protocol.identifiers import local_part_for_registration
from synapse_like.storage import accounts, content, own_data
from synapse_like.storage.connections import Connection
from synapse_like.storage.content import Selection
from synapse_like.storage.content_files import ContentFolder
from synapse_like.storage.transactions import Transaction

Tell = Callable[[str], object]


def purge_history(config: Config, room_id: str, *, before_ms: int | None, before_event: str | None, tell: Tell) -> str:
    """Delete the messages of a room up to a time or an event; a sentence about what was freed.

    :param before_ms: in milliseconds since 1970.
    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such room or event.
    """
    purge = HistoryPurge(room_id, before_ms, before_event)
    connection = connect(config)
    try:
        connection.transact(purge.begin)
        shown = _in_steps(connection, purge.step, f"{room_id}: ", tell)
        hidden = _in_steps(connection, purge.step_unshown, f"{room_id}, what was never shown: ", tell)
    finally:
        connection.close()
    count, size = shown.events + hidden.events, shown.bytes + hidden.bytes
    return f"Deleted {count} events of {room_id}, {size:,} bytes."


def purge_room(config: Config, room_id: str, *, force: bool, tell: Tell) -> str:
    """Delete a room with everything in it; a sentence about what was freed.

    What was said goes step by step, and does not keep the server from writing; then the rest at once. Interrupted, it
    leaves a room without messages.

    :param force: also if users of this server are still in it.
    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such room, or somebody is still in it.
    """
    said = HistoryPurge(room_id)
    connection = connect(config)
    try:
        name = config.server_name
        try:
            connection.transact(room_handlers.to_be_purged, room_id, server_name=name, force=force)
        except Forbidden as error:
            raise Forbidden(f"{error.message} With --force, it is deleted all the same.") from error
        words = _in_steps(connection, said.step, f"{room_id}: ", tell)
        count, size = connection.transact(room_handlers.purge, room_id, server_name=name, force=force)
        connection.engine.forget_deleted(connection.raw)
    finally:
        connection.close()
    return f"Purged {room_id} with {words.events + count} events, {words.bytes + size:,} bytes."


def _in_steps(connection: Connection, step: Callable[[Transaction, int], Freed], name: str, tell: Tell) -> Freed:
    """Do something step by step, each committed and out of the files before the next; all of it together."""
    total = Freed(0)
    while total.after is not None:
        freed = connection.transact(step, total.after)
        total.after = freed.after
        if freed.events:
            total.events += freed.events
            total.bytes += freed.bytes
            connection.engine.forget_deleted(connection.raw)
            tell(f"{name}{total.events} events, {total.bytes:,} bytes")
    return total


def erase_user(config: Config, user: str, tell: Tell) -> str:
    """Close an account, if it is not closed yet, and forget its user; a sentence about what was freed.

    :raises StartError: the database cannot be opened.
    :raises MatrixError: there was never such a user.
    """
    user_id = _user_id(config, user)
    connection = connect(config)
    try:

        def begin(txn: Transaction) -> int:
            _must_exist(txn, user_id)
            now_ms = int(time.time() * 1000)
            accounts.deactivate(txn, user_id, now_ms=now_ms)
            own_data.mark_erased(txn, user_id, now_ms=now_ms)
            return own_data.forget(txn, user_id)

        rows = connection.transact(begin)
        connection.engine.forget_deleted(connection.raw)
        files, size = _delete_files(config, connection, user_id)
        tell(f"{user_id}: {rows} rows, {files} uploads")
        events = 0
        for words in _words(connection, user_id):
            freed = _in_steps(connection, words.strip_some, f"{user_id}, room {words.room_nid}: ", tell)
            events += freed.events
            size += freed.bytes
        connection.engine.forget_deleted(connection.raw)
    finally:
        connection.close()
    return f"Forgot {user_id}: {rows} rows, {files} uploads, the content of {events} events; {size:,} bytes."


def _delete_files(config: Config, connection: Connection, user_id: str) -> tuple[int, int]:
    store = ContentStore(BlockingMeans(connection), ContentFolder(config.content_directory))
    count = size = 0
    for unwanted in connection.transact(content.select, Selection(server="", user_id=user_id)):
        do_at_once(store.remove(unwanted))
        count += 1
        size += unwanted.size
    return count, size


def export_user(config: Config, user: str, target: Path, tell: Tell) -> str:
    """Write all that is known of a user into a tar file; a sentence about it.

    It has data.json, what tables say; events.jsonl, what they said in rooms, a line for each event; and their files.

    :raises StartError: the database cannot be opened, or the file cannot be written.
    :raises MatrixError: there was never such a user.
    """
    user_id = _user_id(config, user)
    if target.exists():
        raise StartError(f"{target} is there already")
    unfinished = target.with_name(f".{target.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    connection = connect(config)
    try:
        descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as archive:
            events, files = _export(config, connection, user_id, archive, tell)
        unfinished.rename(target)
    except OSError as error:
        raise StartError(f"{target} cannot be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)
        connection.close()
    return f"{target}: what is known of {user_id}, with {events} events and {files} files."


def _export(
    config: Config, connection: Connection, user_id: str, archive: tarfile.TarFile, tell: Tell
) -> tuple[int, int]:
    def look(txn: Transaction) -> dict[str, object]:
        _must_exist(txn, user_id)
        return {"user_id": user_id, **own_data.told(txn, user_id), "memberships": own_data.memberships(txn, user_id)}

    events = files = 0
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(connection.transact(look), indent=1, ensure_ascii=False).encode())
        _add(archive, "data.json", file)
    with tempfile.TemporaryFile() as file:
        for words in _words(connection, user_id):
            after: int | None = 0
            while after is not None:
                found, after = connection.transact(words.read_some, after)
                for event_id, pdu in found:
                    line = json.dumps({"event_id": event_id, "event": pdu}, ensure_ascii=False)
                    file.write(line.encode("utf-8", "surrogatepass") + b"\n")
                events += len(found)
            tell(f"{events} events")
        _add(archive, "events.jsonl", file)
    folder = ContentFolder(config.content_directory)
    for content_id, sha256 in connection.transact(lambda txn: list(own_data.files(txn, user_id))):
        try:
            descriptor = folder.open(sha256)
        except FileNotFoundError:
            tell(f"the file of {content_id} is missing")
            continue
        with open(descriptor, "rb") as upload:
            _add(archive, f"files/{content_id}", upload)
            files += 1
    return events, files


def _add(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    about = tarfile.TarInfo(name)
    about.size, about.mode, about.mtime = file.seek(0, os.SEEK_END), 0o600, int(time.time())
    file.seek(0)
    archive.addfile(about, file)


def _words(connection: Connection, user_id: str) -> list[WordsOfUser]:
    return connection.transact(lambda txn: words_of(txn, user_id, own_data.rooms(txn, user_id)))


def _must_exist(txn: Transaction, user_id: str) -> None:
    if not own_data.exists(txn, user_id):
        raise NotFound(f"There was never a user {user_id} here.")


def _user_id(config: Config, user: str) -> str:
    return f"@{local_part_for_registration(user, config.server_name)}:{config.server_name}"
