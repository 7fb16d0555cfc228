"""All the settings of a home server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt, ValidationInfo, field_validator

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
from synapse_like.config.values import FilePath, ListOf, Section, ServerName, Settings
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


TurnUri = Annotated[str, AfterValidator(_turn_uri)]


#: Why SQLite is for one process.
_ONE_WRITER = (
    "SQLite has one writer. For several processes give a PostgreSQL as database.url;"
    " `synapse_like copy-database` brings there what is in SQLite"
)


def _is_sqlite(url: object) -> bool:
    return isinstance(url, str) and url.startswith("sqlite")


class Database(AnyDatabase):
    """Where everything is kept."""

    shared: bool = False
    """Whether servers on other machines use the same database, each with this setting and the same keys. What one
    machine does by itself, with `processes`, needs it not."""

    @field_validator("shared")
    @classmethod
    def _shared_by_postgresql(cls, shared: bool, info: ValidationInfo) -> bool:
        if shared and _is_sqlite(info.data.get("url")):
            raise ValueError(f"must be false: {_ONE_WRITER}")
        return shared


class Rooms(Section):
    """What rooms are like."""

    default_version: Annotated[str, AfterValidator(_room_version)] = DEFAULT_VERSION
    """The version of the rules of a new room whose maker asks for none: spec-2014, or 1 to 12 for the versions of
    today's Matrix. A room keeps its version for ever."""


class Presence(Section):
    """Who may see who is online."""

    enabled: bool = True
    """Whether anybody may: `false` saves what that costs."""

    federation: bool = True
    """Whether users of other servers may, and the other way round."""

    auto_accept: Literal["nobody", "local", "everyone"] = "nobody"
    """Whose requests to see a user's presence are accepted without asking: nobody's, those of users of this
    server, everyone's."""


class Voip(Section):
    """The TURN server that relays calls between people who cannot reach each other."""

    turn_uris: ListOf[TurnUri] = ()
    """Where it is: [turn:turn.example.org?transport=udp]. Left out: clients are told that there is none."""

    shared_secret: str | None = Field(None, repr=False)
    """What it shares with this server; coturn's setting is static-auth-secret. Environment:
    SYNAPSE_LIKE_TURN_SECRET."""

    lifetime: PositiveInt = 86400
    """Seconds for which the credentials hold that a client is given."""

    @field_validator("shared_secret")
    @classmethod
    def _secret_for_turn(cls, secret: str | None, info: ValidationInfo) -> str | None:
        if not secret and info.data.get("turn_uris"):
            raise ValueError("must be given, since there are turn_uris")
        return secret


class Contacts(Section):
    """The address books of users."""

    look_up: bool = True
    """Whether the first of the trusted identity servers is asked which Matrix users the contacts are: by hashes of
    their addresses where it can be."""


class Config(Settings):
    """All the settings of a server."""

    server_name: ServerName
    """The name of this server: the part after the colon in the names of its users, rooms and aliases. Other
    servers find it by this name. It cannot be changed once there are users."""

    data_dir: FilePath = Path()
    """The data directory; the SQLite database lies in it."""

    signing_key_file: FilePath = Path("signing.key")
    """The key by which this server signs what it sends. Keep it secret, and keep a copy of it."""

    database: Database = Field(default_factory=Database)

    processes: int = Field(1, ge=1, le=64)
    """How many processes the server is, with PostgreSQL: about as many as there are processors. Each may answer any
    request."""

    client: Client = Field(default_factory=Client)
    webclient: Webclient = Field(default_factory=Webclient)
    federation: Federation = Field(default_factory=Federation)
    registration: Registration = Field(default_factory=Registration)
    login: Login = Field(default_factory=Login)
    mail: Mail = Field(default_factory=Mail)
    identity_servers: IdentityServers = Field(default_factory=IdentityServers)
    oauth2: OAuth2 = Field(default_factory=OAuth2)
    policy: Policy = Field(default_factory=Policy)
    contacts: Contacts = Field(default_factory=Contacts)
    rate_limits: RateLimits = Field(default_factory=RateLimits)
    rooms: Rooms = Field(default_factory=Rooms)
    presence: Presence = Field(default_factory=Presence)
    voip: Voip = Field(default_factory=Voip)
    content: Content = Field(default_factory=Content)
    limits: Limits = Field(default_factory=Limits)
    password_hashing: PasswordHashing = Field(default_factory=PasswordHashing)
    log: Log = Field(default_factory=Log)
    metrics: Metrics = Field(default_factory=Metrics)

    @field_validator("processes")
    @classmethod
    def _processes_on_postgresql(cls, processes: int, info: ValidationInfo) -> int:
        database = info.data.get("database")
        if processes > 1 and database is not None and _is_sqlite(database.url):
            raise ValueError(f"must be 1: {_ONE_WRITER}")
        return processes

    @field_validator("mail")
    @classmethod
    def _mail_for_stages(cls, mail: Mail, info: ValidationInfo) -> Mail:
        if mail.host is None and _has_stage(info, MAIL_STAGES):
            raise ValueError("must have a host, since there are flows with mail")
        return mail

    @field_validator("identity_servers")
    @classmethod
    def _servers_for_stages(cls, servers: IdentityServers, info: ValidationInfo) -> IdentityServers:
        if not servers.trusted and _has_stage(info, (IDENTITY_STAGE,)):
            raise ValueError(f"must have a trusted one, since there are flows with {IDENTITY_STAGE}")
        return servers

    @field_validator("oauth2")
    @classmethod
    def _providers_for_stages(cls, oauth2: OAuth2, info: ValidationInfo) -> OAuth2:
        if not oauth2.providers and _has_stage(info, (OAUTH2_STAGE,)):
            raise ValueError(f"must have a provider, since there are flows with {OAUTH2_STAGE}")
        return oauth2

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


def _has_stage(info: ValidationInfo, stages: Sequence[str]) -> bool:
    """Whether any flow, as far as the settings are right, has one of some stages."""
    headings = [info.data.get("registration"), info.data.get("login")]
    flows = [flow for heading in headings if heading is not None for flow in heading.flows]
    return any(set(flow) & set(stages) for flow in flows)


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
