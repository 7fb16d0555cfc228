"""Looking through everything a home server keeps, and mending what can be derived (`synapse_like verify`)."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from signedjson.key import get_verify_key

from synapse_like.app.content import BlockingMeans, do_at_once
from synapse_like.app.errors import StartError
from synapse_like.app.parts import engine_of, load_keys
from synapse_like.config import Config
from synapse_like.handlers import verification
from synapse_like.handlers.content_store import ContentStore
from synapse_like.handlers.verification import EventVerification, Fault
from synapse_like.storage import content, migrations
from synapse_like.storage import verification as stored
from synapse_like.storage.content_files import ContentFolder
from synapse_like.storage.database import Connection, Transaction
from synapse_like.storage.engines import DatabaseInUse, DatabaseUnavailable

#: Events that are looked at in one transaction, and rooms.
BATCH = 200
#: Seconds between two words on how far it is.
TELL_SECONDS = 5.0
_PIECE = 1024 * 1024

Tell = Callable[[str], object]


@dataclass(slots=True)
class Result:
    """What came of it.

    :ivar faults: how many there were, and are not mended.
    """

    events: int = 0
    rooms: int = 0
    files: int = 0
    unsigned: int = 0
    faults: int = 0
    mended: int = 0

    def sentence(self) -> str:
        """For the operator."""
        text = f"Looked at {self.events} events, {self.rooms} rooms and {self.files} files: {self.faults} faults"
        text += f", {self.mended} more mended." if self.mended else "."
        if self.unsigned:
            text += f" Of {self.unsigned} events the signer's key is not known here, so that nobody can tell."
        return text


def verify(config: Config, *, repair: bool, start: int, report: Tell, tell: Tell) -> Result:
    """Look through everything.

    :param repair: mend what is derived; only while no server runs.
    :param start: the number of the event before the first that is looked at.
    :param report: is told each fault.
    :param tell: is told how far it is.
    :raises StartError: the database cannot be opened, or is in use and something was to be mended.
    """
    try:
        connection = Connection(engine_of(config), exclusive=repair, outside=True)
    except (DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(str(error)) from error
    try:
        if migrations.newest_applied(connection) != migrations.steps()[-1].number:
            raise StartError("the database is of another version of this program: run `synapse_like migrate` first")
        run = _Run(config, connection, repair, report, tell)
        run.database()
        run.events(start)
        run.rooms()
        run.streams()
        run.files()
        return run.result
    finally:
        connection.close()


class _Run:
    def __init__(self, config: Config, connection: Connection, repair: bool, report: Tell, tell: Tell) -> None:
        self._config = config
        self._connection = connection
        self._repair = repair
        self._report = report
        self._tell = tell
        self._told_at = time.monotonic()
        self.result = Result()

    def _found(self, fault: Fault) -> None:
        mendable = " (can be mended by --repair)" if fault.is_derived else ""
        self._report(f"{fault.where}: {fault.sentence}{mendable}")
        self.result.faults += 1

    def _mended(self, where: str, number: int = 1) -> None:
        self._report(f"{where}: mended")
        self.result.faults -= number
        self.result.mended += number

    def _progress(self, sentence: str) -> None:
        if time.monotonic() - self._told_at >= TELL_SECONDS:
            self._tell(sentence)
            self._told_at = time.monotonic()

    def _read(self, function: Callable[[Transaction], object]) -> None:
        """Read in a transaction of its own; what it has put into memory may be wrong for the next one."""
        txn = self._connection.begin(writable=False)
        try:
            function(txn)
        finally:
            self._connection.roll_back(txn)
            self._connection.caches.clear()

    def database(self) -> None:
        """What the database itself finds."""
        self._tell("looking at the database's files and indexes")
        engine, raw = self._connection.engine, self._connection.raw
        faults = engine.faults(raw, thorough=True)
        for fault in faults:
            self._found(Fault("database", fault, "index" in fault))
        if faults and self._repair:
            engine.make_indexes_anew(raw)
            left = len(engine.faults(raw, thorough=True))
            if left < len(faults):
                self._mended("database", len(faults) - left)

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
            self.result.events += checked.count
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
        self.result.rooms += 1
        for fault in found:
            self._found(fault)
        if self._repair and any(fault.is_derived for fault in found):
            self._connection.transact(verification.mend_room, before, self._config.server_name)
            wrong, found = len(found), []
            self._read(look)
            if len(found) < wrong:
                self._mended(before.room_id, wrong - len(found))

    def streams(self) -> None:
        """Where every stream stands."""
        found: list[Fault] = []
        self._read(lambda txn: found.extend(verification.check_streams(txn)))
        for fault in found:
            self._found(fault)
        if found and self._repair:
            self._connection.transact(verification.mend_streams)
            self._mended("streams", len(found))

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
                self.result.files += 1
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
