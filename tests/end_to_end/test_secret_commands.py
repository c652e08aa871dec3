"""Secrets at the command line and in a serving process: keys at venues, secrets for files, keyring and Redis login."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import asyncpg
import grpc
import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from oddstream.v1 import market_service_pb2, market_service_pb2_grpc
from oddstream_server.__main__ import cli
from oddstream_server.application.keys.issuing import new_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.domain.principal import Role
from oddstream_server.embedded.redis_server import RedisServer
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from tests.serving_process import serving

pytestmark = pytest.mark.timeout(120)
Run = Callable[..., Result]
PEPPER, OLD, NEW = "a1" * 32, "b2" * 32, "c3" * 32


def keyring_file(folder: Path, *data_keys: str) -> Path:
    """A store's keyring with data keys of the versions 1, 2 and so on."""
    path = folder / "keyring.json"
    versions = {f"data_key.{version}": key for version, key in enumerate(data_keys, start=1)}
    path.write_text(json.dumps({"pepper.1": PEPPER, **versions}))
    path.chmod(0o600)
    return path


@pytest.fixture
def environment(tmp_path: Path, database_url: str, redis_url: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ODDSTREAM_")}
    return {
        **kept,
        "ODDSTREAM_DATA_DIR": str(tmp_path / "data"),
        "ODDSTREAM_DATABASE_URL": database_url,
        "ODDSTREAM_REDIS_URL": redis_url,
        "ODDSTREAM_KEYRING": f"file:{tmp_path / 'keyring.json'}",
        "COLUMNS": "200",
    }


@pytest.fixture
def command(tmp_path: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The server's command in this process: one of its own takes its second to start."""
    monkeypatch.chdir(tmp_path)  # no .env of the checkout

    def run(*arguments: str) -> Result:
        cleared = dict.fromkeys(name for name in os.environ if name not in environment)
        return CliRunner().invoke(cli, arguments, env={**cleared, **environment})

    return run


async def test_a_venues_key_is_sealed_listed_sealed_anew_and_forgotten(
    tmp_path: Path, command: Run, database_dsn: str
) -> None:
    keyring_file(tmp_path, OLD)
    pem = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    key_file = tmp_path / "kalshi.pem"
    key_file.write_bytes(pem)
    planted = pem.decode().splitlines()[3]

    async def wrapped_by() -> str:
        connection = await asyncpg.connect(database_dsn)
        rows = await connection.fetch("SELECT * FROM venue_credentials")
        await connection.close()
        assert planted not in repr([dict(row) for row in rows])
        return ",".join(row["wrapping_key"] for row in rows)

    kept = await asyncio.to_thread(
        command, "venue-keys", "set", "kalshi", "--key-id", "planted-id", "--private-key-file", str(key_file)
    )
    assert kept.exit_code == 0, kept.stderr
    assert planted not in kept.stdout + kept.stderr
    assert await wrapped_by() == "keyring/1"
    listed = await asyncio.to_thread(command, "venue-keys", "list")
    assert "kalshi" in listed.stdout
    assert "keyring/1" in listed.stdout

    keyring_file(tmp_path, OLD, NEW)
    resealed = await asyncio.to_thread(command, "venue-keys", "reseal")
    assert "sealed anew: 1" in resealed.stdout
    assert await wrapped_by() == "keyring/2"

    assert (await asyncio.to_thread(command, "venue-keys", "remove", "kalshi")).exit_code == 0
    assert await wrapped_by() == ""
    again = await asyncio.to_thread(command, "venue-keys", "remove", "kalshi")
    assert (again.exit_code, again.stderr.strip()) == (2, "no key of kalshi is kept")


def test_what_is_no_key_or_no_venue_is_refused_in_words(tmp_path: Path, environment: dict[str, str]) -> None:
    keyring_file(tmp_path, OLD)
    (tmp_path / "junk.pem").write_text("planted-junk")
    options = ("--key-id", "x", "--private-key-file", str(tmp_path / "junk.pem"))
    refused = subprocess.run(
        [sys.executable, "-m", "oddstream_server", "venue-keys", "set", "kalshi", *options],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "planted-junk" not in refused.stderr


def test_a_secret_is_written_to_a_file_that_is_its_owners_alone(tmp_path: Path, command: Run) -> None:
    (tmp_path / "source").write_text(json.dumps({"webhook": "https://planted.example.org"}))
    target = tmp_path / "webhook"
    done = command("write-secret", f"file:{tmp_path / 'source'}#webhook", str(target))
    assert done.exit_code == 0, done.stderr
    assert target.read_text().strip() == "https://planted.example.org"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert "planted.example.org" not in done.stdout + done.stderr
    missing = command("write-secret", f"file:{tmp_path / 'source'}#nothing", str(target))
    assert missing.exit_code == 2
    assert "has no field nothing" in missing.stderr


async def test_a_server_takes_its_keyring_and_its_redis_login_from_a_store(
    tmp_path: Path, database_url: str, redis_server: RedisServer, redis_url: str
) -> None:
    keyring = keyring_file(tmp_path, OLD)
    login = tmp_path / "redis.json"
    login.write_text(json.dumps({"username": "oddstream", "password": "planted-redis-password"}))
    assert redis_server.command("ACL SETUSER oddstream on >planted-redis-password ~* &* +@all") == "+OK"
    issued = new_key(Peppers({1: bytes.fromhex(PEPPER)}), owner="test", role=Role.ADMIN, now_us=1_790_000_000_000_000)
    database = Database(database_url, pool_size=1)
    await ApiKeyStore(database).create(issued.stored)
    await database.close()
    settings = {"keyring": f"file:{keyring}", "redis_login": f"file:{login}"}
    try:
        async with (
            serving(tmp_path, database_url, redis_url, settings) as server,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        ):
            markets = market_service_pb2_grpc.MarketServiceStub(channel)
            # A key that is hashed under the store's pepper is good, and one under the folder's own is not.
            auth = (("authorization", f"Bearer {issued.key.text}"),)
            await markets.ListMarkets(market_service_pb2.ListMarketsRequest(), metadata=auth)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await markets.ListMarkets(market_service_pb2.ListMarketsRequest(), metadata=server.auth)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert (await server.state())["redis"] == "up"
            assert redis_server.command("CLIENT KILL USER oddstream") != ":0", "nobody came by the login"
            log = server.log.read_text()
        assert "planted-redis-password" not in log
        assert OLD not in log
    finally:
        redis_server.command("ACL DELUSER oddstream")
