"""The settings of an identity server: a YAML file of its own, read as that of a home server is (`config.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from signedjson.types import VerifyKey

from synapse_like.config.reading import SettingsFile
from synapse_like.config.shared import Database as AnyDatabase
from synapse_like.config.shared import DatabaseUrl, Listener, Log, MailHandOver, Metrics, Rate, Rates
from synapse_like.config.values import (
    Address,
    Amount,
    Count,
    FilePath,
    ListOf,
    OneOrMore,
    Port,
    Section,
    ServerName,
    Settings,
    Url,
)
from synapse_like.models import Checked, Unfit
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.third_party_ids import public_key

CONFIG_FILE = "identity.yaml"
DATABASE_FILE = "identity.db"


def _public_key(text: str) -> str:
    """A key as `ed25519:0 base64`."""
    key_id, _, encoded = text.partition(" ")
    try:
        public_key(key_id, encoded.strip())
    except MatrixError as error:
        raise ValueError("must be a public key, such as ed25519:a_1 and its base64 behind a space") from error
    return text


class Database(AnyDatabase, frozen=True):
    """Where everything is kept; never the database of a home server."""

    url: DatabaseUrl = "sqlite"
    """`sqlite` (the file identity.db in the data directory), `sqlite:PATH`, or for a large server
    `postgresql://user:password@host/database`. Environment: SYNAPSE_LIKE_IDENTITY_DATABASE_URL."""


class Listen(Listener, frozen=True):
    """Where requests come in, by HTTP."""

    bind: OneOrMore[Address] = ("127.0.0.1",)
    """IP addresses to listen on. Others than this machine should come in by a proxy that adds HTTPS."""

    port: Port = 8090
    """Port to listen on."""

    public_url: Url | None = None
    """How browsers, home servers and siblings reach this server where that is not its address and port:
    https://id.example.org"""


class TextMessages(Section, frozen=True):
    """The gateway that sends text messages to phones."""

    url: Url | None = None
    """Where it takes them, by POST with `to`, `from` and `text`. Left out: phone numbers cannot be validated."""

    token: str | None = None
    """Sent to it as a bearer token. Environment: SYNAPSE_LIKE_IDENTITY_SMS_TOKEN."""

    sender: str | None = None
    """Who is shown as the sender. Left out: the gateway's choice."""

    encoding: Literal["json", "form"] = "json"
    """Whether it takes JSON or forms."""


class SiblingServer(Settings, frozen=True):
    """An identity server with which this one shares all it knows."""

    name: ServerName
    """Its server name."""

    url: Url
    """Where it is."""

    public_keys: OneOrMore[Annotated[str, Checked(_public_key)]]
    """The keys by which it signs, as `synapse_like identity key` shows them there: ["ed25519:a_1 base64"]"""

    def verify_keys(self) -> dict[str, VerifyKey]:
        """Its keys by their IDs."""
        pairs = [text.split(maxsplit=1) for text in self.public_keys]
        return {key_id: public_key(key_id, encoded.strip()) for key_id, encoded in pairs}


class HomeServers(Section, frozen=True):
    """How home servers are reached that must be told of invites, and asked for their keys."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates they are believed. Left out: those of the system."""

    verify_certificates: bool = True
    """Whether their certificates are checked. `false` is for trying things out."""

    unverified_servers: ListOf[ServerName] = ()
    """Home servers whose certificates are not checked: [old.example.org]"""

    allow_private_addresses: bool = False
    """Whether they may be reached at addresses that are not on the internet. Strangers choose their names."""

    connect_timeout: Amount = 10.0
    """Seconds in which one must have accepted a connection, TLS included."""

    answer_timeout: Amount = 30.0
    """Seconds in which it must then have answered."""


class Validation(Section, frozen=True):
    """How addresses are proven."""

    lifetime: Count = 86400
    """Seconds from asking for a message until what it proves is of no more use."""


class Lookup(Section, frozen=True):
    """How addresses are looked up."""

    pepper_lifetime: Count = 7 * 86400
    """Seconds after which clients must hash addresses anew."""


class RateClasses(Rates, frozen=True):
    """The limits, each `{per_second: in the long run, burst: at once, after a pause}`. All people of a home server
    that asks for them share its address."""

    validation: Rate = Rate(per_second=0.2, burst=20)
    """Requests for a message, per client address."""

    messages: Rate = Rate(per_second=0.002, burst=5)
    """Messages to one e-mail address or phone."""

    tokens: Rate = Rate(per_second=0.5, burst=30)
    """Tokens that are submitted, per client address."""

    lookup: Rate = Rate(per_second=2, burst=1000)
    """Addresses that are looked up, per client address."""

    invites: Rate = Rate(per_second=0.2, burst=50)
    """Invites that are left here, per client address."""

    read: Rate = Rate(per_second=20, burst=100)
    """Everything else, per client address."""

    strangers: Rate = Rate(per_second=1, burst=20)
    """Requests for which a home server must be asked for its keys, per address."""

    siblings: Rate = Rate(per_second=20, burst=200)
    """What siblings tell, per sibling."""


class RateLimits(Section, frozen=True):
    """How much one address may ask for."""

    enabled: bool = True
    """Whether there are limits at all."""

    classes: RateClasses = RateClasses()


class Outgoing(Section, frozen=True):
    """How siblings and the gateway for text messages are reached."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates they are believed. Left out: those of the system."""

    timeout: Amount = 15.0
    """Seconds that one may take to answer."""


class IdentityConfig(Settings, frozen=True):
    """All the settings of an identity server."""

    server_name: ServerName
    """The name by which this server signs: id.example.org. Siblings and home servers know it by this name, so that it
    should not change."""

    data_dir: FilePath = Path()
    """The data directory; the SQLite database lies in it."""

    signing_key_file: FilePath = Path("signing.key")
    """The key by which this server signs. Keep it secret, and keep a copy of it."""

    database: Database = Database()
    http: Listen = Listen()
    mail: MailHandOver = MailHandOver()
    sms: TextMessages = TextMessages()

    siblings: ListOf[SiblingServer] = ()
    """The identity servers with which this one shares all it knows: [{name: id.example.net, url:
    https://id.example.net, public_keys: ["ed25519:a_1 base64"]}]. Each must have this one among its own."""

    home_servers: HomeServers = HomeServers()
    outgoing: Outgoing = Outgoing()
    validation: Validation = Validation()
    lookup: Lookup = Lookup()
    rate_limits: RateLimits = RateLimits()
    log: Log = Log()
    metrics: Metrics = Metrics()

    def __post_init__(self) -> None:
        names = [sibling.name for sibling in self.siblings]
        if len(set(names)) != len(names) or self.server_name in names:
            raise Unfit("siblings", "must name each sibling once, and not this server itself")


IDENTITY_SERVER = SettingsFile(
    IdentityConfig,
    title="The settings of a synapse_like identity server.",
    check="identity check-config",
    environment={
        "SYNAPSE_LIKE_IDENTITY_DATABASE_URL": ("database", "url"),
        "SYNAPSE_LIKE_MAIL_PASSWORD": ("mail", "password"),
        "SYNAPSE_LIKE_IDENTITY_SMS_TOKEN": ("sms", "token"),
    },
)
