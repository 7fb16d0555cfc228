"""Looking through everything a home server keeps, and mending what can be derived (`synapse_like verify`)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator

from signedjson.key import get_verify_key

from synapse_like.app.content import BlockingMeans, do_at_once
from synapse_like.app.parts import engine_of, load_keys
from synapse_like.app.verifying import Result, Run, Tell, opened
from synapse_like.config import Config
from synapse_like.handlers import verification
from synapse_like.handlers.content_store import ContentStore
from synapse_like.handlers.verification import EventVerification
from synapse_like.storage import content
from synapse_like.storage import verification as stored
from synapse_like.storage.connections import Connection
from synapse_like.storage.content_files import ContentFolder
from synapse_like.storage.faults import Fault
from synapse_like.storage.migrations import HOME_SERVER
from synapse_like.storage.transactions import Transaction

#: Events that are looked at in one transaction, and rooms.
BATCH = 200
_PIECE = 1024 * 1024


def verify(config: Config, *, repair: bool, start: int, report: Tell, tell: Tell) -> Result:
    """Look through everything.

    :param repair: mend what is derived; only while no server runs.
    :param start: the number of the event before the first that is looked at.
    :param report: is told each fault.
    :param tell: is told how far it is.
    :raises StartError: the database cannot be opened, or is in use and something was to be mended.
    """
    with opened(engine_of(config), HOME_SERVER, command="synapse_like migrate", repair=repair) as connection:
        run = _HomeServerRun(config, connection, repair=repair, report=report, tell=tell)
        run.database()
        run.events(start)
        run.rooms()
        run.streams(stored.HIGHEST)
        run.files()
        return run.result


class _HomeServerRun(Run):
    def __init__(self, config: Config, connection: Connection, *, repair: bool, report: Tell, tell: Tell) -> None:
        super().__init__(connection, repair=repair, kinds=("events", "rooms", "files"), report=report, tell=tell)
        self._config = config

    def events(self, start: int) -> None:
        """Every event: what it says, who signed it, what allows it, what states it stands between."""
        own = load_keys(self._config, int(time.time() * 1000))
        keys = {own.signing_id: get_verify_key(own.signing)} | {key_id: old.key for key_id, old in own.old.items()}
        checking = EventVerification(self._config.server_name, keys)
        after = start
        newest = 0
        is_done = False

        def look(txn: Transaction) -> None:
            nonlocal after, newest, is_done
            newest = stored.newest_event(txn)
            checked = checking.check(txn, after, BATCH)
            self.result.looked_at["events"] += checked.count
            self.result.unsigned += checked.unsigned
            for fault in checked.faults:
                self._found(fault)
            is_done = not checked.count
            after = checked.up_to

        while not is_done:
            self._read(look)
            self._progress(f"events up to number {after} of {newest}; to go on from here later: --start {after}")

    def rooms(self) -> None:
        """Where every room stands."""
        after = 0
        while True:
            batch: list[stored.HeadRow] = []

            def look(txn: Transaction, after: int = after, batch: list[stored.HeadRow] = batch) -> None:
                batch += stored.heads_after(txn, after, BATCH)

            self._read(look)
            if not batch:
                return
            for head in batch:
                self._room(head)
            after = batch[-1].room_nid
            self._progress(f"rooms up to number {after}")

    def _room(self, before: stored.HeadRow) -> None:
        found: list[Fault] = []

        def look(txn: Transaction) -> None:
            # It may have moved since, or been purged.
            head = stored.head_of(txn, before.room_nid)
            if head is not None:
                found.extend(verification.check_room(txn, head, self._config.server_name))

        self._read(look)
        self.result.looked_at["rooms"] += 1
        for fault in found:
            self._found(fault)
        if self._repair and any(fault.is_derived for fault in found):
            self._connection.transact(verification.mend_room, before, self._config.server_name)
            wrong, found = len(found), []
            self._read(look)
            if len(found) < wrong:
                self._mended(before.room_id, wrong - len(found))

    def files(self) -> None:
        """Every file: that it is there, and is what its name says."""
        folder = ContentFolder(self._config.content_directory)
        store = ContentStore(BlockingMeans(self._connection), folder)
        differences = do_at_once(store.compare())
        faults = [Fault(name, "no row names this file", True) for name in differences.without_row]
        faults += [Fault(sha256, "the file is missing, or of another size") for sha256 in differences.without_file]
        for fault in faults:
            self._found(fault)
        for name in self._damaged(folder, set(differences.without_file)):
            self._found(Fault(name, "the file is damaged: put it back from a backup, or purge it"))
        if faults and self._repair:
            do_at_once(store.mend(differences))
            left = do_at_once(store.compare())
            mended = len(faults) - len(left.without_row) - len(left.without_file)
            if mended > 0:
                self._mended("content", mended)

    def _damaged(self, folder: ContentFolder, known: set[str]) -> Iterator[str]:
        for number in range(256):
            names: list[str] = []

            def look(txn: Transaction, number: int = number, names: list[str] = names) -> None:
                names += sorted(content.sizes_by_hash(txn, f"{number:02x}"))

            self._read(look)
            for name in names:
                self.result.looked_at["files"] += 1
                if name not in known and not _is_whole(folder, name):
                    yield name
            self._progress(f"files up to {number:02x}…")


def _is_whole(folder: ContentFolder, sha256: str) -> bool:
    try:
        descriptor = folder.open(sha256)
    except FileNotFoundError:
        # Deleted, with its row, since the row was read.
        return True
    found = hashlib.sha256()
    with open(descriptor, "rb") as file:
        while data := file.read(_PIECE):
            found.update(data)
    return found.hexdigest() == sha256
