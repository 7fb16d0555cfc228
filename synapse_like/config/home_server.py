"""All the settings of a home server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from synapse_like.config.content import Content
from synapse_like.config.entrance import (
    IDENTITY_STAGE,
    MAIL_STAGES,
    OAUTH2_STAGE,
    Login,
    OAuth2,
    PasswordHashing,
    Registration,
)
from synapse_like.config.limits import Limits, RateLimits
from synapse_like.config.listeners import Client, Federation, IdentityServers, Mail, Webclient
from synapse_like.config.policy import Policy
from synapse_like.config.reading import SettingsFile
from synapse_like.config.shared import Database as AnyDatabase
from synapse_like.config.shared import Log, Metrics
from synapse_like.config.values import Count, FilePath, ListOf, Section, ServerName, Settings
from synapse_like.models import Checked, Unfit
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.room_versions import DEFAULT_VERSION, rules_for


def _room_version(name: str) -> str:
    try:
        return rules_for(name).name
    except MatrixError as error:
        raise ValueError(error.message) from error


def _turn_uri(text: str) -> str:
    if not text.startswith(("turn:", "turns:", "stun:", "stuns:")):
        raise ValueError("must be a TURN URI, such as turn:turn.example.org?transport=udp")
    return text


TurnUri = Annotated[str, Checked(_turn_uri)]


#: Why SQLite is for one process.
_ONE_WRITER = (
    "SQLite has one writer. For several processes give a PostgreSQL as database.url;"
    " `synapse_like copy-database` brings there what is in SQLite"
)


def _is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


class Database(AnyDatabase, frozen=True):
    """Where everything is kept."""

    shared: bool = False
    """Whether servers on other machines use the same database, each with this setting and the same keys. What one
    machine does by itself, with `processes`, needs it not."""

    def __post_init__(self) -> None:
        if self.shared and _is_sqlite(self.url):
            raise Unfit("shared", f"must be false: {_ONE_WRITER}")


class Rooms(Section, frozen=True):
    """What rooms are like."""

    default_version: Annotated[str, Checked(_room_version)] = DEFAULT_VERSION
    """The version of the rules of a new room whose maker asks for none: spec-2014, or 1 to 12 for the versions of
    today's Matrix. A room keeps its version for ever."""


class Presence(Section, frozen=True):
    """Who may see who is online."""

    enabled: bool = True
    """Whether anybody may: `false` saves what that costs."""

    federation: bool = True
    """Whether users of other servers may, and the other way round."""

    auto_accept: Literal["nobody", "local", "everyone"] = "nobody"
    """Whose requests to see a user's presence are accepted without asking: nobody's, those of users of this
    server, everyone's."""


class Voip(Section, frozen=True):
    """The TURN server that relays calls between people who cannot reach each other."""

    turn_uris: ListOf[TurnUri] = ()
    """Where it is: [turn:turn.example.org?transport=udp]. Left out: clients are told that there is none."""

    shared_secret: str | None = None
    """What it shares with this server; coturn's setting is static-auth-secret. Environment:
    SYNAPSE_LIKE_TURN_SECRET."""

    lifetime: Count = 86400
    """Seconds for which the credentials hold that a client is given."""

    def __post_init__(self) -> None:
        if self.turn_uris and not self.shared_secret:
            raise Unfit("shared_secret", "must be given, since there are turn_uris")


class Contacts(Section, frozen=True):
    """The address books of users."""

    look_up: bool = True
    """Whether the first of the trusted identity servers is asked which Matrix users the contacts are: by hashes of
    their addresses where it can be."""


class Config(Settings, frozen=True):
    """All the settings of a server."""

    server_name: ServerName
    """The name of this server: the part after the colon in the names of its users, rooms and aliases. Other
    servers find it by this name. It cannot be changed once there are users."""

    data_dir: FilePath = Path()
    """The data directory; the SQLite database lies in it."""

    signing_key_file: FilePath = Path("signing.key")
    """The key by which this server signs what it sends. Keep it secret, and keep a copy of it."""

    database: Database = Database()

    processes: Annotated[int, Meta(ge=1, le=64)] = 1
    """How many processes the server is, with PostgreSQL: about as many as there are processors. Each may answer any
    request."""

    client: Client = Client()
    webclient: Webclient = Webclient()
    federation: Federation = Federation()
    registration: Registration = Registration()
    login: Login = Login()
    mail: Mail = Mail()
    identity_servers: IdentityServers = IdentityServers()
    oauth2: OAuth2 = OAuth2()
    policy: Policy = Policy()
    contacts: Contacts = Contacts()
    rate_limits: RateLimits = RateLimits()
    rooms: Rooms = Rooms()
    presence: Presence = Presence()
    voip: Voip = Voip()
    content: Content = Content()
    limits: Limits = Limits()
    password_hashing: PasswordHashing = PasswordHashing()
    log: Log = Log()
    metrics: Metrics = Metrics()

    def __post_init__(self) -> None:
        if self.processes > 1 and _is_sqlite(self.database.url):
            raise Unfit("processes", f"must be 1: {_ONE_WRITER}")
        stages = {stage for flow in (*self.registration.flows, *self.login.flows) for stage in flow}
        if self.mail.host is None and not stages.isdisjoint(MAIL_STAGES):
            raise Unfit("mail", "must have a host, since there are flows with mail")
        if not self.identity_servers.trusted and IDENTITY_STAGE in stages:
            raise Unfit("identity_servers", f"must have a trusted one, since there are flows with {IDENTITY_STAGE}")
        if not self.oauth2.providers and OAUTH2_STAGE in stages:
            raise Unfit("oauth2", f"must have a provider, since there are flows with {OAUTH2_STAGE}")

    @property
    def shares_database(self) -> bool:
        """Whether other processes write to the database, too, on this machine or others."""
        return self.processes > 1 or self.database.shared

    @property
    def federation_bind(self) -> tuple[str, ...]:
        """The addresses to listen on for other servers."""
        return self.federation.bind or self.client.bind

    @property
    def content_directory(self) -> Path:
        """Where uploaded files are kept."""
        return self.content.directory or self.data_dir / "content"

    @property
    def tls_certificate(self) -> Path:
        """The file of the certificate that other servers are shown."""
        return self.federation.tls_certificate or self.data_dir / "tls.crt"

    @property
    def tls_private_key(self) -> Path:
        """The file of its private key."""
        return self.federation.tls_private_key or self.data_dir / "tls.key"


HOME_SERVER = SettingsFile(
    Config,
    title="The settings of a synapse_like home server.",
    check="check-config",
    environment={
        "SYNAPSE_LIKE_DATABASE_URL": ("database", "url"),
        "SYNAPSE_LIKE_REGISTRATION_TOKENS": ("registration", "tokens"),
        "SYNAPSE_LIKE_TURN_SECRET": ("voip", "shared_secret"),
        "SYNAPSE_LIKE_MAIL_PASSWORD": ("mail", "password"),
    },
    moved={("limits", "max_upload_bytes"): ("content", "max_upload_size")},
)
load, parse, sample = HOME_SERVER.load, HOME_SERVER.parse, HOME_SERVER.sample
