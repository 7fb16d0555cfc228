"""PostgreSQL: a server elsewhere, on which several processes may write, and which may stop answering."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from synapse_like.storage.engines.engine import (
    BUSY_SECONDS,
    MOST_STATEMENTS,
    DatabaseInUse,
    DatabaseUnavailable,
    Identity,
    Query,
    RawConnection,
    Row,
)
from synapse_like.storage.watching import Watch

if TYPE_CHECKING:
    from synapse_like.storage.engines.postgresql_messages import MessageConnection

#: The lock that each server has on its database: for itself, or together with others. Any constant will do, as long as
#: every server uses the same one.
SERVERS = 0x53594E4C

#: The first half of the locks by which servers that share a database tell who they are; the second is their number.
IDENTITIES = 0x53594E49
#: Where processes that share a PostgreSQL are told something.
CHANNEL = "synapse_like"
#: How many bytes PostgreSQL tells at once.
LONGEST_NOTICE = 7900

#: How long a server that starts waits for the one before it to be gone.
CLAIM_SECONDS = 2
#: How long to wait for the connection to each of several servers that the database may be on.
ONE_OF_SEVERAL_SECONDS = 4
#: After how many seconds the other end of a connection is given up that does not answer any more; what it held is free
#: then.
GIVEN_UP_SECONDS = 12
#: How long a process that shares a database may do nothing in the middle of a transaction, in seconds, before that is
#: ended. A process that was stopped, or hangs, would keep all others from writing.
LONGEST_THOUGHT = 30
#: How often is looked whether those who wait for an answer wait in vain, in seconds; after how many looks the
#: database's server is asked whether it is there, and how long it may take to say so.
LOOK_EVERY_SECONDS, PATIENT_LOOKS, PING_SECONDS = 3.0, 3, 5

#: A connection that is silent is asked whether it stands, by us and by PostgreSQL; over TCP, else that is known. What
#: a process holds must not be held for ever by a connection whose other end is gone, and nobody wait for one.
_KEPT_ALIVE = {
    "keepalives": 1,
    "keepalives_idle": GIVEN_UP_SECONDS // 2,
    "keepalives_interval": 2,
    "keepalives_count": GIVEN_UP_SECONDS // 4,
    "tcp_user_timeout": GIVEN_UP_SECONDS * 1000,
}
_KEPT_ALIVE_THERE = {
    "tcp_keepalives_idle": GIVEN_UP_SECONDS // 2,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": GIVEN_UP_SECONDS // 4,
    "tcp_user_timeout": GIVEN_UP_SECONDS * 1000,
}
#: How texts stand in a message of several statements, whatever is usual for the role and the database.
_WRITTEN_SO = {"standard_conforming_strings": "on", "client_encoding": "UTF8"}
#: Has a commit wait for the disk; more than that, or less for replicas, is the operator's to say.
_LASTING = (
    "CASE current_setting('synchronous_commit') WHEN 'off' THEN set_config('synchronous_commit', 'on', false) END"
)
#: Locks that last as long as the transaction.
_LOCK, _TRY_LOCK = (
    "SELECT pg_advisory_xact_lock(CAST(? AS BIGINT))",
    "SELECT pg_try_advisory_xact_lock(CAST(? AS BIGINT))",
)
#: What a client says that wants to know whether there is TLS: its length and a number. A letter is answered.
_IS_THERE_TLS = struct.pack("!II", 8, 80877103)


def _opened(host: str, address: str, port: int) -> socket.socket:
    """A new connection to a PostgreSQL, to which nothing has been said.

    :param host: as libpq has it: a name, or the folder of a Unix socket.
    :param address: of the host, if it is known.
    :raises OSError: there is none, or not in time.
    """
    if not host.startswith("/"):
        return socket.create_connection((address or host, port), PING_SECONDS)
    opened = socket.socket(socket.AF_UNIX)
    try:
        opened.settimeout(PING_SECONDS)
        opened.connect(f"{host}/.s.PGSQL.{port}")
    except OSError:
        opened.close()
        raise
    return opened


class PostgresEngine:
    """PostgreSQL by psycopg 3.

    :param url: a libpq connection URL, ``postgresql://user:password@host/database``.
    :param durability: ``full`` waits for the disk at every commit, whatever is usual for the role and the database;
        ``normal`` leaves that to them.
    :param identity: which server shares the database; None if it is not to be told from others.
    """

    name = "postgresql"
    for_update = " FOR UPDATE"
    size_query = "SELECT pg_database_size(current_database())"
    can_be_shared = True
    gathers = True

    #: The lock of the one who has stepped aside from the others.
    _APART = 0x53594E41

    def __init__(self, url: str, durability: str = "full", identity: Identity | None = None) -> None:
        try:
            import psycopg

            from synapse_like.storage.engines.postgresql_messages import MessageConnection
        except ImportError as error:
            raise DatabaseUnavailable(
                "the database is PostgreSQL but its driver is missing: pip install 'synapse_like[postgres]'"
            ) from error
        self._psycopg = psycopg
        self._connect: Callable[..., MessageConnection] = MessageConnection.connect
        self._url = url
        self._has_to_last = durability == "full"
        self._identity = identity
        self._watch = Watch(
            self._waits_for_answer, self._is_there, self._cut, every=LOOK_EVERY_SECONDS, patience=PATIENT_LOOKS
        )
        self.connection_errors: tuple[type[Exception], ...] = (
            psycopg.OperationalError,
            psycopg.InterfaceError,
        )
        self.database_errors: tuple[type[Exception], ...] = (psycopg.Error,)
        self.passing_errors: tuple[type[Exception], ...] = (
            psycopg.errors.DeadlockDetected,
            psycopg.errors.SerializationFailure,
            psycopg.errors.UniqueViolation,
            # This process stood still for long, and others went on.
            psycopg.errors.IdleInTransactionSessionTimeout,
        )

    def connect(self, *, exclusive: bool, shared: bool = False) -> RawConnection:
        there = {**_KEPT_ALIVE_THERE, **_WRITTEN_SO}
        if shared:
            there["idle_in_transaction_session_timeout"] = LONGEST_THOUGHT * 1000
        try:
            connection = self._connect(self._url, autocommit=True, prepare_threshold=2, **self._usual())
            sets = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in there.items())
            if self._has_to_last:
                sets += f", {_LASTING}"
            try:
                connection.execute(f"SELECT {sets}")
            except BaseException:
                connection.close()
                raise
        except self._psycopg.Error as error:
            raise DatabaseUnavailable(
                f"cannot connect to PostgreSQL ({self._safe_url()}): {str(error).strip()}"
            ) from error
        connection.prepared_max = MOST_STATEMENTS
        self._watch.add(connection)
        if exclusive:
            self._claim(connection, shared=shared)
        return connection

    def _usual(self) -> dict[str, Any]:
        """What is wanted of a connection if the URL does not say otherwise."""
        given = self._psycopg.conninfo.conninfo_to_dict(self._url)
        hosts = str(given.get("hostaddr") or given.get("host") or "")
        usual: dict[str, Any] = {
            **_KEPT_ALIVE,
            "connect_timeout": ONE_OF_SEVERAL_SECONDS if "," in hosts else BUSY_SECONDS,
            # A replica would answer, but take nothing.
            "target_session_attrs": "read-write",
        }
        return {name: value for name, value in usual.items() if name not in given}

    def _claim(self, connection: RawConnection, *, shared: bool) -> None:
        """Be the only server on the database, or one of those that share it.

        It is waited for a little: the connection of a server that has just ended, or was killed, lives on for a moment.
        """
        try:
            self._lock(connection, "pg_advisory_lock_shared" if shared else "pg_advisory_lock")
            if shared and self._identity is not None:
                self._tell_who(connection, self._identity)
        except DatabaseInUse:
            connection.close()
            raise

    def _tell_who(self, connection: RawConnection, identity: Identity) -> None:
        """Say who shares the database from now on, and see that the others are the same server.

        :raises DatabaseInUse: one is not.
        """
        connection.execute(
            "SELECT pg_advisory_lock_shared(CAST(%s AS INTEGER), CAST(%s AS INTEGER))", (IDENTITIES, identity.number)
        )
        deadline = time.monotonic() + CLAIM_SECONDS
        while not self._who_shares(connection) <= identity.accepted:
            if time.monotonic() >= deadline:
                raise DatabaseInUse(
                    f"another server is running on the database {self._safe_url()}: its name or its signing key is"
                    " not the same. If both are to be one server, give this one the same `server_name`, and copies of"
                    " the other's `signing.key` and `signing.key.old`; if not, give it a database of its own"
                )
            time.sleep(0.1)

    def _who_shares(self, connection: RawConnection) -> set[int]:
        rows = connection.execute(
            "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = %s AND objsubid = 2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (IDENTITIES,),
        ).fetchall()
        return {row[0] for row in rows}

    @contextlib.contextmanager
    def apart(self, connection: RawConnection) -> Iterator[Callable[[], None]]:
        # Of two who hold a share while they wait to be alone, each would wait for the other.
        connection.execute("SELECT pg_advisory_unlock_shared(%s)", (SERVERS,))
        connection.execute("SELECT pg_advisory_lock(%s)", (self._APART,))
        is_alone = False

        def be_alone() -> None:
            nonlocal is_alone
            self._lock(connection, "pg_advisory_lock")
            is_alone = True

        try:
            yield be_alone
        finally:
            # Nobody comes in between: what one holds oneself is no hindrance.
            self._lock(connection, "pg_advisory_lock_shared")
            if is_alone:
                connection.execute("SELECT pg_advisory_unlock(%s)", (SERVERS,))
            connection.execute("SELECT pg_advisory_unlock(%s)", (self._APART,))

    def _lock(self, connection: RawConnection, lock: str) -> None:
        """Take the lock by which servers claim the database, in one way or another.

        :raises DatabaseInUse: others have it.
        """
        try:
            connection.execute(f"SET lock_timeout = '{CLAIM_SECONDS}s'")
            connection.execute(f"SELECT {lock}(%s)", (SERVERS,))
        except self._psycopg.errors.LockNotAvailable as error:
            raise DatabaseInUse(self._who_holds(connection, wanted=lock)) from error
        finally:
            connection.execute("RESET lock_timeout")

    def _who_holds(self, connection: RawConnection, *, wanted: str) -> str:
        """Why the database cannot be had, in a sentence."""
        modes = connection.execute(
            "SELECT mode FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 0 AND objid = %s"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (SERVERS,),
        ).fetchall()
        if wanted == "pg_advisory_lock_shared":
            return (
                f"another server is running on the database {self._safe_url()} and does not share it, or a command"
                " needs it alone"
            )
        if ("ShareLock",) in modes:
            return f"servers that share the database {self._safe_url()} are running on it: stop all of them first"
        return f"another server is running on the database {self._safe_url()}"

    def _safe_url(self) -> str:
        parts = urlsplit(self._url)
        hosts = parts.netloc.rpartition("@")[2]
        return f"{hosts if ',' in hosts else parts.hostname or 'local socket'}{parts.path}"

    @staticmethod
    @lru_cache(maxsize=1024)
    def _adapt(sql: str) -> str:
        return (
            sql.replace("%", "%%")
            .replace("?", "%s")
            .replace("LASTING_KEY", "AUTO_KEY")
            .replace("AUTO_KEY", "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY")
            .replace("BYTES", "BYTEA")
            .replace("WITHOUT ROWID", "")
        )

    def adapt(self, sql: str) -> str:
        return self._adapt(sql)

    def is_refusal(self, error: Exception) -> bool:
        # One that ends the connection may come after the commit.
        return isinstance(error, self._psycopg.Error) and error.diag.severity_nonlocalized == "ERROR"

    def roll_back(self, connection: RawConnection) -> None:
        # Past the driver, which would forget all statements that it has ready, for fear of tables that are gone by it.
        raw: Any = connection
        with contextlib.suppress(self._psycopg.Error):
            raw.pgconn.exec_(b"ROLLBACK")

    def release(self) -> None:
        """The claim ends with the connection."""

    def forget_deleted(self, connection: RawConnection) -> bool:
        """Dead row versions are PostgreSQL's to overwrite: autovacuum frees them, later rows take their place."""
        return True

    @property
    def path(self) -> Path | None:
        return None

    # Messages of a transaction.

    def begin(self, connection: RawConnection, *, writable: bool) -> None:
        _messages(connection).together(["BEGIN" if writable else "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"])

    def ask(
        self,
        connection: RawConnection,
        queries: Sequence[Query],
        *,
        begins: bool = False,
        needed: Sequence[int] = (),
        wanted: Sequence[int] = (),
    ) -> tuple[list[list[Row]], set[int]]:
        raw = _messages(connection)
        # Each statement of the message sees what was committed when its turn comes: the last, after all locks are held.
        parts = ["BEGIN"] if begins else []
        parts += [raw.ready(_LOCK, [number]) for number in needed]
        parts += [raw.ready(_TRY_LOCK, [number]) for number in wanted]
        parts += [raw.ready(sql, values) for sql, values in queries]
        found = raw.together(parts)[begins + len(needed) :]
        held = {number for number, [(is_held,)] in zip(wanted, found, strict=False) if is_held}
        return found[len(wanted) :], held

    def write_and_commit(self, connection: RawConnection, statements: Sequence[Query]) -> None:
        raw = _messages(connection)
        raw.commit_with([raw.ready(sql, values) for sql, values in statements])

    # What those who share it keep from each other.

    def release_locks(self, connection: RawConnection, locks: Sequence[int]) -> None:
        connection.execute(
            "SELECT pg_advisory_unlock(number) FROM unnest(CAST(%s AS BIGINT[])) AS number", (list(locks),)
        )

    def try_locks(self, connection: RawConnection, locks: Sequence[int]) -> set[int]:
        rows = connection.execute(
            "SELECT number, pg_try_advisory_lock(number) FROM unnest(CAST(%s AS BIGINT[])) AS number", (list(locks),)
        ).fetchall()
        return {number for number, is_held in rows if is_held}

    def end_if_silent(self, connection: RawConnection, seconds: float) -> None:
        [(version,)] = connection.execute("SHOW server_version_num").fetchall()
        if int(version) >= 140000:
            connection.execute(f"SET idle_session_timeout = {round(seconds * 1000)}")

    # What those who share it tell each other.

    def listen(self, connection: RawConnection) -> None:
        connection.execute(f"LISTEN {CHANNEL}")

    def notices(self, connection: RawConnection, seconds: float) -> list[str]:
        said = self._said(connection)
        if said or not seconds:
            return said
        # The driver would wake ten times in a second, for a signal that only the main thread gets.
        raw: Any = connection
        poll = select.poll()
        poll.register(raw.fileno(), select.POLLIN)
        return self._said(connection) if poll.poll(seconds * 1000) else []

    @staticmethod
    def _said(connection: RawConnection) -> list[str]:
        """What has been said by now."""
        raw: Any = connection
        return [notice.payload for notice in raw.notifies(timeout=0, stop_after=1)]

    def notify(self, connection: RawConnection, text: str = "") -> None:
        connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, text))

    # For the watch: on its thread, while another one waits.

    def _waits_for_answer(self, connection: Any) -> bool:
        return bool(connection.pgconn.transaction_status == self._psycopg.pq.TransactionStatus.ACTIVE)

    def _is_there(self, connection: Any) -> bool:
        """Whether the server that a connection leads to answers, be it to say that it has no time."""
        try:
            info = connection.info
            host, address, port = info.host, info.hostaddr, info.port
        except self._psycopg.Error:
            # It has been closed meanwhile.
            return True
        try:
            with _opened(host, address, port) as asking:
                asking.sendall(_IS_THERE_TLS)
                return bool(asking.recv(1))
        except OSError:
            return False

    def _cut(self, connection: Any) -> None:
        with (
            contextlib.suppress(OSError, self._psycopg.Error),
            socket.fromfd(connection.pgconn.socket, socket.AF_UNIX, socket.SOCK_STREAM) as same,
        ):
            same.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        self._watch.start()
        try:
            yield
        finally:
            self._watch.stop()

    # Faults are seldom looked for: what looks for them is loaded then.

    def faults(self, connection: RawConnection, *, thorough: bool = False) -> list[str]:
        from synapse_like.storage.engines import postgresql_faults

        return postgresql_faults.faults(connection, thorough=thorough)

    def risks(self, connection: RawConnection) -> list[str]:
        from synapse_like.storage.engines import postgresql_faults

        return postgresql_faults.risks(connection)

    def left_out(self, connection: RawConnection) -> list[str]:
        from synapse_like.storage.engines import postgresql_faults

        return postgresql_faults.left_out(connection)

    def make_indexes_anew(self, connection: RawConnection) -> None:
        from synapse_like.storage.engines import postgresql_faults

        postgresql_faults.make_indexes_anew(connection)


def _messages(connection: RawConnection) -> MessageConnection:
    """A connection that `connect` has made, as what it is."""
    return connection  # type: ignore[return-value]
