"""The server's certificate, read from files, checked, and read again when the files change. Knows no gRPC.

gRPC has no setting for the lowest TLS version. Its TLS 1.3 suites are always on, and its TLS 1.2 suites are named by an
environment variable that is read when gRPC starts: named are suites of the key type that the certificate does not have,
so that a handshake below 1.3 finds none to share. Hence a certificate can't change its key type while the server runs.
"""

import datetime
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from prometheus_client import CollectorRegistry, Counter, Gauge

log = structlog.get_logger()


class KeyType(StrEnum):
    RSA = "RSA"
    ECDSA = "ECDSA"

    @property
    def other_suites(self) -> str:
        """TLS 1.2 suites that no certificate of this type can serve."""
        other = KeyType.ECDSA if self is KeyType.RSA else KeyType.RSA
        return f"ECDHE-{other}-AES128-GCM-SHA256:ECDHE-{other}-AES256-GCM-SHA384"


class CertificateUnusable(Exception):
    """Names the file, what is wrong with it and the way out; holds nothing of the key."""


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    certificate: Path
    """PEM: the server's own first, then its intermediates."""
    private_key: Path
    """PEM, unencrypted."""
    client_ca: Path | None = None
    """PEM: who signs the certificates that clients must show; None asks for none."""

    def signature(self) -> tuple[object, ...]:
        """Changes whenever a file is written or replaced."""
        stats = [path.stat() for path in (self.certificate, self.private_key, self.client_ca) if path is not None]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    chain_pem: bytes
    private_key_pem: bytes = field(repr=False)
    client_ca_pem: bytes | None
    key_type: KeyType
    expire_time: datetime.datetime


def read_certificate(files: CertificateFiles) -> ServerCertificate:
    """:raises CertificateUnusable: a file can't be read, the key is another certificate's, or it has expired."""
    chain_pem = _bytes_of(files.certificate)
    key_pem = _bytes_of(files.private_key)
    ca_pem = _bytes_of(files.client_ca) if files.client_ca is not None else None
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
    except ValueError:
        raise CertificateUnusable(f"{files.certificate} holds no PEM certificate") from None
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateUnusable(f"{files.private_key} holds no unencrypted PEM key") from None
    if ca_pem is not None:
        try:
            x509.load_pem_x509_certificates(ca_pem)
        except ValueError:
            raise CertificateUnusable(f"{files.client_ca} holds no PEM certificate") from None
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if leaf.public_key().public_bytes(*form) != key.public_key().public_bytes(*form):
        raise CertificateUnusable(f"{files.private_key} is not the key of the first certificate in {files.certificate}")
    expire_time = leaf.not_valid_after_utc
    if expire_time <= datetime.datetime.now(datetime.UTC):
        raise CertificateUnusable(f"the certificate in {files.certificate} has expired on {expire_time:%Y-%m-%d}")
    return ServerCertificate(chain_pem, key_pem, ca_pem, _key_type(leaf, files), expire_time)


def _key_type(leaf: x509.Certificate, files: CertificateFiles) -> KeyType:
    public = leaf.public_key()
    if isinstance(public, RSAPublicKey):
        return KeyType.RSA
    if isinstance(public, EllipticCurvePublicKey | Ed25519PublicKey):
        return KeyType.ECDSA  # TLS 1.2 serves Ed25519 with the ECDSA suites
    raise CertificateUnusable(f"the certificate in {files.certificate} has neither an RSA nor an elliptic curve key")


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CertificateUnusable(f"{path} can't be read: {error.strerror}") from None


class CertificateStore:
    """The certificate now. ``changed`` is asked at each handshake, from gRPC's own thread.

    A new certificate that can't be used leaves the old one in place, is logged once and counted.

    :raises CertificateUnusable: the first one can't be used.
    """

    def __init__(self, files: CertificateFiles, registry: CollectorRegistry) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._signature = files.signature() if _exist(files) else ()
        self.current = read_certificate(files)
        self._loaded = Counter(
            "oddstream_tls_certificate_loads",
            "Certificates read from the files, by what came of it.",
            ["outcome"],
            registry=registry,
        )
        for outcome in ("used", "refused"):
            self._loaded.labels(outcome)
        self._expires = Gauge(
            "oddstream_tls_certificate_expire_time_seconds",
            "When the certificate in use expires, seconds since the epoch.",
            registry=registry,
        )
        self._took(self.current)

    def changed(self) -> ServerCertificate | None:
        """The new certificate where the files have changed since the last time and hold a usable one."""
        with self._lock:
            try:
                signature = self._files.signature()
            except OSError:
                return None  # between the removal and the making of a file
            if signature == self._signature:
                return None
            self._signature = signature
            try:
                fresh = read_certificate(self._files)
                if fresh.key_type is not self.current.key_type:
                    raise CertificateUnusable(
                        f"{self._files.certificate} now has an {fresh.key_type} key; a change from "
                        f"{self.current.key_type} needs a restart, since it decides how TLS 1.2 is refused"
                    )
            except CertificateUnusable as error:
                self._loaded.labels("refused").inc()
                log.error("the new certificate can't be used, the old one stays", why=str(error))
                return None
            self.current = fresh
            self._took(fresh)
            log.info("the certificate was changed", expire_time=fresh.expire_time.isoformat())
            return fresh

    def _took(self, certificate: ServerCertificate) -> None:
        self._loaded.labels("used").inc()
        self._expires.set(certificate.expire_time.timestamp())


def _exist(files: CertificateFiles) -> bool:
    try:
        files.signature()
    except OSError:
        return False
    return True


def restrict_grpc(files: CertificateFiles, set_suites: Callable[[str], None]) -> None:
    """Before gRPC is imported: hand the suites that refuse TLS 1.2 to whoever may set the environment.

    :raises CertificateUnusable: as :func:`read_certificate`.
    """
    set_suites(read_certificate(files).key_type.other_suites)
