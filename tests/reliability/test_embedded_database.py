"""The embedded database: what it is, what it refuses, and what it needs beside its files."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import stat
from functools import partial
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from oddstream_server.embedded.errors import (
    DataFolderUnusable,
    KeysLost,
    OtherPostgresMajor,
    ServiceFailedToStart,
)
from oddstream_server.embedded.launch.binaries import postgres_programs
from oddstream_server.embedded.services import EmbeddedServices

# A process that is killed loses nothing that it wrote, so these tests needn't wait for the disk.
unsynced_services = partial(EmbeddedServices, postgres_settings={"fsync": "off"})


async def test_a_new_database_is_checked_utf8_utc_and_ordered_the_same_on_every_machine(new_data_folder: Path) -> None:
    services = EmbeddedServices(new_data_folder, redis=False, postgres_settings={"work_mem": "9MB"})
    urls = await services.start(print)
    engine = create_async_engine(urls.database_url)
    expected = {
        "data_checksums": "on",
        "server_encoding": "UTF8",
        "TimeZone": "UTC",
        "jit": "off",
        "wal_level": "replica",
        "work_mem": "9MB",
        "listen_addresses": "",
    }
    try:
        async with engine.connect() as connection:
            names = (
                "data_checksums",
                "server_encoding",
                "TimeZone",
                "jit",
                "wal_level",
                "work_mem",
                "listen_addresses",
            )
            settings = {name: (await connection.execute(text(f"SHOW {name}"))).scalar_one() for name in names}
            locale = (
                await connection.execute(
                    text("SELECT datlocprovider, datlocale FROM pg_database WHERE datname = current_database()")
                )
            ).one()
            ordered = await connection.execute(
                text("SELECT t FROM (VALUES ('b'), ('B'), ('a'), ('ä'), ('_')) AS v (t) ORDER BY t")
            )
            assert "".join(ordered.scalars()) == "B_abä"
    finally:
        await engine.dispose()
        await services.stop(print)
    assert settings == expected
    assert (locale.datlocprovider, locale.datlocale) in {("b", "C.UTF-8"), (b"b", "C.UTF-8")}


async def test_an_operators_own_setting_stands_through_restarts(data_folder: Path) -> None:
    with (data_folder / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("work_mem = '11MB'\n")
    services = unsynced_services(data_folder, redis=False)
    urls = await services.start(print)
    connection = await asyncpg.connect(urls.database_dsn)
    assert await connection.fetchval("SHOW work_mem") == "11MB"
    await connection.close()
    await services.stop(print)


async def test_tcp_is_there_only_when_asked_for_and_wants_the_password(data_folder: Path, unused_tcp_port: int) -> None:
    services = unsynced_services(data_folder, redis=False, tcp_port=unused_tcp_port)
    urls = await services.start(print)
    try:
        assert urls.database_tcp_dsn is not None
        connection = await asyncpg.connect(urls.database_tcp_dsn)
        assert await connection.fetchval("SHOW listen_addresses") == "127.0.0.1"
        stored = await connection.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = 'oddstream'")
        assert stored.startswith("SCRAM-SHA-256$")
        await connection.close()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(f"postgresql://oddstream:guess@127.0.0.1:{unused_tcp_port}/oddstream")
        local = await asyncpg.connect(urls.database_dsn)
        await local.close()
    finally:
        await services.stop(print)
    password_file = data_folder / "keys" / "postgres_password"
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    assert password_file.read_text().strip() not in repr(urls)
    logged = "".join(path.read_text() for path in (data_folder / "logs").rglob("*.log"))
    assert password_file.read_text().strip() not in logged


async def test_a_folder_of_another_major_version_is_refused_with_the_dump_command(data_folder: Path) -> None:
    (data_folder / "postgres" / "PG_VERSION").write_text("16\n")
    with pytest.raises(OtherPostgresMajor) as refusal:
        await unsynced_services(data_folder).start(print)
    assert (refusal.value.found, refusal.value.ours) == (16, 18)
    assert "PostgreSQL 16" in str(refusal.value)
    assert "PostgreSQL 18" in str(refusal.value)
    assert refusal.value.dump_command in str(refusal.value)
    program = shlex.split(refusal.value.dump_command)[0]
    assert program.endswith("bin/pg_dump")
    assert Path(program).is_file()
    assert not (data_folder / "postgres" / "postmaster.pid").exists()


async def test_a_folder_of_something_else_is_refused_untouched(new_data_folder: Path) -> None:
    strangers = new_data_folder / "postgres" / "thesis.txt"
    strangers.parent.mkdir(parents=True)
    strangers.write_text("mine")
    with pytest.raises(DataFolderUnusable, match="not a PostgreSQL database"):
        await unsynced_services(new_data_folder).start(print)
    assert strangers.read_text() == "mine"


async def test_a_database_without_its_keys_is_refused_and_starts_with_them_put_back(data_folder: Path) -> None:
    services = unsynced_services(data_folder, redis=False)
    await services.start(print)
    keys = services.keys
    await services.stop(print)
    shutil.copytree(data_folder / "keys", data_folder / "backup")
    (data_folder / "keys" / "pepper.1").unlink()
    with pytest.raises(KeysLost, match=r"pepper\.1 missing") as refusal:
        await unsynced_services(data_folder).start(print)
    assert "backup" in str(refusal.value)
    assert not (data_folder / "keys" / "pepper.1").exists()
    shutil.copy(data_folder / "backup" / "pepper.1", data_folder / "keys")
    again = unsynced_services(data_folder, redis=False)
    await again.start(print)
    assert not again.database_is_new
    assert again.keys == keys
    await again.stop(print)


async def test_a_configuration_that_postgres_refuses_is_told_in_its_own_words(data_folder: Path) -> None:
    with (data_folder / "postgres" / "postgresql.conf").open("a") as configuration:
        configuration.write("shared_buffers = 'plenty'\n")
    services = unsynced_services(data_folder)
    with pytest.raises(ServiceFailedToStart, match="plenty"):
        await services.start(print)
    assert services.health.postgres is None


async def test_a_dump_of_the_running_database_can_be_restored_and_is_the_owners_alone(data_folder: Path) -> None:
    services = unsynced_services(data_folder, redis=False)
    urls = await services.start(print)
    target = data_folder / "before-migration.dump"
    try:
        connection = await asyncpg.connect(urls.database_dsn)
        await connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS value")
        await services.dump_database(target, print)
        await connection.execute("DROP TABLE kept")
        restored = await asyncio.create_subprocess_exec(
            postgres_programs().program("pg_restore"), "--exit-on-error", f"--dbname={urls.database_dsn}", target
        )
        assert await restored.wait() == 0
        assert await connection.fetchval("SELECT sum(value) FROM kept") == 500_500
        await connection.close()
        assert stat.S_IMODE(target.stat().st_mode) == 0o600

        with pytest.raises(OSError, match="nowhere"):
            await services.dump_database(data_folder / "nowhere" / "x.dump", print)
        # Gone under it: what was written before must stay what it was.
        whole = target.read_bytes()
        (data_folder / "run" / ".s.PGSQL.5432").unlink()
        with pytest.raises(ServiceFailedToStart, match="pg_dump"):
            await services.dump_database(target, print)
        assert target.read_bytes() == whole
        assert not list(data_folder.glob("*.unfinished"))
    finally:
        await services.stop(print)
