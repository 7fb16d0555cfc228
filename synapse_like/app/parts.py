"""The parts of a server that need nothing but the settings, each made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeVar

from signedjson.key import encode_verify_key_base64, get_verify_key
from signedjson.types import VerifyKey
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort

from synapse_like.app.errors import StartError
from synapse_like.authorities import AuthoritiesUnusable
from synapse_like.clock import ReactorClock
from synapse_like.config import Config, MailHandOver
from synapse_like.federation import own_keys as own_key_files
from synapse_like.federation.agent import Timeouts
from synapse_like.federation.own_keys import KeysUnusable, OwnKeys
from synapse_like.federation.tls import CertificateUnusable, ClientTls, ServerTls
from synapse_like.handlers.passwords import Hasher
from synapse_like.http.authentication import Authenticator
from synapse_like.http.budget import Budget
from synapse_like.http.limits import Limiter
from synapse_like.http.routing import Mount
from synapse_like.http.shared_limits import SharedBuckets, SharedLimiter
from synapse_like.http.site import Answered, Bounds, Site, make_site
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine, Identity
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.jobs import Timings
from synapse_like.storage.migrations import migrate as migrate_tables
from synapse_like.storage.migrations import migrate_among_others
from synapse_like.storage.shared.machine import Machine

if TYPE_CHECKING:
    from synapse_like.mail import Letters, Mailer

R = TypeVar("R")

#: How many times as long other servers may take for what concerns a whole room.
SLOW_FACTOR = 5


def limiter(
    config: Config,
    clock: ReactorClock,
    rates: Mapping[str, tuple[float, int]],
    buckets: SharedBuckets | None = None,
) -> Limiter:
    """The rate limits of the configuration.

    :param rates: by class; they are looked at each time.
    :param buckets: what several processes count in together.
    """
    if buckets is not None:
        return SharedLimiter(rates, buckets, enabled=config.rate_limits.enabled)
    return Limiter(rates, clock.monotonic, enabled=config.rate_limits.enabled)


def site(
    config: Config,
    clock: ReactorClock,
    limits: Limiter,
    budget: Budget,
    mounts: Iterable[Mount[R]],
    authenticator: Authenticator[R],
    answered: Answered | None = None,
) -> Site[R]:
    """A site of some routes, with the limits of the configuration."""
    settings = config.limits
    return make_site(
        mounts,
        authenticator=authenticator,
        limiter=limits,
        clock=clock,
        bounds=Bounds(
            max_body=settings.max_body_bytes,
            max_json_depth=settings.max_json_depth,
            max_pipelined=settings.max_pipelined,
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
        ),
        budget=budget,
        trusted_proxies=config.client.trusted_proxies,
        answered=answered,
    )


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


def timeouts(config: Config, *, slow: bool = False) -> Timeouts:
    """How long other servers may take; longer for what concerns a whole room."""
    federation = config.federation
    factor = SLOW_FACTOR if slow else 1
    return Timeouts(federation.connect_timeout, federation.answer_timeout * factor, federation.body_timeout * factor)


def engine_of(config: Config, own_keys: OwnKeys | None = None) -> Engine:
    """The database engine of the configuration.

    :param own_keys: by which a server knows the others that share its database as itself.
    :raises StartError: its driver is missing.
    """
    try:
        return open_engine(
            config.database.url,
            data_dir=config.data_dir,
            durability=config.database.durability,
            identity=identity_by(own_keys) if own_keys is not None else None,
        )
    except DatabaseUnavailable as error:
        raise StartError(str(error)) from error


def identity_by(own_keys: OwnKeys) -> Identity:
    """Who a server is by its name and the key that signs; with another key, it is still the one of its old keys."""

    def number(key: VerifyKey) -> int:
        text = f"{own_keys.server_name} {key.alg}:{key.version} {encode_verify_key_base64(key)}"
        return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") >> 1

    now = number(get_verify_key(own_keys.signing))
    return Identity(now, frozenset([now, *(number(old.key) for old in own_keys.old.values())]))


def connect(config: Config) -> Connection:
    """A connection for an operator's command, to tables that are up to date; the server may be running.

    :raises StartError: the database cannot be opened.
    """
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


def open_database(
    config: Config,
    own_keys: OwnKeys,
    reactor: Any,
    bus: Bus,
    timings: Timings | None = None,
    machine: Machine | None = None,
) -> Database:
    """Open the server's database and bring its tables up to date.

    :param own_keys: others that share it must have the same.
    :param machine: what its processes know of each other's commits, if there are several.
    :raises StartError: another server runs on it, it cannot be opened, or it is newer than this program.
    """
    shared, readers = config.shares_database, config.database.readers
    try:
        database = Database(
            engine_of(config, own_keys), reactor, bus, readers=readers, timings=timings, shared=shared, machine=machine
        )
    except (DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(str(error)) from error
    try:
        database.prepare(migrate_among_others if shared else migrate_tables)
    except DatabaseInUse as error:
        database.stop()
        raise StartError(f"the tables are of an older version, and cannot be changed now: {error}") from error
    except DatabaseUnavailable as error:
        database.stop()
        raise StartError(str(error)) from error
    return database


def mail_of(settings: MailHandOver, server_name: str, reactor: Any, clock: ReactorClock) -> tuple[Letters, Mailer]:
    """What writes letters, and what hands them over.

    :raises StartError: a template or a certificate cannot be used.
    """
    # It takes 3 ms and 0.6 MB to load, and who sends no mail starts without.
    from synapse_like.mail import Letters, Mailer, MailServer, MailUnusable

    sender = settings.sender_of(server_name)
    server = MailServer(
        settings.host or "",
        settings.usual_port,
        settings.security,
        settings.username,
        settings.password,
        settings.ca_file,
        settings.verify_certificate,
        settings.timeout,
    )
    try:
        letters = Letters(clock, settings.templates, sender, server_name)
        mailer = Mailer(reactor, clock, server, letters.sender, sender.rpartition("@")[2].rstrip(">"))
    except (MailUnusable, AuthoritiesUnusable) as error:
        raise StartError(str(error)) from error
    return letters, mailer


def stop_listening(port: IListeningPort) -> Deferred[Any]:
    """Take no new connections."""
    stopped: Deferred[Any] = Deferred()
    result = port.stopListening()
    if result is None:
        stopped.callback(None)
        return stopped
    return result
