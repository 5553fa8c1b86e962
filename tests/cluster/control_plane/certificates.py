"""Certificates of a cluster that lives for one test run: an authority, a server, clients."""

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """Signs the certificates of a test cluster."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "enrollgate-tests")])
        certificate = _builder(self._name, self._name, self._key.public_key()).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self.certificate = folder / "ca.pem"
        self.certificate.write_bytes(_pem(certificate.sign(self._key, hashes.SHA256())))

    def server(self, *addresses: str, names: tuple[str, ...] = ()) -> Pair:
        """Issue a server certificate for localhost, these names and addresses (or 127.0.0.1)."""
        found = [ipaddress.ip_address(address) for address in addresses or ("127.0.0.1",)]
        known = [*map(x509.DNSName, ("localhost", *names)), *map(x509.IPAddress, found)]
        return self._issue(
            "server", [], ExtendedKeyUsageOID.SERVER_AUTH, x509.SubjectAlternativeName(known)
        )

    def client(self, name: str, *groups: str) -> Pair:
        """Issue a client certificate for a user of this name in these groups."""
        return self._issue(name, list(groups), ExtendedKeyUsageOID.CLIENT_AUTH, None)

    def signing_key(self) -> Path:
        """Create a key that signs service-account tokens."""
        path = self._folder / "service-accounts.key"
        path.write_bytes(_private(ec.generate_private_key(ec.SECP256R1())))
        return path

    def _issue(
        self,
        name: str,
        groups: list[str],
        use: x509.ObjectIdentifier,
        names: x509.SubjectAlternativeName | None,
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, self._name, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([use]), critical=False
        )
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        stem = name.replace(":", "-")
        pair = Pair(self._folder / f"{stem}.pem", self._folder / f"{stem}.key")
        pair.certificate.write_bytes(_pem(builder.sign(self._key, hashes.SHA256())))
        pair.key.write_bytes(_private(key))
        return pair


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
    )


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
