"""The identity server: its parts put together once, and run, alone or beside a home server."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from twisted.python.threadpool import ThreadPool

from synapse_like import __version__
from synapse_like.app.errors import StartError
from synapse_like.app.parts import mail_of
from synapse_like.app.serving import ServerService
from synapse_like.authorities import AuthoritiesUnusable
from synapse_like.background import Repeating, every, run_in_background
from synapse_like.clock import ReactorClock
from synapse_like.federation import own_keys as own_key_files
from synapse_like.federation.agent import Agent, Timeouts
from synapse_like.federation.own_keys import KeysUnusable
from synapse_like.federation.resolver import ServerResolver, SystemLookup
from synapse_like.federation.tls import CertificateUnusable, ClientTls
from synapse_like.federation.web_client import WebClient
from synapse_like.http.limits import Limiter
from synapse_like.http.requests import Call
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.http.site import Bounds, Site, make_site
from synapse_like.identity.associations import Associations
from synapse_like.identity.endpoints import IdentityEndpoints
from synapse_like.identity.invites import Invites, SendInvite
from synapse_like.identity.notices import Notices
from synapse_like.identity.peers import Peer, PeerAuthenticator, Sibling
from synapse_like.identity.replication import Replication
from synapse_like.identity.settings import DATABASE_FILE, IdentityConfig
from synapse_like.identity.signer import Signer
from synapse_like.identity.text_messages import TextMessages
from synapse_like.identity.user_keys import UserKeys
from synapse_like.identity.v1 import mount_identity
from synapse_like.identity.validations import Send, Validations
from synapse_like.protocol.third_party_ids import EMAIL, PHONE
from synapse_like.storage import positions
from synapse_like.storage.bus import Bus
from synapse_like.storage.connections import Connection
from synapse_like.storage.database import Database
from synapse_like.storage.engines.engine import DatabaseInUse, DatabaseUnavailable, Engine
from synapse_like.storage.engines.opening import open_engine
from synapse_like.storage.identity import statements
from synapse_like.storage.jobs import Timings
from synapse_like.storage.migrations import IDENTITY_SERVER, migrate

if TYPE_CHECKING:
    from synapse_like.app.metrics import Metrics

#: How often it is seen to peppers, and to what is old, in seconds.
PEPPER_SECONDS, TIDY_SECONDS = 60, 3600


class IdentityServer(Struct):
    """A running server's parts, as far as somebody must start and stop them."""

    database: Database
    site: Site[Peer]
    agent: Agent
    associations: Associations
    notices: Notices
    replication: Replication
    tasks: list[Repeating]
    thread_pools: list[ThreadPool]
    metrics: Site[None] | None

    async def start(self) -> None:
        """Go on where the last run ended."""
        await self.associations.change_pepper()
        await self.notices.start()
        await self.replication.start()


def engine_of(config: IdentityConfig) -> Engine:
    """The database engine of the settings.

    :raises StartError: its driver is missing.
    """
    settings = config.database
    try:
        return open_engine(settings.url, data_dir=config.data_dir, durability=settings.durability, file=DATABASE_FILE)
    except DatabaseUnavailable as error:
        raise StartError(str(error)) from error


def load_signer(config: IdentityConfig, now_ms: int) -> Signer:
    """The server's name and keys.

    :raises StartError: there is no key.
    """
    try:
        own = own_key_files.load(config.signing_key_file, config.server_name, now_ms)
    except KeysUnusable as error:
        raise StartError(str(error)) from error
    return Signer(own.server_name, own.signing, {key_id: old.key for key_id, old in own.old.items()})


def build(config: IdentityConfig, reactor: Any) -> IdentityServer:
    """Put a server together; its database is open, nothing runs yet.

    :param reactor: Twisted's reactor.
    :raises StartError: the database, the key or a certificate cannot be used.
    """
    clock = ReactorClock(reactor)
    signer = load_signer(config, clock.now_ms())
    agent, web = make_agents(config, reactor, clock)
    send, send_invite = _make_senders(config, reactor, clock, web)
    bus = Bus()
    metrics = _make_metrics(config)
    database = _open_database(config, reactor, bus, metrics)
    limits = Limiter(config.rate_limits.classes.by_name(), clock.monotonic, enabled=config.rate_limits.enabled)
    url = config.http.url(config.server_name)

    siblings = [Sibling(item.name, item.url.rstrip("/"), item.verify_keys()) for item in config.siblings]
    notices = Notices(database, bus, clock, signer, agent)
    validations = Validations(
        database, clock, signer, limits, send, public_url=url, lifetime=config.validation.lifetime
    )
    associations = Associations(
        database, clock, signer, validations, notices, pepper_lifetime=config.lookup.pepper_lifetime
    )
    invites = Invites(database, clock, signer, limits, send_invite)
    replication = Replication(database, bus, clock, signer, siblings, web, notices)
    endpoints = IdentityEndpoints(
        signer,
        validations,
        associations,
        UserKeys(database, clock, signer, validations),
        invites,
        replication,
        limits,
        url,
    )

    async def health(call: Call[Peer]) -> object:
        await database.read("health", positions.current, statements.STREAM)
        return {"status": "ok"}

    site = make_site(
        [*mount_identity(endpoints), Mount("", [Route("GET", "/health", health, auth=Auth.NONE)])],
        authenticator=PeerAuthenticator(signer.name, siblings, agent, clock, limits, replication.heard_from),
        limiter=limits,
        clock=clock,
        bounds=Bounds(max_body=128 * 1024, max_json_depth=20),
        trusted_proxies=config.http.trusted_proxies,
        answered=metrics.answered("clients") if metrics else None,
    )
    metrics_site, thread_pools = None, []
    if metrics is not None:
        from synapse_like.app.metrics import make_metrics_site

        metrics.watch(clients=site)
        parts = make_metrics_site(metrics, reactor, clock, database)
        metrics_site, thread_pools = parts.site, [parts.threads]
    tasks = [
        every(clock, "pepper", PEPPER_SECONDS, associations.change_pepper),
        every(clock, "forget-validations", TIDY_SECONDS, validations.forget_old),
        every(clock, "forget-invites", TIDY_SECONDS, invites.forget_old),
        every(clock, "forget-notices", TIDY_SECONDS, notices.forget_old),
    ]
    return IdentityServer(database, site, agent, associations, notices, replication, tasks, thread_pools, metrics_site)


def make_agents(config: IdentityConfig, reactor: Any, clock: ReactorClock) -> tuple[Agent, WebClient]:
    """What reaches home servers, by their names, and siblings, by their URLs."""
    home, user_agent = config.home_servers, f"synapse_like/{__version__}"
    try:
        tls = ClientTls(
            ca_file=home.ca_file, verify=home.verify_certificates, unverified_servers=home.unverified_servers
        )
        web = WebClient(
            reactor, ca_file=config.outgoing.ca_file, timeout=config.outgoing.timeout, user_agent=user_agent
        )
    except (CertificateUnusable, AuthoritiesUnusable) as error:
        raise StartError(str(error)) from error
    agent = Agent(
        reactor,
        ServerResolver(SystemLookup(reactor), clock),
        tls,
        allow_private_addresses=home.allow_private_addresses,
        timeouts=Timeouts(home.connect_timeout, home.answer_timeout, home.answer_timeout),
        user_agent=user_agent,
    )
    return agent, web


def _make_senders(
    config: IdentityConfig, reactor: Any, clock: ReactorClock, web: WebClient
) -> tuple[dict[str, Send], dict[str, SendInvite]]:
    """How people are sent tokens, and how they are told of invites, by medium."""
    send: dict[str, Send] = {}
    send_invite: dict[str, SendInvite] = {}
    if config.mail.host is not None:
        letters, mailer = mail_of(config.mail, config.server_name, reactor, clock)

        async def mail_token(address: str, token: str, link: str) -> None:
            letter = letters.write("identity_validation", address, token=token, link=link)
            await mailer.send(address, letter)

        async def mail_invite(address: str, sender: str) -> None:
            await mailer.send(address, letters.write("identity_invite", address, sender=sender))

        send[EMAIL], send_invite[EMAIL] = mail_token, mail_invite
    if config.sms.url is not None:
        texts = TextMessages(web, config.sms.url, config.sms.token, config.sms.sender, config.sms.encoding)
        name = config.server_name

        async def text_token(number: str, token: str, link: str) -> None:
            await texts.send(number, f"Your code for {name} is {token}")

        async def text_invite(number: str, sender: str) -> None:
            await texts.send(number, f"{sender} invites you to a conversation on Matrix. {name} knows more.")

        send[PHONE], send_invite[PHONE] = text_token, text_invite
    return send, send_invite


def _make_metrics(config: IdentityConfig) -> Metrics | None:
    """What counts for Prometheus; None if the settings want none."""
    if config.metrics.port is None:
        return None
    from prometheus_client import CollectorRegistry

    from synapse_like.app.metrics import Metrics

    return Metrics(CollectorRegistry())


def _open_database(config: IdentityConfig, reactor: Any, bus: Bus, timings: Timings | None) -> Database:
    try:
        database = Database(engine_of(config), reactor, bus, readers=config.database.readers, timings=timings)
    except (DatabaseInUse, DatabaseUnavailable) as error:
        raise StartError(str(error)) from error
    try:
        database.prepare(_migrate)
    except DatabaseUnavailable as error:
        database.stop()
        raise StartError(str(error)) from error
    return database


def _migrate(connection: Connection) -> None:
    migrate(connection, IDENTITY_SERVER)


class IdentityService(ServerService[IdentityServer]):
    """An identity server as a Twisted service; see `ServerService`."""

    name = "synapse_like identity"
    kind = "identity server"

    def __init__(self, config: IdentityConfig, reactor: Any, tell: Callable[[str], object]) -> None:
        super().__init__(config.server_name, lambda: build(config, reactor), config.metrics, reactor, tell)
        self._config = config

    def _listen(self, server: IdentityServer) -> None:
        where = self._listen_at(self._config.http.bind, self._config.http.port, server.site)
        self._tell(f"{self._config.server_name} listens for questions about identities at {where}")

    def _begin(self, server: IdentityServer) -> None:
        run_in_background("start", server.start)

    async def _finish(self, server: IdentityServer) -> None:
        await self._drain(server, server.site)
        for task in server.tasks:
            await task.stop()
        await server.replication.stop()
        await server.notices.stop()
        await server.agent.close()
