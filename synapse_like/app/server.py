"""The composition root: the one place that knows all parts and puts them together.

Nothing else makes a handler or a site; everything is handed what it needs, here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError
from twisted.names.client import Resolver
from twisted.python.threadpool import ThreadPool

from synapse_like import __version__, webclient
from synapse_like.app.content import ContentParts, make_content
from synapse_like.app.entrance import Entrance, make_entrance, make_identity_client, make_policy
from synapse_like.app.parts import hasher, limiter, load_keys, open_database, open_tls, site, timeouts
from synapse_like.app.reloading import Takes, rates_of, takes_of_home_server
from synapse_like.background import Repeating, Slices, every
from synapse_like.clock import ReactorClock
from synapse_like.config import Config
from synapse_like.federation.agent import Agent
from synapse_like.federation.client import FederationClient
from synapse_like.federation.destinations import DestinationQueues
from synapse_like.federation.greetings import Greetings
from synapse_like.federation.keyring import Keyring
from synapse_like.federation.own_keys import OwnKeys
from synapse_like.federation.resolver import ServerResolver, ServiceLookup
from synapse_like.federation.tls import ClientTls, ServerTls
from synapse_like.handlers.authentication import Authentication, Requester
from synapse_like.handlers.backfill import Backfill
from synapse_like.handlers.contacts import FORGET_SECONDS, Contacts
from synapse_like.handlers.departures import LOOK_SECONDS as DEPARTURE_SECONDS
from synapse_like.handlers.departures import Departures
from synapse_like.handlers.directory import Directory
from synapse_like.handlers.disclosure import Disclosure
from synapse_like.handlers.event_checks import EventChecks
from synapse_like.handlers.event_creation import EventCreation
from synapse_like.handlers.event_persistence import EventPersistence
from synapse_like.handlers.event_stream import EventStream
from synapse_like.handlers.history import History
from synapse_like.handlers.incoming_transactions import (
    ANSWER_SECONDS,
    ANSWER_SECONDS_WITH_POLICY,
    EduHandler,
    IncomingTransactions,
)
from synapse_like.handlers.initial_sync import InitialSync
from synapse_like.handlers.membership import Membership
from synapse_like.handlers.membership_requests import MembershipRequests
from synapse_like.handlers.messages import Messages
from synapse_like.handlers.missing_events import MissingEvents
from synapse_like.handlers.notifier import Notifier
from synapse_like.handlers.outside_changes import LOOK_EVERY_SECONDS, OutsideChanges
from synapse_like.handlers.passwords import Passwords
from synapse_like.handlers.presence import SWEEP_SECONDS as PRESENCE_SECONDS
from synapse_like.handlers.presence import Presence
from synapse_like.handlers.presence_federation import EDU_TYPE as PRESENCE
from synapse_like.handlers.presence_federation import SWEEP_SECONDS as PRESENCE_FEDERATION_SECONDS
from synapse_like.handlers.presence_federation import PresenceFederation
from synapse_like.handlers.presence_lists import ACCEPT, DENY, INVITE, PresenceLists
from synapse_like.handlers.profile import Profiles
from synapse_like.handlers.profile_changes import PAUSE_SECONDS, ProfileChanges
from synapse_like.handlers.remote_membership import RemoteMembership
from synapse_like.handlers.retransmissions import Retransmissions
from synapse_like.handlers.room_locks import RoomLocks
from synapse_like.handlers.rooms import Rooms
from synapse_like.handlers.server_keys import ServerKeys
from synapse_like.handlers.streams import SilentStream
from synapse_like.handlers.third_party_ids import CLOSED_SECONDS, ThirdPartyIds
from synapse_like.handlers.third_party_invites import ThirdPartyInvites
from synapse_like.handlers.typing import EDU_TYPE as TYPING
from synapse_like.handlers.typing import Typing
from synapse_like.handlers.unwanted import Unwanted
from synapse_like.handlers.voip import Voip
from synapse_like.http.budget import Budget
from synapse_like.http.client.accounts import AccountEndpoints
from synapse_like.http.client.authentication import TokenAuthenticator
from synapse_like.http.client.contacts import ContactEndpoints
from synapse_like.http.client.content import ContentEndpoints, mount_content
from synapse_like.http.client.history import HistoryEndpoints
from synapse_like.http.client.membership import MembershipEndpoints
from synapse_like.http.client.messages import MessageEndpoints
from synapse_like.http.client.presence import PresenceEndpoints
from synapse_like.http.client.profile import ProfileEndpoints
from synapse_like.http.client.rooms import RoomEndpoints
from synapse_like.http.client.third_party_ids import ThirdPartyIdEndpoints
from synapse_like.http.client.typing import TypingEndpoints
from synapse_like.http.client.unwanted import UnwantedEndpoints
from synapse_like.http.client.v1 import mount_v1
from synapse_like.http.client.voip import VoipEndpoints
from synapse_like.http.federation.authentication import SignatureAuthenticator
from synapse_like.http.federation.content import FederatedContentEndpoints, mount_federated_content
from synapse_like.http.federation.keys import KeyEndpoints, mount_keys
from synapse_like.http.federation.rooms import FederatedRoomEndpoints
from synapse_like.http.federation.third_party_invites import ThirdPartyInviteEndpoints, mount_third_party_invites
from synapse_like.http.federation.v1 import mount_federation
from synapse_like.http.limits import Limiter
from synapse_like.http.pages.browsers import Browsers
from synapse_like.http.pages.chat import FOLDER, mount_chat_page
from synapse_like.http.pages.login import LoginPages, mount_login_pages
from synapse_like.http.pages.mail_links import MailLinkPages, mount_mail_links
from synapse_like.http.pages.oauth2 import OAuth2Pages, mount_oauth2
from synapse_like.http.requests import Call
from synapse_like.http.routing import Auth, Mount, Route
from synapse_like.http.site import Site
from synapse_like.protocol.errors import Unavailable
from synapse_like.storage import events, positions, presence, presence_lists
from synapse_like.storage.bus import Bus
from synapse_like.storage.database import Connection, Database
from synapse_like.storage.events import EventRedacted
from synapse_like.storage.profiles import ProfileChanged

if TYPE_CHECKING:
    from synapse_like.app.metrics import HomeServerMetrics

#: How long its database may take to answer a server that is well.
HEALTH_SECONDS = 5.0
#: Threads that read and write files.
FILE_THREADS = 8
#: Threads that read and write vCards.
VCARD_THREADS = 1
#: Threads that check signatures.
SIGNATURE_THREADS = 1
#: How long DNS may take to answer each of our questions, in seconds.
DNS_SECONDS = (1, 2, 4)
#: How often events are tried again that wait for what they lack, in seconds.
WAITING_SECONDS = 20
#: How often it is looked for what we missed of our rooms; what comes by itself shall do so first.
NEWS_SECONDS = 10
#: How often the file of the certificate is looked at, in seconds.
CERTIFICATE_SECONDS = 60


@dataclass(slots=True)
class HomeServer:
    """A running server's parts, as far as somebody must start and stop them.

    :ivar metrics: what answers to Prometheus.
    :ivar takes: how settings are taken over while it runs.
    :ivar files_agent: fetches files; apart from the other, so that large files never stand in the way of events.
    """

    database: Database
    thread_pools: list[ThreadPool]
    event_stream: EventStream
    site: Site[Requester]
    federation: Federation | None
    tasks: list[Repeating]
    content: ContentParts
    files_agent: Agent
    start_presence: Callable[[], Coroutine[Any, Any, None]] | None
    health: Health
    metrics: Site[None] | None
    takes: Takes[Config]


@dataclass(slots=True)
class Federation:
    """What of it other servers deal with.

    :ivar tls: None behind a proxy that does it.
    """

    agent: Agent
    site: Site[str]
    tls: ServerTls | None
    queues: DestinationQueues
    greetings: Greetings
    transactions: IncomingTransactions


@dataclass(slots=True)
class People:
    """What knows who is there.

    :ivar federation: None if other servers are not told.
    """

    presence: Presence
    lists: PresenceLists
    federation: PresenceFederation | None
    clock: ReactorClock

    async def start(self) -> None:
        """Take up what was when the server stopped."""
        await self.presence.start()
        if self.federation is not None:
            await self.federation.start()

    def profile_changed(self, news: ProfileChanged) -> None:
        """A user has another name or picture, and whoever sees them is told (PROF-2)."""
        self.presence.profile_changed(news.user_id, news.displayname, news.avatar_url)

    @property
    def edus(self) -> dict[str, EduHandler]:
        """What takes EDUs, by their type."""
        if self.federation is None:
            return {}
        lists = self.lists
        return {
            PRESENCE: self.federation.receive,
            INVITE: lists.invited,
            ACCEPT: lists.accepted,
            DENY: lists.denied,
        }

    @property
    def tasks(self) -> list[Repeating]:
        """What is to be done every so often."""
        tasks = [every(self.clock, "presence", PRESENCE_SECONDS, self.presence.sweep)]
        if self.federation is not None:
            sweep = self.federation.sweep
            tasks.append(every(self.clock, "presence-elsewhere", PRESENCE_FEDERATION_SECONDS, sweep))
        return tasks


@dataclass(slots=True)
class Speaking:
    """What asks other servers, and knows who they are.

    :ivar threads: of the slices.
    :ivar slices: where what others tell is read and checked, if it is much.
    """

    agent: Agent
    client: FederationClient
    keyring: Keyring
    threads: ThreadPool
    slices: Slices


def build(config: Config, reactor: Any) -> HomeServer:
    """Put a server together; its database is open, nothing runs yet.

    :param reactor: Twisted's reactor.
    :raises StartError: the database cannot be used, or the signing key cannot be read.
    """
    clock = ReactorClock(reactor)
    own_keys = load_keys(config, clock.now_ms())
    client_tls, server_tls = open_tls(config)
    bus = Bus()
    name = config.server_name
    metrics = make_metrics(config, bus)
    database = open_database(config, reactor, bus, metrics)
    rates = rates_of(config)
    limits = limiter(config, clock, rates)
    budget = Budget(config.limits.max_held_bytes)

    authentication = Authentication(database, bus, clock)
    passwords = Passwords(hasher(config), reactor)
    identity_client = make_identity_client(config, reactor, clock, own_keys)
    policy = make_policy(config, reactor, clock, database, own_keys)
    entrance = make_entrance(
        config, reactor, clock, database, authentication, passwords, limits, identity_client, policy
    )

    speaking = speak(config, reactor, clock, database, own_keys, client_tls)
    checks = EventChecks(speaking.keyring, speaking.slices, policy)
    locks = RoomLocks()
    persistence = EventPersistence(name)
    creation = EventCreation(name, own_keys.signing, clock, persistence)
    missing = MissingEvents(database, speaking.client, checks, persistence)

    directory = Directory(database, creation, speaking.client, name)
    membership = Membership(
        database, creation, directory, RemoteMembership(database, speaking.client, checks, creation, locks), policy
    )
    profile_changes = ProfileChanges(database, bus, creation)
    profiles = Profiles(database, speaking.client, profile_changes, name, may_observe=presence_lists.may_observe)
    messages = Messages(database, creation, membership, policy)
    version = config.rooms.default_version
    rooms = Rooms(database, creation, directory, membership, name, usual_version=version, policy=policy)
    retransmissions = Retransmissions(database, clock)

    files = ThreadPool(0, FILE_THREADS, "files")
    files_agent = other_servers(config, reactor, clock, client_tls, seconds=config.content.remote_timeout)
    content = make_content(
        config, reactor, clock, database, files, FederationClient(files_agent, name, own_keys.signing)
    )

    # Also what others have redacted must leave the files, and not only the tables.
    bus.subscribe(EventRedacted, database.deleted)
    position, presence_position, outside = database.prepare(_where_streams_stand)
    notifier = Notifier(database, bus, clock, position)
    queues = DestinationQueues(database, bus, clock, speaking.client, name)
    typing = Typing(database, notifier, bus, clock, queues if config.federation.enabled else None, name)
    people = make_people(config, clock, database, notifier, bus, queues, presence_position)
    if people is not None:
        bus.subscribe(ProfileChanged, people.profile_changed)
    event_stream = EventStream(
        database,
        notifier,
        bus,
        clock,
        presence=people.presence if people else SilentStream(),
        typing=typing,
        most_polls=config.limits.max_polls_per_user,
    )
    backfill = Backfill(database, speaking.client, checks, missing, locks, clock)
    history_endpoints = HistoryEndpoints(
        History(database, notifier, backfill, clock),
        InitialSync(database, notifier, people.presence if people else None),
        event_stream,
        clock,
        longest_poll_ms=config.limits.long_poll_max_ms,
    )

    vcards = ThreadPool(0, VCARD_THREADS, "vcards")
    looks_up = config.contacts.look_up and bool(config.identity_servers.trusted)
    address_books = Contacts(database, clock, reactor, vcards, identity_client, limits.check, looks_up=looks_up)
    third_party_ids = ThirdPartyIds(database, identity_client, limits.check)
    address_invites = ThirdPartyInvites(
        database,
        clock,
        creation,
        membership,
        third_party_ids,
        identity_client,
        speaking.client,
        limits.check,
        accept_untrusted=config.identity_servers.accept_untrusted_invites,
    )
    account_endpoints = AccountEndpoints(
        entrance.login, entrance.accounts, entrance.identities, authentication, limits.check, name
    )
    membership_endpoints = MembershipEndpoints(membership, retransmissions)

    health = Health(database, clock)
    mounts: list[Mount[Requester]] = [
        mount_v1(
            account_endpoints,
            RoomEndpoints(rooms, directory, retransmissions, limits.check),
            membership_endpoints,
            MessageEndpoints(messages, retransmissions, limits),
            history_endpoints,
            ProfileEndpoints(profiles),
            VoipEndpoints(Voip(clock, config.voip.turn_uris, config.voip.shared_secret, config.voip.lifetime)),
            TypingEndpoints(typing),
            PresenceEndpoints((people.presence, people.lists) if people else None, retransmissions),
            ThirdPartyIdEndpoints(
                third_party_ids, address_invites, account_endpoints, membership_endpoints, retransmissions
            ),
            UnwantedEndpoints(Unwanted(database)),
            ContactEndpoints(address_books, retransmissions),
        ),
        mount_content(
            ContentEndpoints(content.repository, content.thumbnails, name, config.client.url(config.server_name)),
            max_upload=config.content.max_upload_size,
            upload_seconds=config.content.upload_timeout,
        ),
        *mount_pages(config, entrance, limits),
        Mount("", [Route("GET", "/health", health.look, auth=Auth.NONE)]),
    ]
    token_authenticator = TokenAuthenticator(authentication.authenticate, lambda requester: requester.user_id)
    client_site = site(
        config, clock, limits, budget, mounts, token_authenticator, metrics.answered("clients") if metrics else None
    )

    transactions = IncomingTransactions(
        database,
        clock,
        speaking.client,
        checks,
        persistence,
        missing,
        locks,
        edus={TYPING: typing.receive} | (people.edus if people else {}),
        lasting_edus=(INVITE, ACCEPT, DENY),
        limit=limits.check_all,
        answer_seconds=ANSWER_SECONDS if policy is None else ANSWER_SECONDS_WITH_POLICY,
    )
    federation_mounts: list[Mount[str]] = [
        mount_keys(KeyEndpoints(ServerKeys(own_keys, speaking.keyring, clock))),
        mount_federated_content(FederatedContentEndpoints(content.repository, name)),
        mount_third_party_invites(ThirdPartyInviteEndpoints(address_invites)),
        *mount_federation(
            FederatedRoomEndpoints(
                name,
                clock,
                transactions,
                MembershipRequests(database, checks, creation, policy),
                Disclosure(database, directory, profiles, name),
            )
        ),
    ]
    signature_authenticator = SignatureAuthenticator(speaking.keyring, limits, queues.heard_from)
    federation_site = site(
        config,
        clock,
        limits,
        budget,
        federation_mounts,
        signature_authenticator,
        metrics.answered("servers") if metrics else None,
    )

    outside_changes = OutsideChanges(database, notifier, authentication, event_stream, queues.look_again, seen=outside)

    async def drop_idle_watchers() -> None:
        notifier.drop_idle()

    tasks = [
        every(clock, "outside-changes", LOOK_EVERY_SECONDS, outside_changes.look),
        every(clock, "tell-rooms", PAUSE_SECONDS, profile_changes.go_on),
        every(clock, "forget-deleted", 5, database.forget_what_is_left),
        every(clock, "drop-idle-watchers", 60, drop_idle_watchers),
        every(clock, "forget-retransmissions", 3600, retransmissions.forget_old),
        every(clock, "forget-transactions", 3600, transactions.forget_old),
        every(clock, "retry-waiting-events", WAITING_SECONDS, transactions.retry_waiting),
        every(clock, "fill-news", NEWS_SECONDS, backfill.fill_news),
        every(clock, "forget-addresses", FORGET_SECONDS, address_books.forget_old),
        every(clock, "departures", DEPARTURE_SECONDS, Departures(database, membership).go_on),
        every(clock, "unlink-closed", CLOSED_SECONDS, third_party_ids.unlink_closed),
        every(clock, "forget-address-invites", 3600, address_invites.forget_old),
        *entrance.tasks,
    ]
    tasks += content.tasks
    if people is not None:
        tasks += people.tasks
    if server_tls is not None:
        tasks.append(every(clock, "renewed-certificate", CERTIFICATE_SECONDS, server_tls.look))
    thread_pools = [passwords.threads, files, vcards, speaking.threads]
    metrics_parts = None
    if metrics is not None:
        from synapse_like.app.metrics import make_metrics_site

        counting = metrics

        def look() -> None:
            counting.look_at_streams(event_stream, notifier)
            counting.look_at_queues(queues.states())

        metrics.watch(clients=client_site, servers=federation_site)
        metrics_parts = make_metrics_site(metrics, reactor, clock, database, look)
        thread_pools.append(metrics_parts.threads)
    return HomeServer(
        database,
        thread_pools,
        event_stream,
        client_site,
        Federation(
            speaking.agent,
            federation_site,
            server_tls,
            queues,
            Greetings(database, clock, speaking.client, name),
            transactions,
        )
        if config.federation.enabled
        else None,
        tasks,
        content,
        files_agent,
        people.start if people else None,
        health,
        metrics_parts.site if metrics_parts else None,
        takes_of_home_server(rates, [client_site, federation_site], speaking.keyring, client_tls),
    )


def make_metrics(config: Config, bus: Bus) -> HomeServerMetrics | None:
    """What counts for Prometheus; None if the settings want none."""
    if config.metrics.port is None:
        return None
    from prometheus_client import CollectorRegistry

    from synapse_like.app.metrics import HomeServerMetrics

    return HomeServerMetrics(CollectorRegistry(), config.server_name, bus)


def mount_pages(config: Config, entrance: Entrance, limits: Limiter) -> list[Mount[Requester]]:
    """The pages for people."""
    name, base_url = config.server_name, config.client.url(config.server_name)
    browsers = Browsers(is_secure=base_url.startswith("https:"))
    providers = entrance.identities.providers
    pages = LoginPages(entrance.login, entrance.identity, providers, name, base_url, browsers, limits.check)
    return [
        *mount_chat(config),
        mount_mail_links(MailLinkPages(entrance.login, entrance.accounts, name)),
        *mount_login_pages(pages),
        mount_oauth2(OAuth2Pages(entrance.login, pages, providers, name, browsers)),
    ]


def mount_chat(config: Config) -> list[Mount[Requester]]:
    """The chat page, unless the settings want none."""
    return [mount_chat_page(webclient.load(FOLDER))] if config.webclient.enabled else []


def make_people(
    config: Config,
    clock: ReactorClock,
    database: Database,
    notifier: Notifier,
    bus: Bus,
    queues: DestinationQueues,
    position: int,
) -> People | None:
    """Put together what knows who is there; None if presence is turned off.

    :param position: where its stream stands.
    """
    if not config.presence.enabled:
        return None
    name = config.server_name
    federates = config.presence.federation and config.federation.enabled
    people = Presence(database, notifier, bus, clock, name, position)
    lists = PresenceLists(database, people, name, auto_accept=config.presence.auto_accept, federates=federates)
    federation = PresenceFederation(database, people, queues, bus, clock, name) if federates else None
    return People(people, lists, federation, clock)


def _where_streams_stand(connection: Connection) -> tuple[int, int, int]:
    """The newest positions of the streams of events and of presence, and the count of changes by commands."""
    return (
        connection.transact(events.current_position),
        connection.transact(presence.current_position),
        connection.transact(positions.current, positions.OUTSIDE),
    )


class Health:
    """Whether the server serves: it answers, so does its database, and it is not about to end.

    :ivar is_stopping: set when it is.
    """

    def __init__(self, database: Database, clock: ReactorClock) -> None:
        self._database = database
        self._clock = clock
        self.is_stopping = False

    async def look(self, call: Call[Requester]) -> object:
        """200 if all is well.

        :raises Unavailable: the server stops, or the database does not answer, or not in time.
        """
        if self.is_stopping:
            raise Unavailable("The server is about to stop.")
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


def other_servers(
    config: Config, reactor: Any, clock: ReactorClock, tls: ClientTls, *, seconds: float | None = None
) -> Agent:
    """What reaches other servers.

    :param seconds: how long they may take to send an answer, where it is not what is usual.
    """
    federation = config.federation
    lookup: ServiceLookup = Resolver(resolv="/etc/resolv.conf", timeout=DNS_SECONDS, reactor=reactor)  # type: ignore[no-untyped-call]  # Twisted's
    usual = timeouts(config)
    return Agent(
        reactor,
        ServerResolver(lookup, clock),
        tls,
        enabled=federation.enabled,
        allow_private_addresses=federation.allow_private_addresses,
        timeouts=usual if seconds is None else replace(usual, body=seconds),
        user_agent=f"synapse_like/{__version__}",
    )


def speak(
    config: Config, reactor: Any, clock: ReactorClock, database: Database, own_keys: OwnKeys, tls: ClientTls
) -> Speaking:
    """Put together what asks other servers."""
    federation = config.federation
    agent = other_servers(config, reactor, clock, tls)
    client = FederationClient(agent, config.server_name, own_keys.signing, slow=timeouts(config, slow=True))
    threads = ThreadPool(0, SIGNATURE_THREADS, "signatures")
    slices = Slices(reactor, threads)
    keyring = Keyring(
        own_keys,
        client,
        database,
        clock,
        slices,
        accept_relayed=federation.accept_relayed_keys,
        trusted_key_servers=federation.trusted_key_servers,
    )
    return Speaking(agent, client, keyring, threads, slices)
