"""Where a home server is reached, and how it reaches others."""

from __future__ import annotations

from synapse_like.config.shared import Listener, MailHandOver
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
    Url,
)


class Client(Listener, frozen=True):
    """Where clients come in, by HTTP."""

    bind: OneOrMore[Address] = ("127.0.0.1",)
    """IP addresses to listen on. 127.0.0.1 is for this machine alone. 0.0.0.0 and `::` are all
    addresses of this machine; passwords then cross the network readable unless a proxy adds HTTPS."""

    port: Port = 8008
    """Port to listen on."""

    public_url: Url | None = None
    """How clients reach this server where that is not its address and port: https://matrix.example.org"""


class Webclient(Section, frozen=True):
    """The chat page that a browser finds at this server's address."""

    enabled: bool = True
    """Whether there is one."""


class Federation(Section, frozen=True):
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

    connect_timeout: Amount = 10.0
    """Seconds in which another server must have accepted a connection, TLS included."""

    answer_timeout: Amount = 60.0
    """Seconds in which it must have begun to answer."""

    body_timeout: Amount = 120.0
    """Seconds in which it must then have finished; five times as long for what concerns a whole room."""


class IdentityServers(Section, frozen=True):
    """The identity servers whose word counts as to whose an e-mail address is."""

    trusted: ListOf[Url] = ()
    """Where they are: [https://id.example.org]. No others are ever asked."""

    ca_file: FilePath | None = None
    """PEM file of the authorities by whose certificates they are believed. Left out: those of the system."""

    timeout: Amount = 10.0
    """Seconds that one may take to answer."""

    beside: FilePath | None = None
    """The settings file of an identity server that is to run in this process, beside this server. It is trusted only
    if it is among the trusted ones."""

    accept_untrusted_invites: bool = False
    """Whether users are invited by their addresses also where an identity server that is not trusted says that these
    are theirs. The server of whoever invited them checks that in any case."""


class Mail(MailHandOver, frozen=True):
    """The mail server by which people are sent codes and links."""

    link_lifetime: Count = 3600
    """Seconds in which a link in a mail must be used that resets a password or adds an address."""
