"""A certificate authority of a test's own, and files as an operator would lay them down."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    certificate_pem: bytes
    key_pem: bytes

    def write(self, certificate: Path, key: Path) -> None:
        """Replaced whole, the key first, as a careful renewal does it."""
        for path, body in ((key, self.key_pem), (certificate, self.certificate_pem)):
            fresh = path.with_suffix(".fresh")
            fresh.write_bytes(body)
            fresh.replace(path)


class Authority:
    def __init__(self, name: str = "test authority") -> None:
        self._key = generate_ec(SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = (
            self._builder(self._name, self._name, DAY)
            .public_key(self._key.public_key())
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(*[n in (0, 5, 6) for n in range(9)]), critical=True)
            .sign(self._key, SHA256())
        )
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def issue(
        self,
        name: str,
        *,
        uri: str | None = None,
        host: str | None = None,
        lasts: datetime.timedelta = DAY,
        rsa: bool = False,
    ) -> Issued:
        """A certificate for loopback, or else for a URI or a host alone, good from two days ago until ``lasts`` from
        now."""
        key = generate_rsa(65537, 2048) if rsa else generate_ec(SECP256R1())
        alternatives: list[x509.GeneralName] = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        if uri is not None:
            alternatives = [x509.UniformResourceIdentifier(uri)]
        if host is not None:
            alternatives = [x509.DNSName(host)]
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = (
            self._builder(subject, self._name, lasts)
            .public_key(key.public_key())
            .add_extension(x509.BasicConstraints(False, None), critical=True)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, SHA256())
        )
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Issued(certificate.public_bytes(Encoding.PEM), pem)

    @staticmethod
    def _builder(subject: x509.Name, issuer: x509.Name, lasts: datetime.timedelta) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + lasts)
        )
