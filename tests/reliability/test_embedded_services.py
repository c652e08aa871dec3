"""The embedded PostgreSQL and Redis live as long as their server: not shorter, and not longer."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis

from oddstream_server.embedded.errors import DataFolderInUse
from oddstream_server.embedded.launch.process import processes_gone, processes_in
from oddstream_server.embedded.services import EmbeddedServices, running_services
from oddstream_server.embedded.supervision import ServiceState

# A process that is killed loses nothing that it wrote, so these tests needn't wait for the disk.
unsynced_services = partial(EmbeddedServices, postgres_settings={"fsync": "off"})

# What the kernel and a fast shutdown need takes milliseconds; the bound is for a machine that is busy with other tests.
PATIENCE_SECONDS = 20.0

Hold = Callable[..., Any]


async def write_row(dsn: str, value: int) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (value int PRIMARY KEY)")
        await connection.execute("INSERT INTO kept VALUES ($1)", value)
    finally:
        await connection.close()


async def read_rows(dsn: str) -> list[int]:
    connection = await asyncpg.connect(dsn)
    try:
        return [row["value"] for row in await connection.fetch("SELECT value FROM kept ORDER BY value")]
    finally:
        await connection.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event of ours announces."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


async def ends_with_its_server(data_folder: Path) -> bool:
    return await processes_gone(data_folder / "postgres", "postgres", PATIENCE_SECONDS) and await processes_gone(
        data_folder / "redis", "redis-server", PATIENCE_SECONDS
    )


def shared_memory_ids() -> set[int]:
    lines = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {int(line.split()[1]) for line in lines}


async def test_a_second_server_on_the_folder_is_refused_with_the_first_ones_pid(data_folder: Path, hold: Hold) -> None:
    first = hold(data_folder)
    with pytest.raises(DataFolderInUse) as refusal:
        await unsynced_services(data_folder).start(print)
    assert refusal.value.pid == first.process.pid
    assert str(first.process.pid) in str(refusal.value)
    assert "ODDSTREAM_DATA_DIR" in str(refusal.value)
    second = hold(data_folder)
    assert second.said["refusal"] == "DataFolderInUse"
    await write_row(first.said["database_dsn"], 1)


async def test_a_command_beside_the_server_finds_its_services(data_folder: Path, hold: Hold) -> None:
    assert running_services(data_folder) is None
    holder = hold(data_folder)
    urls = running_services(data_folder)
    assert urls is not None
    assert urls.database_url == holder.said["database_url"]
    assert urls.redis_url == holder.said["redis_url"]
    await write_row(urls.database_dsn, 1)
    holder.end()
    assert running_services(data_folder) is None


async def test_a_stopped_server_leaves_no_process_no_socket_and_no_shared_memory(data_folder: Path, hold: Hold) -> None:
    holder = hold(data_folder)
    segment = int((data_folder / "postgres" / "postmaster.pid").read_text().splitlines()[6].split()[1])
    assert segment in shared_memory_ids()
    assert len(list((data_folder / "run").iterdir())) == 3
    holder.process.send_signal(signal.SIGTERM)
    assert holder.process.wait(PATIENCE_SECONDS) == 0
    assert processes_in(data_folder / "postgres", "postgres") == []
    assert processes_in(data_folder / "redis", "redis-server") == []
    assert list((data_folder / "run").iterdir()) == []
    assert segment not in shared_memory_ids()
    assert not (data_folder / "postgres" / "postmaster.pid").exists()


async def test_a_killed_server_takes_its_services_with_it_and_its_data_stays(data_folder: Path, hold: Hold) -> None:
    holder = hold(data_folder)
    await write_row(holder.said["database_dsn"], 7)
    holder.process.kill()
    assert await ends_with_its_server(data_folder)
    log = "".join(path.read_text() for path in (data_folder / "logs" / "services").glob("postgresql-*.log"))
    assert "received fast shutdown request" in log
    assert log.rstrip().endswith("database system is shut down")
    assert await read_rows(hold(data_folder).said["database_dsn"]) == [7]


async def test_a_server_started_right_after_the_kill_serves_the_same_data(data_folder: Path, hold: Hold) -> None:
    for value in range(3):
        holder = hold(data_folder)
        await write_row(holder.said["database_dsn"], value)
        holder.process.kill()
        holder.process.wait()
    assert await read_rows(hold(data_folder).said["database_dsn"]) == [0, 1, 2]


async def test_services_that_outlive_a_killed_server_are_stopped_and_taken_over(data_folder: Path, hold: Hold) -> None:
    holder = hold(data_folder)
    await write_row(holder.said["database_dsn"], 7)
    survivors = holder.said["postgres_pid"], holder.said["redis_pid"]
    # Suspended, they can't obey the death signal: what a busy machine does for a moment, for as long as we like.
    for pid in survivors:
        os.kill(pid, signal.SIGSTOP)
    holder.process.kill()
    holder.process.wait()
    assert processes_in(data_folder / "postgres", "postgres")[0] == survivors[0]
    assert processes_in(data_folder / "redis", "redis-server") == [survivors[1]]
    heir = hold(data_folder)
    assert heir.said["postgres_pid"] not in survivors
    assert survivors[0] not in processes_in(data_folder / "postgres", "postgres")
    assert survivors[1] not in processes_in(data_folder / "redis", "redis-server")
    assert await read_rows(heir.said["database_dsn"]) == [7]
    log = "".join(path.read_text() for path in (data_folder / "logs" / "services").glob("postgresql-*.log"))
    assert "not properly shut down" not in log


async def test_a_pid_file_whose_number_went_to_another_process_is_no_obstacle(closed_folder: Path, hold: Hold) -> None:
    # Below a closed home PostgreSQL may signal every process of ours, so to it the stranger looks like a postmaster.
    data_folder = closed_folder / "data"
    holder = hold(data_folder)
    await write_row(holder.said["database_dsn"], 7)
    os.kill(holder.process.pid, signal.SIGSTOP)
    os.kill(holder.said["postgres_pid"], signal.SIGKILL)
    holder.process.kill()
    assert await ends_with_its_server(data_folder)
    pid_file = data_folder / "postgres" / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    bystander = await asyncio.create_subprocess_exec(sys.executable, "-c", "input()", stdin=subprocess.PIPE)
    try:
        pid_file.write_text("\n".join([str(bystander.pid), *lines[1:]]) + "\n")
        assert await read_rows(hold(data_folder).said["database_dsn"]) == [7]
        assert bystander.returncode is None
    finally:
        await bystander.communicate(b"\n")


async def test_a_server_killed_while_it_makes_the_database_starts_again_whole(
    new_data_folder: Path, hold: Hold
) -> None:
    unfinished = new_data_folder / "postgres.unfinished"
    first = await asyncio.create_subprocess_exec(
        sys.executable, Path(__file__).with_name("services_holder.py"), new_data_folder, stdout=subprocess.DEVNULL
    )
    await until(lambda: (unfinished / "global").exists())
    first.kill()
    await first.wait()
    assert not (new_data_folder / "postgres").exists()
    await write_row(hold(new_data_folder).said["database_dsn"], 1)
    assert not unfinished.exists()


async def test_killed_services_are_started_again_while_the_server_lives(data_folder: Path) -> None:
    services = unsynced_services(data_folder)
    urls = await services.start(print)
    try:
        await write_row(urls.database_dsn, 7)
        redis = Redis.from_url(urls.redis_url)
        before = services.health
        assert before.healthy
        assert before.postgres is not None
        assert before.redis is not None
        assert before.postgres.pid is not None
        assert before.redis.pid is not None

        os.kill(before.postgres.pid, signal.SIGKILL)
        os.kill(before.redis.pid, signal.SIGKILL)
        await until(lambda: not services.health.healthy)
        await until(lambda: services.health.healthy)

        after = services.health
        assert after.postgres is not None
        assert after.redis is not None
        assert (after.postgres.restarts, after.redis.restarts) == (1, 1)
        assert after.postgres.pid != before.postgres.pid
        assert "signal 9" in after.postgres.detail
        assert await read_rows(urls.database_dsn) == [7]
        assert await redis.ping()
        await redis.aclose()
    finally:
        await services.stop(print)
    assert processes_in(data_folder / "postgres", "postgres") == []
    assert services.health.postgres is None
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_killed_session_costs_no_restart_of_ours(data_folder: Path) -> None:
    services = unsynced_services(data_folder, redis=False)
    urls = await services.start(print)
    try:
        await write_row(urls.database_dsn, 7)
        victim = await asyncpg.connect(urls.database_dsn)
        os.kill(await victim.fetchval("SELECT pg_backend_pid()"), signal.SIGKILL)
        with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
            await victim.fetchval("SELECT 1")

        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    rows = await read_rows(urls.database_dsn)
                    break
                except (asyncpg.PostgresError, OSError):
                    await asyncio.sleep(0.01)
        assert rows == [7]
        assert services.health.postgres is not None
        assert services.health.postgres.restarts == 0
    finally:
        await services.stop(print)


async def test_a_database_that_cannot_come_back_is_tried_again_and_said_to_be_down(data_folder: Path) -> None:
    services = unsynced_services(data_folder, redis=False)
    await services.start(print)
    configuration = data_folder / "postgres" / "postgresql.conf"
    sane = configuration.read_text()
    try:
        assert services.health.postgres is not None
        configuration.write_text(sane + "nonsense = 1\n")
        os.kill(services.health.postgres.pid or 0, signal.SIGKILL)
        await until(lambda: "nonsense" in (services.health.postgres.detail if services.health.postgres else ""))
        assert services.health.postgres.state is ServiceState.RESTARTING
        configuration.write_text(sane)
        await until(lambda: services.health.healthy)
    finally:
        await services.stop(print)


async def test_a_start_that_is_given_up_leaves_nothing_running(data_folder: Path) -> None:
    starting = asyncio.create_task(unsynced_services(data_folder).start(print))
    await until(lambda: (data_folder / "postgres" / "postmaster.pid").exists() or starting.done())
    assert not starting.done()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert processes_in(data_folder / "postgres", "postgres") == []
    services = unsynced_services(data_folder)
    await services.start(print)
    await services.stop(print)


async def test_a_ctrl_c_on_the_terminal_reaches_the_server_alone(data_folder: Path, hold: Hold) -> None:
    holder = hold(data_folder)
    group = os.getpgid(holder.process.pid)
    assert group not in {os.getpgid(holder.said["postgres_pid"]), os.getpgid(holder.said["redis_pid"])}
    os.killpg(group, signal.SIGINT)
    assert holder.process.wait(PATIENCE_SECONDS) == 0


async def test_a_stop_ends_open_sessions_within_seconds(data_folder: Path) -> None:
    services = unsynced_services(data_folder, redis=False)
    urls = await services.start(print)
    idle = await asyncpg.connect(urls.database_dsn)
    began = time.monotonic()
    await services.stop(print)
    assert time.monotonic() - began < PATIENCE_SECONDS
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await idle.fetchval("SELECT 1")
    idle.terminate()
