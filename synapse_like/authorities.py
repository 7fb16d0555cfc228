"""The certificate authorities by which servers are believed that the operator has named: mail, identity servers."""

# mypy: allow-untyped-calls
# (Twisted is not all annotated.)

from __future__ import annotations

from pathlib import Path
from typing import Any

from OpenSSL import crypto
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
