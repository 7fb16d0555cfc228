"""Certificates of our own making, for servers whose operators have not got one yet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from synapse_like.federation.resolver import is_address, split_name

#: For how long a self-signed certificate is made.
SELF_SIGNED_DAYS = 3650


def make_key() -> str:
    """A new private key for a certificate, in PEM."""
    return (
        ec.generate_private_key(ec.SECP256R1())
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode("ascii")
    )


def make_self_signed(server_name: str, private_key: str) -> str:
    """A certificate for a server that is its own authority, in PEM.

    :param private_key: in PEM.
    :raises ValueError: the key cannot be used.
    """
    key = serialization.load_pem_private_key(private_key.encode("ascii"), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is of another kind")
    host, _ = split_name(server_name)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    name = x509.IPAddress(ip_address(host)) if is_address(host) else x509.DNSName(host)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=SELF_SIGNED_DAYS))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
