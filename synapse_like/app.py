"""The composition root: the one place that knows all parts and puts them together.

Nothing else makes a database, a handler or a site; everything is handed what it needs, here, once.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.names.client import Resolver
from twisted.python.threadpool import ThreadPool

from synapse_like import __version__, logs
from synapse_like.background import Repeating, every, run_in_background
from synapse_like.clock import ReactorClock
from synapse_like.config import Config
from synapse_like.federation import own_keys as own_key_files
from synapse_like.federation.agent import Agent, Timeouts
from synapse_like.federation.client import FederationClient
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.federation.keyring import Keyring
from synapse_like.federation.own_keys import KeysUnusable, OwnKeys
from synapse_like.federation.resolver import ServerResolver, ServiceLookup
from synapse_like.federation.tls import CertificateUnusable, ClientTls, ServerTls
from synapse_like.handlers import rooms as room_handlers
from synapse_like.handlers import state_explanation
from synapse_like.handlers.authentication import Authentication, Requester
from synapse_like.handlers.backfill import Backfill
from synapse_like.handlers.content import ContentStore
from synapse_like.handlers.directory import Directory
from synapse_like.handlers.disclosure import Disclosure
from synapse_like.handlers.event_checks import EventChecks
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.event_stream import EventStream
from synapse_like.handlers.history import History
from synapse_like.handlers.incoming_transactions import IncomingTransactions
from synapse_like.handlers.initial_sync import InitialSync
from synapse_like.handlers.login import Login, PasswordStage, RegistrationTokenStage
from synapse_like.handlers.membership import Membership
from synapse_like.handlers.membership_requests import MembershipRequests
from synapse_like.handlers.messages import Messages
from synapse_like.handlers.missing_events import MissingEvents
from synapse_like.handlers.notifier import Notifier
from synapse_like.handlers.outside_changes import LOOK_EVERY_SECONDS, OutsideChanges
from synapse_like.handlers.passwords import Hasher, Passwords, check_strength
from synapse_like.handlers.remote_membership import RemoteMembership
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.handlers.rooms import Rooms
from synapse_like.handlers.server_keys import ServerKeys
from synapse_like.http.client.accounts import AccountEndpoints
from synapse_like.http.client.authentication import TokenAuthenticator
from synapse_like.http.client.content import ContentEndpoints, mount_content
from synapse_like.http.client.history import HistoryEndpoints
from synapse_like.http.client.membership import MembershipEndpoints
from synapse_like.http.client.messages import MessageEndpoints
from synapse_like.http.client.rooms import RoomEndpoints
from synapse_like.http.client.v1 import mount_v1
from synapse_like.http.federation.authentication import SignatureAuthenticator
from synapse_like.http.federation.keys import KeyEndpoints, mount_keys
from synapse_like.http.federation.rooms import FederatedRoomEndpoints
from synapse_like.http.federation.v1 import mount_federation
from synapse_like.http.limits import Limiter
from synapse_like.http.requests import Call
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.http.site import Site, make_site
from synapse_like.protocol.errors import NotFound, Unavailable
from synapse_like.protocol.events import StateSlot
from synapse_like.protocol.identifiers import local_part_for_registration
from synapse_like.storage import accounts, events, positions
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Connection, Database
from synapse_like.storage.engines import DatabaseInUse, DatabaseUnavailable, Engine, open_engine
from synapse_like.storage.migrations import migrate as migrate_tables

_log = logs.get_logger(__name__)

#: How long a stopping server waits for requests under way to be answered.
DRAIN_SECONDS = 10.0
#: How long its database may take to answer a server that is well.
HEALTH_SECONDS = 5.0
#: Threads that read and write uploaded files.
FILE_THREADS = 4
#: Threads that check signatures.
SIGNATURE_THREADS = 1
#: How long DNS may take to answer each of our questions, in seconds.
DNS_SECONDS = (1, 2, 4)
#: How many times as long other servers may take for what concerns a whole room.
SLOW_FACTOR = 5
#: How often events are tried again that wait for what they lack, in seconds.
WAITING_SECONDS = 20
#: How often the file of the certificate is looked at, in seconds.
CERTIFICATE_SECONDS = 60


class StartError(Exception):
    """The server cannot start; the message says why, for the operator."""


@dataclass(slots=True)
class HomeServer:
    """A running server's parts, as far as somebody must start and stop them."""

    database: Database
    thread_pools: list[ThreadPool]
    event_stream: EventStream
    site: Site[Requester]
    federation: Federation | None
    tasks: list[Repeating]


@dataclass(slots=True)
class Federation:
    """What of it other servers deal with.

    :ivar tls: None behind a proxy that does it.
    """

    agent: Agent
    site: Site[str]
    tls: ServerTls | None
    queues: DestinationQueues
    transactions: IncomingTransactions


@dataclass(slots=True)
class Speaking:
    """What asks other servers, and knows who they are.

    :ivar threads: where signatures are checked.
    """

    agent: Agent
    client: FederationClient
    keyring: Keyring
    threads: ThreadPool


def build(config: Config, reactor: Any) -> HomeServer:
    """Put a server together; its database is open, nothing runs yet.

    :param reactor: Twisted's reactor.
    :raises StartError: the database cannot be used, or the signing key cannot be read.
    """
    clock = ReactorClock(reactor)
    own_keys = load_keys(config, clock.now_ms())
    client_tls, server_tls = open_tls(config)
    bus = Bus()
    database = open_database(config, reactor, bus)
    name = config.server_name
    limits = limiter(config, clock)

    authentication = Authentication(database, bus, clock)
    passwords = Passwords(hasher(config), reactor)
    stages = [
        PasswordStage(name, database, passwords).row(),
        RegistrationTokenStage(config.registration.tokens).row(),
    ]
    login = Login(
        database,
        authentication,
        clock,
        stages,
        login_flows=config.login.flows,
        register_flows=config.registration.offered_flows(),
        session_lifetime=config.login.session_lifetime,
    )

    speaking = speak(config, reactor, clock, database, own_keys, client_tls)
    checks = EventChecks(speaking.keyring)
    locks = RoomLocks()
    persistence = EventPersistence(name)
    creation = EventCreation(name, own_keys.signing, clock, persistence)
    missing = MissingEvents(database, speaking.client, checks, persistence)

    directory = Directory(database, creation, speaking.client, name)
    membership = Membership(
        database, creation, directory, RemoteMembership(database, speaking.client, checks, creation, locks)
    )
    messages = Messages(database, creation, membership)
    rooms = Rooms(database, creation, directory, membership, name, usual_version=config.rooms.default_version)
    retransmissions = Retransmissions(database, clock)

    files = ThreadPool(0, FILE_THREADS, "files")
    content_store = ContentStore(database, clock, reactor, files, config.data_dir / "content")

    position, outside = database.prepare(_where_streams_stand)
    notifier = Notifier(database, bus, clock, position)
    event_stream = EventStream(database, notifier, bus, clock)
    history_endpoints = HistoryEndpoints(
        History(database, notifier, Backfill(database, speaking.client, checks, missing, locks, clock), clock),
        InitialSync(database, notifier),
        event_stream,
        clock,
        longest_poll_ms=config.limits.long_poll_max_ms,
    )

    mounts: list[Mount[Requester]] = [
        mount_v1(
            AccountEndpoints(login, authentication, name),
            RoomEndpoints(rooms, directory, retransmissions),
            MembershipEndpoints(membership, retransmissions),
            MessageEndpoints(messages, retransmissions),
            history_endpoints,
        ),
        mount_content(
            ContentEndpoints(content_store, name, public_url(config)), max_upload=config.limits.max_upload_bytes
        ),
        Mount("", [Route("GET", "/health", Health(database, clock).look, auth=Auth.NONE)]),
    ]
    site = make_site(
        mounts,
        authenticator=TokenAuthenticator(authentication.authenticate, lambda requester: requester.user_id),
        limiter=limits,
        clock=clock,
        max_body=config.limits.max_body_bytes,
        max_json_depth=config.limits.max_json_depth,
        max_pipelined=config.limits.max_pipelined,
        trusted_proxies=config.client.trusted_proxies,
    )

    queues = DestinationQueues(database, bus, clock, speaking.client, name)
    transactions = IncomingTransactions(
        database,
        clock,
        speaking.client,
        checks,
        persistence,
        missing,
        locks,
        edus={},
        heard_from=queues.heard_from,
    )
    federation_mounts: list[Mount[str]] = [
        mount_keys(KeyEndpoints(ServerKeys(own_keys, speaking.keyring, clock))),
        *mount_federation(
            FederatedRoomEndpoints(
                name,
                clock,
                transactions,
                MembershipRequests(database, checks, creation),
                Disclosure(database, directory, name),
            )
        ),
    ]
    federation_site = make_site(
        federation_mounts,
        authenticator=SignatureAuthenticator(speaking.keyring, limits),
        limiter=limits,
        clock=clock,
        max_body=config.limits.max_body_bytes,
        max_json_depth=config.limits.max_json_depth,
        max_pipelined=config.limits.max_pipelined,
        trusted_proxies=config.client.trusted_proxies,
    )

    outside_changes = OutsideChanges(database, notifier, authentication, event_stream, seen=outside)

    async def drop_idle_watchers() -> None:
        notifier.drop_idle()

    tasks = [
        every(clock, "outside-changes", LOOK_EVERY_SECONDS, outside_changes.look),
        every(clock, "forget-deleted", 5, database.forget_what_is_left),
        every(clock, "drop-idle-watchers", 60, drop_idle_watchers),
        every(clock, "forget-retransmissions", 3600, retransmissions.forget_old),
        every(clock, "forget-transactions", 3600, transactions.forget_old),
        every(clock, "retry-waiting-events", WAITING_SECONDS, transactions.retry_waiting),
        every(clock, "expire-login-sessions", 600, login.forget_expired_sessions),
    ]
    if server_tls is not None:
        tasks.append(every(clock, "renewed-certificate", CERTIFICATE_SECONDS, server_tls.look))
    return HomeServer(
        database,
        [passwords.threads, files, speaking.threads],
        event_stream,
        site,
        Federation(speaking.agent, federation_site, server_tls, queues, transactions)
        if config.federation.enabled
        else None,
        tasks,
    )


def _where_streams_stand(connection: Connection) -> tuple[int, int]:
    """The newest position of the stream of events, and the count of changes by commands."""
    return (
        connection.transact(events.current_position),
        connection.transact(positions.current, positions.OUTSIDE),
    )


class Health:
    """Whether the server serves: it answers, and so does its database."""

    def __init__(self, database: Database, clock: ReactorClock) -> None:
        self._database = database
        self._clock = clock

    async def look(self, call: Call[Requester]) -> object:
        """200 if all is well.

        :raises Unavailable: the database does not answer, or not in time.
        """
        answer = self._database.read("health", events.current_position)
        timer = self._clock.call_later(HEALTH_SECONDS, answer.cancel)
        try:
            await answer
        except CancelledError as error:
            raise Unavailable("The server's database does not answer.") from error
        finally:
            if timer.active():
                timer.cancel()
        return {"status": "ok"}


def public_url(config: Config) -> str:
    """The address by which clients reach the server."""
    if config.client.public_url is not None:
        return config.client.public_url.rstrip("/")
    address = ip_address(config.client.bind[0])
    if address.is_unspecified:
        # Every address of this machine: its name should lead to one of them.
        host = config.server_name.rpartition(":")[0] or config.server_name
        return f"http://{host}:{config.client.port}"
    return _url(str(address), config.client.port)


def limiter(config: Config, clock: ReactorClock) -> Limiter:
    """The rate limits of the configuration."""
    classes = {name: (rate.per_second, rate.burst) for name, rate in config.rate_limits.classes}
    return Limiter(classes, clock.monotonic, enabled=config.rate_limits.enabled)


def hasher(config: Config) -> Hasher:
    """The password hashing of the configuration."""
    cost = config.password_hashing
    return Hasher(memory_kib=cost.memory_kib, iterations=cost.iterations, parallelism=cost.parallelism)


def load_keys(config: Config, now_ms: int) -> OwnKeys:
    """The server's signing keys.

    :raises StartError: there is none.
    """
    try:
        return own_key_files.load(config.signing_key_file, config.server_name, now_ms)
    except KeysUnusable as error:
        raise StartError(str(error)) from error


def open_tls(config: Config) -> tuple[ClientTls, ServerTls | None]:
    """TLS towards other servers, for asking and for answering.

    :raises StartError: a certificate cannot be used.
    """
    federation = config.federation
    try:
        client = ClientTls(
            ca_file=federation.ca_file if federation.enabled else None,
            verify=federation.verify_certificates,
            unverified_servers=federation.unverified_servers,
        )
        if not federation.enabled or not federation.tls:
            return client, None
        return client, ServerTls(config.tls_certificate, config.tls_private_key)
    except CertificateUnusable as error:
        raise StartError(f"{error}. To have a certificate made, run `synapse_like init` again.") from error


def speak(
    config: Config, reactor: Any, clock: ReactorClock, database: Database, own_keys: OwnKeys, tls: ClientTls
) -> Speaking:
    """Put together what asks other servers."""
    federation = config.federation
    lookup: ServiceLookup = Resolver(resolv="/etc/resolv.conf", timeout=DNS_SECONDS, reactor=reactor)  # type: ignore[no-untyped-call]  # Twisted's
    agent = Agent(
        reactor,
        ServerResolver(lookup, clock),
        tls,
        enabled=federation.enabled,
        allow_private_addresses=federation.allow_private_addresses,
        timeouts=timeouts(config),
        user_agent=f"synapse_like/{__version__}",
    )
    client = FederationClient(agent, config.server_name, own_keys.signing, slow=timeouts(config, slow=True))
    threads = ThreadPool(0, SIGNATURE_THREADS, "signatures")
    keyring = Keyring(
        own_keys,
        client,
        database,
        clock,
        reactor,
        threads,
        accept_relayed=federation.accept_relayed_keys,
        trusted_key_servers=federation.trusted_key_servers,
    )
    return Speaking(agent, client, keyring, threads)


def timeouts(config: Config, *, slow: bool = False) -> Timeouts:
    """How long other servers may take; longer for what concerns a whole room."""
    federation = config.federation
    factor = SLOW_FACTOR if slow else 1
    return Timeouts(federation.connect_timeout, federation.answer_timeout * factor, federation.body_timeout * factor)


def engine_of(config: Config) -> Engine:
    """The database engine of the configuration.

    :raises StartError: its driver is missing.
    """
    try:
        return open_engine(config.database.url, data_dir=config.data_dir, durability=config.database.durability)
    except DatabaseUnavailable as error:
        raise StartError(str(error)) from error


def open_database(config: Config, reactor: Any, bus: Bus) -> Database:
    """Open the server's database and bring its tables up to date.

    :raises StartError: another server runs on it, it cannot be opened, or it is newer than this program.
    """
    try:
        database = Database(engine_of(config), reactor, bus, readers=config.database.readers)
    except (DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(str(error)) from error
    try:
        database.prepare(migrate_tables)
    except DatabaseUnavailable as error:
        database.stop()
        raise StartError(str(error)) from error
    return database


class HomeServerService(Service):
    """A home server as a Twisted service.

    :param reactor: Twisted's reactor.
    :param tell: is told, in a sentence, where the server listens once it does.
    """

    name = "synapse_like"

    def __init__(self, config: Config, reactor: Any, tell: Callable[[str], object]) -> None:
        self._config = config
        self._reactor = reactor
        self._tell = tell
        self._server: HomeServer | None = None
        self._ports: list[IListeningPort] = []

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        """Open everything and listen.

        :raises StartError: something stands in the way.
        """
        server = self._server = build(self._config, self._reactor)
        server.database.start()
        for pool in server.thread_pools:
            pool.start()
        for task in server.tasks:
            task.start()
        try:
            self._listen(server)
        except CannotListenError as error:
            server.database.stop()
            raise StartError(f"cannot listen on {error.interface} port {error.port}: {error.socketError}") from error
        if server.federation is not None:
            run_in_background("queues", server.federation.queues.start)
            run_in_background("waiting-events", server.federation.transactions.retry_waiting)
        super().startService()  # type: ignore[no-untyped-call]  # Twisted leaves it untyped

    def _listen(self, server: HomeServer) -> None:
        config = self._config
        for address in config.client.bind:
            port = self._reactor.listenTCP(config.client.port, server.site, backlog=511, interface=address)
            self._ports.append(port)
        where = " and ".join(_url(address, config.client.port) for address in config.client.bind)
        self._tell(f"{config.server_name} listens for clients at {where}")
        federation = server.federation
        if federation is None:
            return
        factory: Any = federation.site
        if federation.tls is not None:
            factory = federation.tls.wrap(federation.site, self._reactor)
        scheme = "http" if federation.tls is None else "https"
        for address in config.federation_bind:
            port = self._reactor.listenTCP(config.federation.port, factory, backlog=511, interface=address)
            self._ports.append(port)
        where = " and ".join(_url(address, config.federation.port, scheme) for address in config.federation_bind)
        self._tell(f"{config.server_name} listens for other servers at {where}")

    def stopService(self) -> Deferred[None]:  # noqa: N802 - Twisted's name
        """Take no new requests, answer the waiting ones, finish what is under way, close everything."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted leaves it untyped
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        server, self._server = self._server, None
        if server is None:
            return
        await DeferredList([_stopped(port) for port in self._ports])
        server.event_stream.close()
        drained = [Deferred.fromCoroutine(server.site.drain(DRAIN_SECONDS))]
        if server.federation is not None:
            drained.append(Deferred.fromCoroutine(server.federation.site.drain(DRAIN_SECONDS)))
        await DeferredList(drained)
        for task in server.tasks:
            await task.stop()
        if server.federation is not None:
            await server.federation.queues.stop()
            await server.federation.agent.close()
        for pool in server.thread_pools:
            pool.stop()
        server.database.stop()
        _log.info("the server has stopped")


def _stopped(port: IListeningPort) -> Deferred[Any]:
    stopped: Deferred[Any] = Deferred()
    result = port.stopListening()
    if result is None:
        stopped.callback(None)
        return stopped
    return result


def _url(address: str, port: int, scheme: str = "http") -> str:
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


class _TwistdService(HomeServerService):
    """The same under `twistd`, which would go on without a service that cannot start."""

    def startService(self) -> None:  # noqa: N802 - Twisted's name
        try:
            super().startService()
        except StartError as error:
            raise SystemExit(f"Error: {error}") from error


def make_service(config: Config) -> HomeServerService:
    """The service for `twistd`, whose log is Twisted's."""
    from twisted.internet import reactor

    logs.configure(config.log.format, config.log.level, adopt_twisted=False)
    return _TwistdService(config, reactor, _log.info)


def _allow_many_connections() -> None:
    """Take all the open files that the system grants: each long poll is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(config: Config, tell: Callable[[str], object]) -> int:
    """Run a server until it is told to stop; the exit code.

    :param tell: is told, in a sentence, where the server listens.
    :raises StartError: it cannot start.
    """
    from twisted.internet import reactor

    logs.configure(config.log.format, config.log.level)
    _allow_many_connections()
    service = HomeServerService(config, reactor, tell)
    service.startService()
    loop: Any = reactor
    loop.addSystemEventTrigger("before", "shutdown", service.stopService)
    loop.run()
    return 0


# What the commands do to a database, whether the server runs at the moment or not.


def _connect(config: Config) -> Connection:
    try:
        connection = Connection(engine_of(config), outside=True)
    except DatabaseUnavailable as error:
        raise StartError(str(error)) from error
    try:
        migrate_tables(connection)
    except DatabaseUnavailable as error:
        connection.close()
        raise StartError(str(error)) from error
    return connection


def migrate(config: Config) -> str:
    """Bring the tables up to date; a sentence about what was done.

    :raises StartError: a server is running on the database, or it cannot be opened.
    """
    try:
        connection = Connection(engine_of(config), exclusive=True)
        try:
            steps = migrate_tables(connection)
        finally:
            connection.close()
    except (DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(str(error)) from error
    if not steps:
        return "The database is up to date."
    return "Applied " + ", ".join(f"{step.number:04} {step.name}" for step in steps) + "."


def register_user(config: Config, user: str, password: str, admin: bool) -> str:
    """Make an account; its user ID.

    :raises StartError: the database cannot be opened.
    :raises MatrixError: the name is taken or not allowed, or the password is too short.
    """
    from synapse_like.protocol.errors import UserInUse

    check_strength(password)
    user_id = f"@{local_part_for_registration(user, config.server_name)}:{config.server_name}"
    password_hash = hasher(config).hash(password)
    connection = _connect(config)
    try:
        made = connection.transact(
            accounts.create, user_id, password_hash=password_hash, is_admin=admin, now_ms=_now_ms()
        )
    finally:
        connection.close()
    if not made:
        raise UserInUse(f"The user ID {user_id} is taken.")
    return user_id


def reset_password(config: Config, user: str, password: str) -> None:
    """Give a user another password and log them out everywhere.

    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such user, or the password is too short.
    """
    check_strength(password)
    user_id = f"@{local_part_for_registration(user, config.server_name)}:{config.server_name}"
    password_hash = hasher(config).hash(password)
    connection = _connect(config)
    try:
        if not connection.transact(accounts.replace_password, user_id, password_hash):
            raise NotFound(f"There is no user {user_id}.")
    finally:
        connection.close()


def explain_state(config: Config, room_id: str, slot: StateSlot | None) -> str:
    """Why the state of a room is what it is, in lines.

    :param slot: the one piece of state that is asked for; None for all of it.
    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such room or state.
    """
    connection = _connect(config)
    try:
        return "\n".join(connection.transact(state_explanation.explain, room_id, slot))
    finally:
        connection.close()


def purge_room(config: Config, room_id: str, force: bool) -> str:
    """Delete a room with everything in it; a sentence about what was deleted.

    :param force: also if users of this server are still in it.
    :raises StartError: the database cannot be opened.
    :raises MatrixError: there is no such room, or somebody is still in it.
    """
    connection = _connect(config)
    try:
        deleted = connection.transact(room_handlers.purge, room_id, server_name=config.server_name, force=force)
        connection.engine.forget_deleted(connection.raw)
    finally:
        connection.close()
    return f"Purged {room_id} with {deleted} events."


def _now_ms() -> int:
    import time

    return int(time.time() * 1000)
