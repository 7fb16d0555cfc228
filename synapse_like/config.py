"""The settings of a server: one YAML file, read once at the start.

The models below are the whole truth about a setting: its name, its type, its default and, in the text under
it, its help. From them come the checks (`load`, which reports all faults at once) and the commented file that
`init` writes (`sample`). An unknown key is a fault, since it is nearly always a known one, misspelt.

Relative paths are relative to the folder of the file. The environment may give the secrets (`ENVIRONMENT`).
"""

from __future__ import annotations

import ipaddress
import re
import textwrap
from collections.abc import Hashable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from email.utils import parseaddr
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    Strict,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, to_jsonable_python

from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import MatrixError
from synapse_like.protocol.identifiers import parse_server_name
from synapse_like.protocol.room_versions import DEFAULT_VERSION, rules_for

PASSWORD_STAGE = "m.login.password"
TOKEN_STAGE = "m.login.registration_token"
MAIL_CODE_STAGE = "m.login.email.code"
MAIL_URL_STAGE = "m.login.email.url"
IDENTITY_STAGE = "m.login.email.identity"
OAUTH2_STAGE = "m.login.oauth2"
#: The stages for which mail is sent.
MAIL_STAGES = (MAIL_CODE_STAGE, MAIL_URL_STAGE)
#: The stages that a login or registration flow can be made of (LOGIN-1, LOGIN-8).
KNOWN_STAGES = (PASSWORD_STAGE, TOKEN_STAGE, *MAIL_STAGES, IDENTITY_STAGE, OAUTH2_STAGE)
#: Those that say whose account it is, or is to be; each flow needs one.
REGISTRATION_NAMING_STAGES = (PASSWORD_STAGE, *MAIL_STAGES, OAUTH2_STAGE)
LOGIN_NAMING_STAGES = (*REGISTRATION_NAMING_STAGES, IDENTITY_STAGE)

#: Settings that the environment may give; it wins over the file.
ENVIRONMENT = {
    "SYNAPSE_LIKE_DATABASE_URL": ("database", "url"),
    "SYNAPSE_LIKE_REGISTRATION_TOKENS": ("registration", "tokens"),
    "SYNAPSE_LIKE_TURN_SECRET": ("voip", "shared_secret"),
    "SYNAPSE_LIKE_MAIL_PASSWORD": ("mail", "password"),
}

_WIDTH = 100
TITLE = "The settings of a synapse_like home server."


class ConfigError(Exception):
    """The settings cannot be used. Its text has one line for each fault: `file: key: reason`."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


# The kinds of values.


def _folder(info: ValidationInfo) -> Path:
    """The folder of the file that is being read."""
    folder: Path = (info.context or {}).get("folder", Path())
    return folder.absolute()


def _in_folder(path: Path, info: ValidationInfo) -> Path:
    return _folder(info) / path


def _server_name(text: str) -> str:
    try:
        return parse_server_name(text)
    except MatrixError as error:
        raise ValueError(error.message) from error


def _room_version(name: str) -> str:
    try:
        return rules_for(name).name
    except MatrixError as error:
        raise ValueError(error.message) from error


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as error:
        raise ValueError("must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::") from error


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError("must be an IP address or network, such as 127.0.0.1 or 10.0.0.0/8") from error


def _url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL, such as https://matrix.example.org")
    return text


def _provider_url(text: str) -> str:
    parts = urlsplit(_url(text))
    if parts.scheme != "https" and parts.hostname not in {"localhost", "127.0.0.1", "::1"}:
        raise ValueError("must be a URL with https")
    return text


def _provider_id(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9_-]{1,64}", text):
        raise ValueError("must be of the characters a-z, 0-9, _ and -")
    return text


def _sender(text: str) -> str:
    _, address = parseaddr(text)
    try:
        canonical_email(address)
    except MatrixError as error:
        raise ValueError("must be like Example <no-reply@example.org>") from error
    return text


def _turn_uri(text: str) -> str:
    if not text.startswith(("turn:", "turns:", "stun:", "stuns:")):
        raise ValueError("must be a TURN URI, such as turn:turn.example.org?transport=udp")
    return text


def _picture_size(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,3}x[1-9][0-9]{0,3}", text, re.ASCII):
        raise ValueError("must be a width and a height, such as 320x240")
    return text


def _known_stage(stage: str) -> str:
    if stage not in KNOWN_STAGES:
        raise ValueError(f"must be one of the stages {', '.join(KNOWN_STAGES)}")
    return stage


def _sensible_flow(flow: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(flow)) != len(flow):
        raise ValueError("has a stage twice")
    return flow


def _names_account(flow: tuple[str, ...], stages: Sequence[str]) -> tuple[str, ...]:
    if not set(flow) & set(stages):
        raise ValueError(f"needs a stage that names the account: {', '.join(stages)}")
    return flow


def _registers(flow: tuple[str, ...]) -> tuple[str, ...]:
    return _names_account(flow, REGISTRATION_NAMING_STAGES)


def _logs_in(flow: tuple[str, ...]) -> tuple[str, ...]:
    return _names_account(flow, LOGIN_NAMING_STAGES)


def _all_reachable(flows: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    for shorter, longer in permutations(flows, 2):
        if longer[: len(shorter)] == shorter:
            raise ValueError(f"has the flow {list(longer)}, which is over as soon as {list(shorter)} is")
    return flows


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Item = TypeVar("Item")
# YAML has no tuples and no paths, so that these two are not strict about what they are made of. A list may be
# given as text with commas, too: the environment has no lists.
ListOf = Annotated[tuple[Item, ...], Strict(False), BeforeValidator(_split)]
OneOrMore = Annotated[ListOf[Item], Field(min_length=1)]
FilePath = Annotated[Path, Strict(False), AfterValidator(_in_folder)]
ServerName = Annotated[str, AfterValidator(_server_name)]
Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[str, AfterValidator(_network)]
Url = Annotated[str, AfterValidator(_url)]
ProviderUrl = Annotated[str, AfterValidator(_provider_url)]
ProviderId = Annotated[str, AfterValidator(_provider_id)]
TurnUri = Annotated[str, AfterValidator(_turn_uri)]
PictureSize = Annotated[str, AfterValidator(_picture_size)]
Port = Annotated[int, Field(ge=1, le=65535)]
Stage = Annotated[str, AfterValidator(_known_stage)]
Flow = Annotated[ListOf[Stage], AfterValidator(_sensible_flow)]
RegistrationFlows = Annotated[OneOrMore[Annotated[Flow, AfterValidator(_registers)]], AfterValidator(_all_reachable)]
LoginFlows = Annotated[OneOrMore[Annotated[Flow, AfterValidator(_logs_in)]], AfterValidator(_all_reachable)]


class Settings(BaseModel):
    """A mapping whose keys are all known. The text under each key is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, validate_default=True, use_attribute_docstrings=True
    )


Kind = TypeVar("Kind", bound=Settings)


class Section(Settings):
    """Settings under a heading, each of which may be left out."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, settings: Any) -> Any:
        # A heading under which everything is commented out has the value null.
        return {} if settings is None else settings


# The settings.


class Database(Section):
    """Where everything is kept."""

    url: str = Field("sqlite", repr=False)
    """`sqlite` (the file homeserver.db in the data directory), `sqlite:PATH`, or for a large server
    `postgresql://user:password@host/database`. Environment: SYNAPSE_LIKE_DATABASE_URL."""

    durability: Literal["full", "normal"] = "full"
    """SQLite only. `full`: what was acknowledged survives a power cut. `normal`: it survives a killed
    process, a power cut may take the last moments; in exchange sending is faster."""

    readers: int = Field(2, ge=1, le=64)
    """Connections that read at the same time, beside the one that writes."""

    @field_validator("url")
    @classmethod
    def _known_database(cls, url: str, info: ValidationInfo) -> str:
        if url == "sqlite" or url.startswith(("postgresql://", "postgres://")):
            return url
        path = url.removeprefix("sqlite:")
        if path in {"", url}:
            raise ValueError("must be sqlite, sqlite:PATH or postgresql://user:password@host/database")
        return f"sqlite:{_folder(info) / path}"


class Client(Section):
    """Where clients come in, by HTTP."""

    bind: OneOrMore[Address] = ("127.0.0.1",)
    """IP addresses to listen on. 127.0.0.1 is for this machine alone. 0.0.0.0 and `::` are all
    addresses of this machine; passwords then cross the network readable unless a proxy adds HTTPS."""

    port: Port = 8008
    """Port to listen on."""

    public_url: Url | None = None
    """How clients reach this server where that is not its address and port: https://matrix.example.org"""

    trusted_proxies: ListOf[Network] = ()
    """Addresses or networks of the proxies whose X-Forwarded-For is believed: [127.0.0.1, 10.0.0.0/8]"""


class Webclient(Section):
    """The chat page that a browser finds at this server's address."""

    enabled: bool = True
    """Whether there is one."""


class Federation(Section):
    """How this server speaks with other servers, by HTTPS."""

    enabled: bool = True
    """Whether it does so at all."""

    bind: ListOf[Address] = ()
    """IP addresses to listen on for other servers. Left out: the same as for clients."""

    port: Port = 8448
    """Port to listen on. Other servers look for port 8448, unless the server name has another one or DNS has
    an SRV record _matrix._tcp."""

    tls: bool = True
    """`false` to listen by plain HTTP, behind a proxy that does TLS."""

    tls_certificate: FilePath | None = None
    """PEM file of the certificate, followed by those between it and the authority's. It is read again when it
    changes. Left out: tls.crt in the data directory, which `init` makes, self-signed."""

    tls_private_key: FilePath | None = None
    """PEM file of the certificate's private key. Left out: tls.key in the data directory."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates other servers are believed. Left out: those of the
    system."""

    verify_certificates: bool = True
    """Whether the certificates of other servers are checked. `false` is for trying things out: then anybody on
    the way can pass for any server."""

    unverified_servers: ListOf[ServerName] = ()
    """Servers whose certificates are not checked, perhaps since they are self-signed: [old.example.org]"""

    allow_private_addresses: bool = False
    """Whether servers may be reached at addresses that are not on the internet: this machine's, those of private
    networks, and so on. Strangers choose the names of servers, and so where this server knocks."""

    accept_relayed_keys: bool = True
    """Whether the server that gives us the events of another one, which cannot be reached itself, may tell us the
    keys of that one."""

    trusted_key_servers: ListOf[ServerName] = ()
    """Servers that are asked for the keys of others that cannot be reached: [matrix.example.org]"""

    connect_timeout: PositiveFloat = 10.0
    """Seconds in which another server must have accepted a connection, TLS included."""

    answer_timeout: PositiveFloat = 60.0
    """Seconds in which it must have begun to answer."""

    body_timeout: PositiveFloat = 120.0
    """Seconds in which it must then have finished; five times as long for what concerns a whole room."""


class Registration(Section):
    """How people get an account."""

    mode: Literal["open", "token", "closed"] = "closed"
    """`open`: by themselves. `token`: by themselves with one of the tokens below. `closed`: not at all; the
    operator makes the accounts with `synapse_like register-user`."""

    flows: RegistrationFlows = ((PASSWORD_STAGE,),)
    """The ways to register, each a list of stages. With mode `token` each begins with the stage
    m.login.registration_token, whether it is listed here or not."""

    tokens: ListOf[str] = Field((), repr=False)
    """Each may be used any number of times. Environment: SYNAPSE_LIKE_REGISTRATION_TOKENS, separated by
    commas."""

    @field_validator("tokens")
    @classmethod
    def _enough_tokens(cls, tokens: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        asked_for = info.data.get("mode") == "token" or any(TOKEN_STAGE in flow for flow in info.data.get("flows", ()))
        if asked_for and not tokens:
            raise ValueError(f"must have at least one token, since registration asks for {TOKEN_STAGE}")
        if not all(tokens):
            raise ValueError("must not have an empty token")
        return tokens

    def offered_flows(self) -> tuple[tuple[str, ...], ...]:
        """The flows that are announced to clients: none if closed; in mode `token` the token comes first."""
        if self.mode == "closed":
            return ()
        if self.mode == "open":
            return self.flows
        return tuple((TOKEN_STAGE, *(stage for stage in flow if stage != TOKEN_STAGE)) for flow in self.flows)


class Login(Section):
    """How people log in."""

    flows: LoginFlows = ((PASSWORD_STAGE,),)
    """The ways to log in, each a list of stages: m.login.password, m.login.email.code, m.login.email.url,
    m.login.email.identity, m.login.oauth2."""

    session_lifetime: PositiveInt = 3600
    """Seconds in which a login or registration of several stages must be finished."""

    @field_validator("flows")
    @classmethod
    def _no_registration_stage(cls, flows: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        if any(TOKEN_STAGE in flow for flow in flows):
            raise ValueError(f"must not have the stage {TOKEN_STAGE}, which is for registration")
        return flows


class MailHandOver(Section):
    """The mail server by which people are sent codes and links."""

    host: str | None = None
    """Its name or address. Left out: this server sends no mail."""

    port: Port | None = None
    """Left out: 587, or 465 with security `tls`, or 25 with `none`."""

    security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls`: TLS begins on the open connection, or nothing is sent. `tls`: it begins with the connection.
    `none`: no TLS, for a mail server on this machine."""

    username: str | None = None
    """By which one logs in there. Left out: one need not."""

    password: str | None = Field(None, repr=False)
    """The password for it. Environment: SYNAPSE_LIKE_MAIL_PASSWORD."""

    sender: Annotated[str, AfterValidator(_sender)] | None = None
    """What stands in From: Example <matrix@example.org>. Left out: no-reply@ and the server's name."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates the mail server is believed. Left out: those of the
    system."""

    verify_certificate: bool = True
    """Whether its certificate is checked."""

    timeout: PositiveFloat = 20.0
    """Seconds that it may take to agree to a mail, and again to take it."""

    templates: FilePath | None = None
    """Folder of one's own letters, for those that are not to be the usual ones; see docs/operating.md."""

    @field_validator("password")
    @classmethod
    def _password_for_user(cls, password: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("username") is not None and not password:
            raise ValueError("must be given, since there is a username")
        return password

    @property
    def usual_port(self) -> int:
        """The port to connect to."""
        return self.port or {"starttls": 587, "tls": 465, "none": 25}[self.security]


class Mail(MailHandOver):
    """The mail server by which people are sent codes and links."""

    link_lifetime: PositiveInt = 3600
    """Seconds in which a link in a mail must be used that resets a password or adds an address."""


class IdentityServers(Section):
    """The identity servers whose word counts as to whose an e-mail address is."""

    trusted: ListOf[Url] = ()
    """Where they are: [https://id.example.org]. No others are ever asked."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates they are believed. Left out: those of the system."""

    timeout: PositiveFloat = 10.0
    """Seconds that one may take to answer."""

    beside: FilePath | None = None
    """The settings file of an identity server that is to run in this process, beside this server. It is trusted only
    if it is among the trusted ones."""

    accept_untrusted_invites: bool = False
    """Whether users are invited by their addresses also where an identity server that is not trusted says that these
    are theirs. The server of whoever invited them checks that in any case."""


class OAuth2Provider(Settings):
    """A provider of OAuth 2 or OpenID Connect."""

    id: ProviderId
    """What it is called in addresses and in the database; it must not change, nor be given to another one."""

    name: str
    """What it is called on pages."""

    issuer: ProviderUrl | None = None
    """Its issuer identifier, from which everything else is found out. It has to be given, or else the endpoints."""

    authorization_endpoint: ProviderUrl | None = None
    """For a provider of which nothing can be found out."""

    token_endpoint: ProviderUrl | None = None
    """The same."""

    userinfo_endpoint: ProviderUrl | None = None
    """Where it tells who somebody is, as JSON."""

    jwks_uri: ProviderUrl | None = None
    """Where the keys are by which its ID tokens, together with `issuer`, are checked."""

    client_id: str
    """What this server is called there."""

    client_secret: str = Field(repr=False)
    """The secret that goes with it."""

    client_authentication: Literal["basic", "post"] = "basic"
    """How the secret is shown: in the header, or in the body."""

    scopes: OneOrMore[str] = ("openid", "profile", "email")
    """What this server wants to know."""

    subject_claim: str = "sub"
    """The claim by which it tells people apart: one that never changes, and is never given to another person."""

    name_claim: str = "preferred_username"
    """The claim that gives the user name."""

    displayname_claim: str = "name"
    """The claim that gives a new account its display name."""

    new_accounts: Literal["never", "by_name"] = "never"
    """Whether somebody who logs in with it, and has no account, gets one of the user name that it gives, also where
    registration is closed."""

    link_accounts: Literal["never", "by_email", "by_name"] = "never"
    """Whether somebody who logs in with it for the first time gets into an account that is there: the one with the
    e-mail address that it has confirmed, or the one of the user name that it gives."""

    @model_validator(mode="after")
    def _whole(self) -> OAuth2Provider:
        if self.authorization_endpoint is None:
            if self.issuer is None:
                raise ValueError("must have an issuer, or an authorization_endpoint and a token_endpoint")
            if any((self.token_endpoint, self.userinfo_endpoint, self.jwks_uri)):
                raise ValueError("must have an authorization_endpoint, since it has other endpoints")
        elif self.token_endpoint is None:
            raise ValueError("must have a token_endpoint, since it has an authorization_endpoint")
        elif self.userinfo_endpoint is None and (self.issuer is None or self.jwks_uri is None):
            raise ValueError("must have a userinfo_endpoint, or an issuer and a jwks_uri")
        return self


class OAuth2(Section):
    """The providers with which people log in by m.login.oauth2; see docs/operating.md."""

    providers: ListOf[OAuth2Provider] = ()
    """Each with `id`, `name`, `issuer`, `client_id` and `client_secret`, at least."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates they are believed. Left out: those of the system."""

    timeout: PositiveFloat = 10.0
    """Seconds that one may take to answer."""

    @field_validator("providers")
    @classmethod
    def _different(cls, providers: tuple[OAuth2Provider, ...]) -> tuple[OAuth2Provider, ...]:
        if len({provider.id for provider in providers}) != len(providers):
            raise ValueError("must not have two with the same id")
        return providers


class Contacts(Section):
    """The address books of users."""

    look_up: bool = True
    """Whether the first of the trusted identity servers is asked which Matrix users the contacts are: by hashes of
    their addresses where it can be."""


PolicyHook = Literal["registration", "invites", "room_creation", "local_sends", "remote_sends"]


class PolicyServer(Settings):
    """A server that is asked whether something may be done."""

    url: Url
    """Where it is asked, by POST."""

    hooks: OneOrMore[PolicyHook]
    """What it is asked about: registration, invites, room_creation, local_sends, remote_sends."""

    timeout: PositiveFloat = 5.0
    """Seconds that it may take to answer."""

    on_failure: Literal["open", "closed"] = "open"
    """What counts if it does not answer in time: `open` allows, `closed` refuses."""


class Policy(Section):
    """The policy servers, which are asked before things happen; docs/operating.md says how they answer."""

    servers: ListOf[PolicyServer] = ()
    """Each with its `url`, its `hooks`, and if need be `timeout` (5) and `on_failure` (open, or closed)."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates they are believed. Left out: those of the system."""


class Rooms(Section):
    """What rooms are like."""

    default_version: Annotated[str, AfterValidator(_room_version)] = DEFAULT_VERSION
    """The version of the rules of a new room whose maker asks for none: spec-2014, or 1 to 12 for the versions of
    today's Matrix. A room keeps its version for ever."""


class Rate(Settings):
    """How much of something is allowed."""

    per_second: PositiveFloat
    """Requests per second in the long run; a fraction for one in several seconds."""

    burst: PositiveInt
    """Requests at once, after a pause."""


class RateClasses(Section):
    """The limits, each `{per_second: in the long run, burst: at once, after a pause}`."""

    login: Rate = Rate(per_second=0.2, burst=10)
    """Attempts to log in, per client address."""

    login_steps: Rate = Rate(per_second=1, burst=30)
    """Further requests of a login or registration that is under way, per client address."""

    mail: Rate = Rate(per_second=0.005, burst=5)
    """Mails with a code or a link, per e-mail address and per user."""

    tries: Rate = Rate(per_second=0.1, burst=20)
    """Attempts to prove that one is a certain user, from whatever address, per user."""

    lookup: Rate = Rate(per_second=0.2, burst=100)
    """Addresses that identity servers are asked about, per user."""

    registration: Rate = Rate(per_second=0.1, burst=10)
    """Attempts to register, per client address."""

    send: Rate = Rate(per_second=10, burst=50)
    """Whatever changes something, per user."""

    read: Rate = Rate(per_second=50, burst=200)
    """Everything else, per user, or per client address where no user is known."""

    federation: Rate = Rate(per_second=100, burst=500)
    """Requests of other servers, per server."""

    strangers: Rate = Rate(per_second=5, burst=100)
    """Requests of other servers for which this one may have to ask for the keys of a server, per address."""


class RateLimits(Section):
    """How much one user or one address may ask for."""

    enabled: bool = True
    """Whether there are limits at all."""

    classes: RateClasses = RateClasses()


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


class Content(Section):
    """Files that users upload, and copies of those of other servers. Sizes are in bytes, times in seconds."""

    directory: FilePath | None = None
    """Where they are kept. Left out: content/ in the data directory."""

    max_upload_size: PositiveInt = 50 * 1024 * 1024
    """Of one file."""

    upload_timeout: PositiveFloat = 600.0
    """How long an upload may take."""

    user_quota: int = Field(2 * 1024 * 1024 * 1024, ge=0)
    """Of all files together that one user has uploaded; 0 for any amount."""

    max_remote_size: PositiveInt = 50 * 1024 * 1024
    """Of one file of another server; larger ones cannot be seen here."""

    remote_cache_size: PositiveInt = 10 * 1024 * 1024 * 1024
    """Of all copies of other servers' files together, with the thumbnails of them. If there is more, those go that were
    used longest ago; when somebody wants them, they are fetched again. The file that has just come counts only after
    that: the disk needs room for some more."""

    remote_timeout: PositiveFloat = 120.0
    """How long another server may take to send one file."""

    thumbnail_sizes: ListOf[PictureSize] = ("32x32", "96x96", "320x240", "640x480", "800x600")
    """Widths and heights of the smaller pictures that are made of pictures: whoever wants another size gets the next
    larger one."""

    dynamic_thumbnails: bool = False
    """Whether every size is made that somebody wants, and the list above is ignored."""

    thumbnail_processes: int = Field(2, ge=1, le=64)
    """How many pictures are worked on at the same time, each in a process of its own."""

    max_image_pixels: PositiveInt = 50_000_000
    """Width times height of a picture; of larger ones no smaller ones are made."""

    thumbnail_memory: int = Field(768 * 1024 * 1024, ge=128 * 1024 * 1024)
    """What such a process may have. It needs some eight bytes for each pixel, and 128 MiB for itself."""

    thumbnail_cpu_time: PositiveInt = 10
    """Processor time that it may use."""

    thumbnail_timeout: PositiveFloat = 30.0
    """How long it may take."""

    @field_validator("remote_cache_size")
    @classmethod
    def _room_for_one(cls, size: int, info: ValidationInfo) -> int:
        if size < info.data.get("max_remote_size", 0):
            raise ValueError("must not be smaller than max_remote_size")
        return size

    @field_validator("thumbnail_sizes")
    @classmethod
    def _some_size(cls, sizes: tuple[str, ...]) -> tuple[str, ...]:
        if not sizes:
            raise ValueError("must have at least one size")
        return sizes

    @property
    def made_sizes(self) -> list[tuple[int, int]]:
        """Widths and heights of the thumbnails that are made; none for any."""
        if self.dynamic_thumbnails:
            return []
        return [
            (int(width), int(height)) for width, _, height in (size.partition("x") for size in self.thumbnail_sizes)
        ]


class Limits(Section):
    """How large a single request may be."""

    max_body_bytes: int = Field(1024 * 1024, ge=65536)
    """Bytes in the body of a request."""

    max_json_depth: int = Field(100, ge=10, le=500)
    """Levels of lists and objects in one another."""

    max_pipelined: int = Field(8, ge=1, le=64)
    """Requests of one connection that are worked on at the same time."""

    long_poll_max_ms: int = Field(300_000, ge=1000)
    """Milliseconds that a client may wait for events in one request; a longer wait is cut to this."""


class PasswordHashing(Section):
    """What one attempt at a password costs (argon2id). Accounts keep working when this is changed."""

    memory_kib: int = Field(19456, ge=64, le=4 * 1024 * 1024)
    """Memory, in KiB."""

    iterations: int = Field(2, ge=1, le=100)
    """Passes over that memory."""

    parallelism: int = Field(1, ge=1, le=8)
    """Threads."""


class Log(Section):
    """What is written to standard error."""

    format: Literal["text", "json"] = "text"
    """`text` for people, `json` for programs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important level that is written: debug, info, warning or error."""


class Config(Settings):
    """All the settings of a server."""

    server_name: ServerName
    """The name of this server: the part after the colon in the names of its users, rooms and aliases. Other
    servers find it by this name. It cannot be changed once there are users."""

    data_dir: FilePath = Path()
    """The data directory; the SQLite database lies in it."""

    signing_key_file: FilePath = Path("signing.key")
    """The key by which this server signs what it sends. Keep it secret, and keep a copy of it."""

    database: Database = Database()
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
    def mail_sender(self) -> str:
        """What stands in From."""
        host = self.server_name.partition(":")[0] if not self.server_name.startswith("[") else "localhost"
        return self.mail.sender or f"no-reply@{host}"

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


# Reading.

#: Where settings stand today that had another name; an older file goes on working.
MOVED = {("limits", "max_upload_bytes"): ("content", "max_upload_size")}


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Read the settings of a home server from a file and the environment.

    :param environ: the environment variables, as `os.environ` has them.
    :raises ConfigError: with all the faults that there are.
    """
    return parse(read(path), source=str(path), folder=path.parent, environ=environ)


def read(path: Path) -> object:
    """What a YAML file holds.

    :raises ConfigError: it cannot be read.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeysLoader)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: {_yaml_fault(error)}"]) from error


def parse(settings: object, *, source: str, folder: Path, environ: Mapping[str, str]) -> Config:
    """Make settings of a home server of what a YAML file holds.

    :param source: the name of the file, for the faults.
    :param folder: what relative paths are relative to.
    :param environ: environment variables.
    :raises ConfigError: with all the faults that there are.
    """
    return parse_as(Config, settings, source=source, folder=folder, environ=environ, environment=ENVIRONMENT)


def parse_as(
    model: type[Kind],
    settings: object,
    *,
    source: str,
    folder: Path,
    environ: Mapping[str, str],
    environment: Mapping[str, tuple[str, str]],
) -> Kind:
    """The same for settings of any kind.

    :param environment: which variables give which settings.
    :raises ConfigError: with all the faults that there are.
    """
    if not isinstance(settings, Mapping):
        raise ConfigError([f"{source}: must be a mapping, `key: value`"])
    settings, overridden = _with_environment(_with_new_names(settings), environ, environment)
    try:
        return model.model_validate(settings, context={"folder": folder})
    except ValidationError as error:
        raise ConfigError([_fault(model, detail, source, overridden) for detail in error.errors()]) from error


class _UniqueKeysLoader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML's loader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # refused below
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} stands twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _yaml_fault(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"line {error.problem_mark.line + 1}: {error.problem or error.context}"
    return " ".join(str(error).split())


def _with_new_names(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings with those that an older file has under an older name where they stand today."""
    for (old_heading, old_key), (heading, key) in MOVED.items():
        old, new = settings.get(old_heading), settings.get(heading) or {}
        if isinstance(old, Mapping) and isinstance(new, Mapping) and old_key in old and key not in new:
            rest = {name: value for name, value in old.items() if name != old_key}
            settings = {**settings, old_heading: rest, heading: {**new, key: old[old_key]}}
    return settings


def _with_environment(
    settings: Mapping[str, Any], environ: Mapping[str, str], environment: Mapping[str, tuple[str, str]]
) -> tuple[dict[str, Any], dict[tuple[str, str], str]]:
    """The settings with what the environment gives, and which variable gave what."""
    settings = dict(settings)
    overridden = {}
    for variable, (heading, key) in environment.items():
        section = settings.get(heading) or {}
        if environ.get(variable) and isinstance(section, Mapping):
            settings[heading] = {**section, key: environ[variable]}
            overridden[heading, key] = variable
    return settings, overridden


def _fault(model: type[Settings], detail: ErrorDetails, source: str, overridden: Mapping[tuple[str, str], str]) -> str:
    """One fault as a line: `file: key: reason`."""
    place = detail["loc"]
    variable = overridden.get((str(place[0]), str(place[1]))) if len(place) > 1 else None
    if variable is not None:
        return f"environment: {variable}: {_reason(model, detail)}"
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    return f"{source}: {key}: {_reason(model, detail)}"


def _reason(model: type[Settings], detail: ErrorDetails) -> str:
    match detail["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            *headings, key = detail["loc"]
            near = get_close_matches(str(key), _keys_under(model, headings), n=1)
            return f"is not a setting; did you mean {near[0]}?" if near else "is not a setting"
        case "model_type":
            return "must be a mapping, `key: value`"
        case "tuple_type":
            return "must be a list"
        case "value_error":
            return str(detail["ctx"]["error"])
    return detail["msg"].replace("Input should", "must").replace("String should", "must")


def _keys_under(model: Any, headings: Sequence[int | str]) -> Sequence[str]:
    for heading in headings:
        # The annotation of a list is that of a tuple of equal things.
        model = get_args(model)[0] if isinstance(heading, int) else model.model_fields[heading].annotation
    return list(model.model_fields)


# Writing.


def sample(config: Settings, title: str = TITLE, check: str = "check-config") -> str:
    """The settings as a YAML file with the help for each; what was not set stands there commented out.

    :param check: the command that checks such a file.
    """
    lines = [
        f"# {title}",
        "# A line that begins with `#key:` shows a default; to change it, take the `#` away.",
        f"# After a change: synapse_like {check}, then restart the server.",
        *_section_lines(config, ""),
    ]
    return "\n".join(lines) + "\n"


def _section_lines(section: Settings, indent: str) -> Iterator[str]:
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        is_section = isinstance(value, Section)
        help_text = type(value).__doc__ if is_section else field.description
        yield ""
        yield from textwrap.wrap(help_text or "", _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        if is_section:
            yield f"{indent}{key}:"
            yield from _section_lines(value, f"{indent}  ")
        elif key in section.model_fields_set:
            yield f"{indent}{key}: {_inline(value)}"
        else:
            yield f"{indent}#{key}: {_inline(field.default)}"


def _inline(value: object) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(
        to_jsonable_python(value, exclude_none=True), default_flow_style=True, width=10**6, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")
