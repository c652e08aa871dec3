"""TLS before a service that was built without it (the embedded PostgreSQL and Redis): a relay that ends the TLS."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.authority import Issued

_SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")


def server_context(folder: Path, issued: Issued, highest: ssl.TLSVersion) -> ssl.SSLContext:
    certificate, key = folder / "front.pem", folder / "front.key"
    issued.write(certificate, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = highest
    context.load_cert_chain(certificate, key)
    return context


@asynccontextmanager
async def tls_front(socket: Path, context: ssl.SSLContext, *, postgres: bool = False) -> AsyncIterator[int]:
    """Listen on 127.0.0.1 and hand what comes to a unix socket; answers the port.

    :param postgres: TLS begins after PostgreSQL's own request for it, else at once.
    """
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        try:
            if postgres:
                assert await reader.readexactly(8) == _SSL_REQUEST, "the client did not ask for TLS"
                writer.write(b"S")
                await writer.drain()
            await writer.start_tls(context)
            inner_reader, inner_writer = await asyncio.open_unix_connection(socket)
            await asyncio.gather(_pipe(reader, inner_writer), _pipe(inner_reader, writer))
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            served.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await server.wait_closed()


async def _pipe(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65_536):
        sink.write(data)
        await sink.drain()
    sink.close()
