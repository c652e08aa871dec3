"""The client certificate of a call's connection, as gRPC shows it."""

from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import NameOID

from oddstream_server.interceptors.call import Context


def certificate_of(context: Context) -> tuple[tuple[str, ...], int] | None:
    """Names (URIs, DNS names, common name) and expiry in microseconds; None where the client showed none."""
    shown = context.auth_context().get("x509_pem_cert")
    return _read(next(iter(shown))) if shown else None


@lru_cache(maxsize=1024)
def _read(pem: bytes) -> tuple[tuple[str, ...], int]:
    certificate = x509.load_pem_x509_certificate(pem)
    names: list[str] = []
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        pass
    else:
        names += alternatives.get_values_for_type(x509.UniformResourceIdentifier)
        names += alternatives.get_values_for_type(x509.DNSName)
    names += [str(attribute.value) for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return tuple(names), int(certificate.not_valid_after_utc.timestamp()) * 1_000_000
