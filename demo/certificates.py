"""An authority that the servers of the demo trust, and the certificates that it gives them.

On the internet, a server has its certificate from one of the authorities that every system knows. Here there is one
of our own: `make` writes `ca.crt` and `ca.key` into a folder, and for each server a certificate and its key.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 3650


def make(authority: Path, host: str, certificate: Path, private_key: Path) -> None:
    """Make what is missing: the authority, and the certificate of a server.

    :param authority: the folder of the authority.
    :param host: the server's name without its port.
    :param certificate: where the server's certificate goes; if it is there, it is kept.
    :param private_key: where its key goes.
    """
    authority_file, authority_key_file = authority / "ca.crt", authority / "ca.key"
    if not authority_file.exists():
        key = _new_key(authority_key_file)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The authority of the demo")])
        _write(authority_file, _pem(_builder(name, name, key, is_authority=True).sign(key, hashes.SHA256())))
    if certificate.exists():
        return
    issuer = x509.load_pem_x509_certificate(authority_file.read_bytes())
    issuer_key = serialization.load_pem_private_key(authority_key_file.read_bytes(), None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError(f"{authority_key_file} is not a key that this program made")
    key = _new_key(private_key)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    builder = (
        _builder(subject, issuer.subject, key, is_authority=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    _write(certificate, _pem(builder.sign(issuer_key, hashes.SHA256())))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, is_authority: bool
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=0 if is_authority else None), critical=True)
    )


def _new_key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = ec.generate_private_key(ec.SECP256R1())
    _write(
        file,
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(file: Path, content: bytes) -> None:
    """Write a file that only its owner may read, wholly or not at all."""
    unfinished = file.with_name(file.name + ".new")
    unfinished.write_bytes(content)
    unfinished.chmod(0o600)
    os.replace(unfinished, file)
