"""Settings that home servers and identity servers have in common."""

from __future__ import annotations

from email.utils import parseaddr
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta
from msgspec.structs import asdict

from synapse_like.config.values import (
    Address,
    Amount,
    Count,
    FilePath,
    ListOf,
    Network,
    OneOrMore,
    Port,
    Section,
    Settings,
    Url,
)
from synapse_like.models import Checked, InFolder, Unfit
from synapse_like.protocol.email_addresses import canonical_email
from synapse_like.protocol.errors import MatrixError


def _sender(text: str) -> str:
    _, address = parseaddr(text)
    try:
        canonical_email(address)
    except MatrixError as error:
        raise ValueError("must be like Example <no-reply@example.org>") from error
    return text


def _database(url: str, folder: Path) -> str:
    if url == "sqlite" or url.startswith(("postgresql://", "postgres://")):
        return url
    path = url.removeprefix("sqlite:")
    if path in {"", url}:
        raise ValueError("must be sqlite, sqlite:PATH or postgresql://user:password@host/database")
    return f"sqlite:{folder / path}"


DatabaseUrl = Annotated[str, InFolder(_database)]


class Database(Section, frozen=True):
    """Where everything is kept."""

    url: DatabaseUrl = "sqlite"
    """`sqlite` (the file homeserver.db in the data directory), `sqlite:PATH`, or for a large server
    `postgresql://user:password@host/database`. Environment: SYNAPSE_LIKE_DATABASE_URL."""

    durability: Literal["full", "normal"] = "full"
    """`full`: what was acknowledged survives a power cut. `normal`, on SQLite: it survives a killed
    process, a power cut may take the last moments; in exchange sending is faster. On PostgreSQL:
    whatever `synchronous_commit` is there; if it is off, a crash of PostgreSQL takes them, too."""

    readers: Annotated[int, Meta(ge=1, le=64)] = 2
    """Connections that read at the same time, beside the one that writes."""


class Listener(Section, frozen=True, kw_only=True):
    """Where requests come in, by HTTP."""

    bind: OneOrMore[Address] = ("127.0.0.1",)
    """IP addresses to listen on."""

    port: Port
    """Port to listen on."""

    public_url: Url | None = None
    """How this server is reached where that is not its address and port."""

    trusted_proxies: ListOf[Network] = ()
    """Addresses or networks of the proxies whose X-Forwarded-For is believed: [127.0.0.1, 10.0.0.0/8]"""

    def url(self, server_name: str) -> str:
        """How a server of this name is reached, without a slash at the end."""
        if self.public_url is not None:
            return self.public_url.rstrip("/")
        address = ip_address(self.bind[0])
        if address.is_unspecified:
            # Every address of this machine: its name should lead to one of them.
            return f"http://{server_name.rpartition(':')[0] or server_name}:{self.port}"
        return url_of(str(address), self.port)


def url_of(address: str, port: int, scheme: str = "http") -> str:
    """The URL of a port at an IP address, without a slash at the end."""
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


class MailHandOver(Section, frozen=True):
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

    password: str | None = None
    """The password for it. Environment: SYNAPSE_LIKE_MAIL_PASSWORD."""

    sender: Annotated[str, Checked(_sender)] | None = None
    """What stands in From: Example <matrix@example.org>. Left out: no-reply@ and the server's name."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates the mail server is believed. Left out: those of the
    system."""

    verify_certificate: bool = True
    """Whether its certificate is checked."""

    timeout: Amount = 20.0
    """Seconds that it may take to agree to a mail, and again to take it."""

    templates: FilePath | None = None
    """Folder of one's own letters, for those that are not to be the usual ones; see docs/operating.md."""

    def __post_init__(self) -> None:
        if self.username is not None and not self.password:
            raise Unfit("password", "must be given, since there is a username")

    def sender_of(self, server_name: str) -> str:
        """What stands in From of the mail of a server."""
        host = server_name.partition(":")[0] if not server_name.startswith("[") else "localhost"
        return self.sender or f"no-reply@{host}"

    @property
    def usual_port(self) -> int:
        """The port to connect to."""
        return self.port or {"starttls": 587, "tls": 465, "none": 25}[self.security]


class Rate(Settings, frozen=True):
    """How much of something is allowed."""

    per_second: Amount
    """Requests per second in the long run; a fraction for one in several seconds."""

    burst: Count
    """Requests at once, after a pause."""


class Rates(Section, frozen=True):
    """What is allowed of several things."""

    def by_name(self) -> dict[str, tuple[float, int]]:
        """How much per second and how much at once, by what it is of."""
        rates: dict[str, Rate] = asdict(self)
        return {name: (rate.per_second, rate.burst) for name, rate in rates.items()}


class Log(Section, frozen=True):
    """What is written to standard error."""

    format: Literal["text", "json"] = "text"
    """`text` for people, `json` for programs."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important level that is written: debug, info, warning or error."""


class Metrics(Section, frozen=True):
    """Figures about the server for Prometheus, at /metrics of a port of their own, by HTTP."""

    port: Port | None = None
    """Port to listen on. Left out: there are none."""

    bind: OneOrMore[Address] = ("127.0.0.1",)
    """IP addresses to listen on. Whoever gets there sees how much is going on, though not between whom."""
