"""The proof at the start: it must see a port that would take TLS 1.2."""

import asyncio
import ssl
from pathlib import Path

import pytest

from oddstream_server.transport.tls import OlderTlsAccepted, prove_older_tls_is_refused
from tests.authority import Authority


async def listen(folder: Path, lowest: ssl.TLSVersion) -> asyncio.Server:
    issued = Authority().issue("server")
    certificate, key = folder / "server.pem", folder / "server.key"
    issued.write(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = lowest
    context.load_cert_chain(certificate, key)
    return await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0, ssl=context)


async def test_a_port_that_takes_tls_1_2_is_found_out(tmp_path: Path) -> None:
    async with await listen(tmp_path, ssl.TLSVersion.TLSv1_2) as server:
        with pytest.raises(OlderTlsAccepted):
            await prove_older_tls_is_refused("127.0.0.1", server.sockets[0].getsockname()[1])


async def test_a_port_that_takes_only_tls_1_3_passes(tmp_path: Path) -> None:
    async with await listen(tmp_path, ssl.TLSVersion.TLSv1_3) as server:
        await prove_older_tls_is_refused("127.0.0.1", server.sockets[0].getsockname()[1])
