"""TLS of the gRPC port: credentials that follow the files, and the proof at the start that 1.2 is refused."""

import asyncio
import ssl

import grpc

from oddstream_server.transport.certificates import CertificateStore, ServerCertificate

_PROBE_SECONDS = 5.0


class OlderTlsAccepted(Exception):
    """The port takes TLS below 1.3, which must not be served."""


def server_credentials(store: CertificateStore) -> grpc.ServerCredentials:
    """Credentials whose certificate is the one in the files at each handshake. Open connections keep theirs.

    Where the files name a client CA, a client without a certificate that it signed is refused in the handshake.
    """

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        fresh = store.changed()
        return None if fresh is None else _configuration(fresh)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(store.current),
        fetch,  # type: ignore[arg-type]  # None means "as before", which the stubs don't know
        require_client_authentication=store.current.client_ca_pem is not None,
    )


def _configuration(certificate: ServerCertificate) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(certificate.private_key_pem, certificate.chain_pem)], root_certificates=certificate.client_ca_pem
    )


async def prove_older_tls_is_refused(host: str, port: int) -> None:
    """Knock with TLS 1.2 at our own port.

    :raises OlderTlsAccepted: it was let in. The suites were not restricted, or gRPC has changed.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # whom we reach is not the question
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (ssl.SSLError, OSError, TimeoutError):
        return
    writer.close()
    raise OlderTlsAccepted("the gRPC port accepts TLS 1.2: GRPC_SSL_CIPHER_SUITES did not take effect")
