"""The certificate authorities by which servers are believed that the operator has named: mail, identity servers.

And why one is not believed, as a person reads it.
"""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import SSL, crypto
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates

_END = b"-----END CERTIFICATE-----"


class AuthoritiesUnusable(Exception):
    """Their file cannot be read, or holds none; the message says so, for the operator."""


def trust_root(ca_file: Path | None) -> Any:
    """Whom to believe, as Twisted takes it.

    :param ca_file: PEM file of the authorities; None for those of the system.
    :raises AuthoritiesUnusable: there are none in it.
    """
    if ca_file is None:
        return platformTrust()
    try:
        roots = [Certificate.loadPEM(part + _END) for part in ca_file.read_bytes().split(_END)[:-1]]
    except (OSError, ValueError, crypto.Error) as error:
        raise AuthoritiesUnusable(f"cannot read the certificates in {ca_file}: {error}") from error
    if not roots:
        raise AuthoritiesUnusable(f"there is no certificate in {ca_file}")
    return trustRootFromCertificates(roots)


def tls_reason(error: SSL.Error) -> str:
    """Why TLS failed: what OpenSSL says, without its brackets."""
    told = error.args[0] if error.args else ()
    said = (
        [str(item[-1]) for item in told if isinstance(item, tuple) and item] if isinstance(told, list | tuple) else []
    )
    if "certificate verify failed" in said:
        return "its certificate is not believed (self-signed, of an authority not known here, or out of date)"
    return f"TLS failed: {', '.join(said) or repr(error)}"
