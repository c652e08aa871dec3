import ssl
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from oddstream_server.app.process import service_tls
from oddstream_server.domain.errors import Unavailable
from oddstream_server.embedded.postgres.cluster import PostgresAddress
from oddstream_server.storage.database import Database
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
async def test_a_database_over_a_network_is_spoken_to_in_tls_1_3_with_a_certificate_that_is_its_own(
    postgres_address: PostgresAddress,
    database_url: str,
    tmp_path: Path,
    highest: ssl.TLSVersion,
    known: bool,
    reached: bool,
) -> None:
    authority = Authority()
    ca = tmp_path / "ca.pem"
    ca.write_bytes(authority.pem if known else Authority().pem)
    socket = postgres_address.sockets / f".s.PGSQL.{postgres_address.port}"
    context = server_context(tmp_path, authority.issue("database"), highest)
    async with tls_front(socket, context, postgres=True) as port:
        url = make_url(database_url).set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        database = Database(url, tls=service_tls(ca))
        try:
            async with database.reading() as transaction:
                assert await transaction.driver.fetchval("SELECT 1") == 1
            outcome = True
        except Unavailable:
            outcome = False
        finally:
            await database.close()
    assert outcome is reached
