import ssl
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client import CollectorRegistry

from oddstream_server.shared_state.connection import SharedState
from tests.authority import Authority
from tests.tls_front import server_context, tls_front


@pytest.mark.parametrize(
    ("highest", "known", "reached"),
    [
        (ssl.TLSVersion.TLSv1_3, True, True),
        (ssl.TLSVersion.TLSv1_2, True, False),
        (ssl.TLSVersion.TLSv1_3, False, False),
    ],
    ids=["TLS 1.3", "TLS 1.2", "an authority that we don't know"],
)
async def test_redis_over_a_network_is_spoken_to_in_tls_1_3_with_a_certificate_that_is_its_own(
    redis_url: str, tmp_path: Path, highest: ssl.TLSVersion, known: bool, reached: bool
) -> None:
    authority = Authority()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem if known else Authority().pem)
    context = server_context(tmp_path, authority.issue("redis"), highest)
    async with tls_front(Path(urlsplit(redis_url).path), context) as port:
        state = SharedState(f"rediss://127.0.0.1:{port}/0", CollectorRegistry(), timeout_seconds=3, ca_file=ca)
        assert await state.healthy() is reached
        await state.close()
