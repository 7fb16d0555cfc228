"""TLS between servers, on both sides (FED-1, SEC-10): version 1.2 or 1.3, nothing older.

**Asking.** One context for all servers whose certificates are checked, one for those few whose are not; the files of
the certificate authorities are read once. The chain is checked by OpenSSL within the handshake, the name by
service-identity right after it, before a byte of ours is sent. A session is kept for each server, so that the next
connection to it needs no new key exchange with signatures.

**Answering.** The certificate is read again when its file has changed, so that it can be renewed under a running
server.
"""

# mypy: allow-untyped-calls
# (Twisted and pyOpenSSL are not all annotated.)

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from cachetools import LRUCache
from OpenSSL import SSL
from service_identity.pyopenssl import verify_hostname, verify_ip_address
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
)
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from zope.interface import implementer

from synapse_like.federation.resolver import is_address, split_name
from synapse_like.logs import get_logger

#: Ciphers of TLS 1.2 with forward secrecy and authenticated encryption; those of TLS 1.3 all have both.
CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
MOST_SESSIONS = 1000

_log = get_logger(__name__)


class CertificateUnusable(Exception):
    """A certificate or its key cannot be read, or do not belong together; says why, for the operator."""


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    # Buffers of idle connections are given back.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context


def _checking(ca_file: Path | None) -> SSL.Context:
    """What checks certificates.

    :raises CertificateUnusable: the file has none to check them by.
    """
    context = _context()
    context.set_verify(SSL.VERIFY_PEER, _as_openssl_says)
    if ca_file is None:
        context.set_default_verify_paths()
        return context
    try:
        context.load_verify_locations(str(ca_file))
    except SSL.Error as error:
        raise CertificateUnusable(f"cannot read the certificates in {ca_file}: {_openssl_says(error)}") from error
    return context


class ClientTls:
    """TLS towards the servers that we ask.

    :param ca_file: certificates of the authorities to trust; None for those of the system.
    :param verify: whether certificates are checked at all.
    :param unverified_servers: names of servers whose certificates are not.
    :raises CertificateUnusable: the file has no certificates.
    """

    def __init__(
        self, *, ca_file: Path | None = None, verify: bool = True, unverified_servers: Collection[str] = ()
    ) -> None:
        self._verify = verify
        self._unverified_servers = frozenset(unverified_servers)
        # Those of the system are 150: to read them takes 5 ms and 0.8 MB, which waits for the first connection. Nothing
        # can be wrong with them that would have to be told at the start.
        self._checked = None if ca_file is None else _checking(ca_file)
        self._unchecked = _context()
        self._unchecked.set_verify(SSL.VERIFY_NONE, _as_openssl_says)
        self._sessions: LRUCache[str, SSL.Session] = LRUCache(MOST_SESSIONS)

    def leave_unverified(self, servers: Collection[str]) -> None:
        """Have other servers be those whose certificates are not checked; connections that are open stay."""
        self._unverified_servers = frozenset(servers)

    def verifies(self, server_name: str) -> bool:
        """Whether the certificate of a server is checked."""
        return self._verify and server_name not in self._unverified_servers

    def towards(self, server_name: str) -> ServerConnectionCreator:
        """What makes the connections to one server."""
        if not self.verifies(server_name):
            context = self._unchecked
        elif self._checked is not None:
            context = self._checked
        else:
            context = self._checked = _checking(None)
        return ServerConnectionCreator(server_name, context, self._sessions.get(server_name))

    def check(self, server_name: str, connection: SSL.Connection) -> None:
        """See, when the handshake is done, that the certificate is that of the server.

        :raises VerificationError: it is not.
        :raises CertificateError: it names nobody.
        """
        if not self.verifies(server_name):
            return
        host, _ = split_name(server_name)
        if is_address(host):
            verify_ip_address(connection, host)
        else:
            verify_hostname(connection, host)

    def keep_session(self, server_name: str, connection: SSL.Connection) -> None:
        """Remember the session of a connection that has received something, for the next one."""
        session = connection.get_session()
        if session is not None:
            self._sessions[server_name] = session

    def forget_session(self, server_name: str) -> None:
        """Begin from the beginning with a server."""
        self._sessions.pop(server_name, None)


def _as_openssl_says(_connection: SSL.Connection, _certificate: object, _error: int, _depth: int, is_good: int) -> bool:
    return bool(is_good)


@implementer(IOpenSSLClientConnectionCreator)
class ServerConnectionCreator:
    """Makes the client's end of TLS connections to one server."""

    def __init__(self, server_name: str, context: SSL.Context, session: SSL.Session | None) -> None:
        self._host, _ = split_name(server_name)
        self._context = context
        self._session = session

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802, N803 - Twisted's
        connection = SSL.Connection(self._context, None)
        if not is_address(self._host):
            connection.set_tlsext_host_name(self._host.encode("ascii"))
        if self._session is not None:
            connection.set_session(self._session)
        connection.set_connect_state()
        return connection


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """TLS towards the servers that ask us.

    :param certificate: PEM file of our certificate and those between it and the authority's.
    :param private_key: PEM file of its key.
    :raises CertificateUnusable: they cannot be used.
    """

    def __init__(self, certificate: Path, private_key: Path) -> None:
        self._files = certificate, private_key
        self._seen = self._stamp()
        self._server_context = self._load()

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:  # noqa: N802, N803 - Twisted's
        connection = SSL.Connection(self._server_context, None)
        connection.set_accept_state()
        return connection

    def wrap(self, factory: IProtocolFactory, reactor: Any) -> TLSMemoryBIOFactory:
        """What is to listen instead of a factory, so that its connections are TLS."""
        wrapping = TLSMemoryBIOFactory(self, False, factory, reactor)
        wrapping.protocol = _PromptTransport
        return wrapping

    async def look(self) -> None:
        """Read the files again if they have changed. If they cannot be used, the old certificate stays."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._server_context = self._load()
        except CertificateUnusable as error:
            _log.error("the certificate has changed and cannot be used", reason=str(error))
        else:
            _log.info("the certificate has changed")

    def _stamp(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_stamp(file) for file in self._files)

    def _load(self) -> SSL.Context:
        certificate, private_key = self._files
        for file in self._files:
            try:
                file.open("rb").close()
            except OSError as error:
                raise CertificateUnusable(f"cannot read {file}: {error.strerror}") from error
        context = _context()
        file = certificate
        try:
            context.use_certificate_chain_file(str(certificate))
            file = private_key
            context.use_privatekey_file(str(private_key))
            context.check_privatekey()
        except SSL.Error as error:
            raise CertificateUnusable(f"cannot use {file}: {_openssl_says(error)}") from error
        context.set_session_id(b"synapse_like federation")
        return context


class _PromptTransport(TLSMemoryBIOProtocol):
    """Sends what is written at once, since answers are written with one call each; closes when everything is sent,
    and does not wait for the other side to agree: it may never.
    """

    def loseConnection(self) -> None:  # noqa: N802 - Twisted's name
        super().loseConnection()
        transport: Any = self.transport
        transport.loseConnection()


def _stamp(file: Path) -> tuple[int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino


def _openssl_says(error: SSL.Error) -> str:
    """The reasons in an error of OpenSSL, which often has none."""
    reasons = error.args[0] if error.args else []
    return "; ".join(str(reason[-1]) for reason in reasons) or "it does not hold what it should"
