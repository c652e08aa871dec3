"""PostgreSQL runs for root and for anybody else, wherever the clone and the data folder lie, or says why not."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from oddstream_server.embedded.errors import DataFolderUnusable, NoIdentity
from oddstream_server.embedded.launch.binaries import postgres_programs, redis_program
from oddstream_server.embedded.launch.placement import Programs, copy_programs
from oddstream_server.embedded.launch.process import IdentityKind
from oddstream_server.embedded.services import EmbeddedServices

# A process that is killed loses nothing that it wrote, so these tests needn't wait for the disk.
unsynced_services = partial(EmbeddedServices, postgres_settings={"fsync": "off"})

Hold = Callable[..., Any]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else; this user is not root")
others_only = pytest.mark.skipif(os.geteuid() == 0, reason="root is covered by its own tests; this user is root")


def user_namespaces_work() -> bool:
    tried = subprocess.run(["unshare", "--user", "--map-user=65534", "true"], capture_output=True, check=False)
    return tried.returncode == 0


needs_user_namespaces = pytest.mark.skipif(
    not user_namespaces_work(), reason="this kernel or container forbids user namespaces"
)


def clone_of_the_programs(home: Path) -> Programs:
    """The wheels' programs as they would lie in a clone below `home`, which stays closed."""
    return copy_programs(Programs(postgres_programs(), redis_program()), home / "clone")


def user_namespace_of(process: int) -> Path:
    return Path(f"/proc/{process}/ns/user").readlink()


def command_of_a_normal_user() -> list[str] | None:
    """What runs a Python with our packages as nobody, from root: one of the machine's, should ours be closed to it."""
    paths = os.pathsep.join(path for path in sys.path if path)
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "env", f"PYTHONPATH={paths}", python]
        try:
            tried = subprocess.run([*command, "-c", "import oddstream_server.embedded.services"], capture_output=True)
        except FileNotFoundError:
            return None
        if tried.returncode == 0:
            return command
    return None


def owner_of(process: int) -> int:
    return Path(f"/proc/{process}").stat().st_uid


async def uses(services: EmbeddedServices) -> tuple[int, int]:
    """Start, write through the socket, stop; the users that PostgreSQL and Redis ran as, as the machine sees them."""
    urls = await services.start(print)
    try:
        connection = await asyncpg.connect(urls.database_dsn)
        await connection.execute("CREATE TABLE used (value int)")
        await connection.close()
        health = services.health
        assert health.postgres is not None
        assert health.redis is not None
        assert health.postgres.pid is not None
        assert health.redis.pid is not None
        return owner_of(health.postgres.pid), owner_of(health.redis.pid)
    finally:
        await services.stop(print)


@root_only
async def test_root_runs_them_as_nobody_where_nobody_can_reach_them(new_data_folder: Path) -> None:
    before = stat.S_IMODE(new_data_folder.parent.stat().st_mode)
    assert await uses(unsynced_services(new_data_folder)) == (65534, 65534)
    assert (new_data_folder / "postgres").stat().st_uid == 65534
    assert stat.S_IMODE((new_data_folder / "keys").stat().st_mode) == 0o700
    assert (new_data_folder / "keys").stat().st_uid == 0
    assert stat.S_IMODE(new_data_folder.stat().st_mode) == 0o711
    assert stat.S_IMODE(new_data_folder.parent.stat().st_mode) == before


@root_only
@needs_user_namespaces
async def test_a_clone_below_a_closed_root_home_runs_and_stays_closed(closed_folder: Path) -> None:
    services = unsynced_services(closed_folder / "data", programs=clone_of_the_programs(closed_folder))
    # Outside its namespace the process is still root: it can do there what nobody can, and owns its files.
    assert await uses(services) == (0, 0)
    assert stat.S_IMODE(closed_folder.stat().st_mode) == 0o700
    assert (closed_folder / "data" / "postgres").stat().st_uid == 0
    assert stat.S_IMODE((closed_folder / "data").stat().st_mode) == 0o700


@root_only
@needs_user_namespaces
async def test_data_that_nobody_owned_is_used_on_after_the_home_was_closed(data_folder: Path) -> None:
    assert await uses(unsynced_services(data_folder)) == (65534, 65534)
    data_folder.parent.chmod(0o700)
    services = unsynced_services(data_folder)
    urls = await services.start(print)
    try:
        connection = await asyncpg.connect(urls.database_dsn)
        assert await connection.fetchval("SELECT count(*) FROM used") == 0
        await connection.close()
    finally:
        await services.stop(print)


@root_only
async def test_without_user_namespaces_data_and_programs_move_to_a_place_that_nobody_reaches(
    closed_folder: Path, new_data_folder: Path
) -> None:
    reachable = new_data_folder.parent / "lib"
    programs = clone_of_the_programs(closed_folder)
    for _ in range(2):
        services = unsynced_services(
            closed_folder / "data",
            programs=programs,
            identity_kinds={IdentityKind.SWITCHED_USER},
            relocation_root=reachable,
        )
        urls = await services.start(print)
        try:
            connection = await asyncpg.connect(urls.database_dsn)
            await connection.execute("CREATE TABLE IF NOT EXISTS starts (id serial)")
            await connection.execute("INSERT INTO starts DEFAULT VALUES")
            starts = await connection.fetchval("SELECT count(*) FROM starts")
            await connection.close()
            assert services.health.postgres is not None
            assert owner_of(services.health.postgres.pid or 0) == 65534
            assert 0 < services.free_fraction() < 1
        finally:
            await services.stop(print)
    assert starts == 2
    assert not (closed_folder / "data" / "postgres").exists()
    assert len(list(reachable.glob("programs-*"))) == 1
    noted = Path((closed_folder / "data" / "data-is-elsewhere").read_text().strip())
    assert (noted / "postgres" / "PG_VERSION").exists()
    assert stat.S_IMODE(closed_folder.stat().st_mode) == 0o700


@root_only
async def test_where_nothing_works_the_refusal_lists_what_was_tried_and_the_way_out(closed_folder: Path) -> None:
    services = unsynced_services(
        closed_folder / "data",
        identity_kinds={IdentityKind.SWITCHED_USER},
        relocation_root=closed_folder / "lib",
    )
    with pytest.raises(NoIdentity) as refusal:
        await services.start(print)
    assert len(refusal.value.attempts) == 2
    assert "the user nobody" in refusal.value.attempts[0]
    assert "Permission denied" in refusal.value.attempts[0]
    assert str(closed_folder / "lib") in refusal.value.attempts[1]
    assert "ODDSTREAM_DATABASE_URL" in str(refusal.value)


@root_only
async def test_an_existing_database_is_never_left_behind_for_an_empty_one_elsewhere(data_folder: Path) -> None:
    await uses(unsynced_services(data_folder))
    data_folder.parent.chmod(0o700)
    services = unsynced_services(data_folder, identity_kinds={IdentityKind.SWITCHED_USER})
    with pytest.raises(NoIdentity, match="has a database already"):
        await services.start(print)


@root_only
def test_a_normal_user_runs_them_as_itself_and_may_not_use_what_is_roots(new_data_folder: Path, hold: Hold) -> None:
    command = command_of_a_normal_user()
    if command is None:
        pytest.skip("no Python of this machine runs our packages as nobody")
    refused = hold(new_data_folder, command)
    assert refused.said["refusal"] == "DataFolderUnusable"
    assert "Permission denied" in refused.said["message"]
    os.chown(new_data_folder.parent, 65534, 65534)
    holder = hold(new_data_folder, command)
    assert holder.said["user"] == 65534
    processes = holder.process.pid, holder.said["postgres_pid"], holder.said["redis_pid"]
    assert [owner_of(process) for process in processes] == [65534] * 3
    assert len({user_namespace_of(process) for process in processes}) == 1
    assert stat.S_IMODE(new_data_folder.stat().st_mode) == 0o700
    holder.process.kill()
    holder.process.wait()
    heir = hold(new_data_folder, command)
    heir.process.terminate()
    assert heir.process.wait(20) == 0
    # Root taking it over would lock the user out.
    as_root = hold(new_data_folder)
    assert as_root.said["refusal"] == "DataFolderUnusable"
    assert "user nobody" in as_root.said["message"]


@root_only
def test_a_normal_user_is_refused_on_roots_data_folder(data_folder: Path, hold: Hold) -> None:
    command = command_of_a_normal_user()
    if command is None:
        pytest.skip("no Python of this machine runs our packages as nobody")
    refused = hold(data_folder, command)
    assert refused.said["refusal"] == "DataFolderUnusable"
    assert "user root" in refused.said["message"]


@root_only
@needs_user_namespaces
def test_a_user_inside_a_container_of_its_own_runs_them_as_itself(closed_folder: Path, hold: Hold) -> None:
    # In its namespace the whole server is an ordinary user, with a name, and nothing of root's.
    holder = hold(
        closed_folder / "data", ("unshare", "--user", "--map-user=65534", "--map-group=65534", sys.executable)
    )
    assert holder.said["user"] == 65534
    owner = user_namespace_of(holder.process.pid)
    assert user_namespace_of(holder.said["postgres_pid"]) == owner
    assert user_namespace_of(holder.said["redis_pid"]) == owner
    holder.process.terminate()
    assert holder.process.wait(20) == 0


@root_only
@needs_user_namespaces
def test_a_user_without_a_name_is_given_one_in_a_namespace(closed_folder: Path, hold: Hold) -> None:
    # As in a container started with a bare uid, which the passwd file doesn't know.
    holder = hold(
        closed_folder / "data", ("unshare", "--user", "--map-user=43210", "--map-group=43210", sys.executable)
    )
    assert holder.said["user"] == 43210
    owner = user_namespace_of(holder.process.pid)
    assert user_namespace_of(holder.said["postgres_pid"]) != owner
    holder.process.terminate()
    assert holder.process.wait(20) == 0


@others_only
async def test_this_user_runs_them_as_itself(new_data_folder: Path) -> None:
    assert await uses(unsynced_services(new_data_folder)) == (os.geteuid(), os.geteuid())


async def test_a_path_too_long_for_a_socket_gets_a_short_private_folder(new_data_folder: Path) -> None:
    deep = new_data_folder / ("a" * 60) / ("b" * 60)
    services = unsynced_services(deep)
    urls = await services.start(print)
    sockets = Path(urls.redis_url.removeprefix("unix://").partition("?")[0]).parent
    try:
        connection = await asyncpg.connect(urls.database_dsn)
        await connection.close()
        assert deep not in sockets.parents
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    finally:
        await services.stop(print)
    assert not sockets.exists()
    sockets.mkdir(mode=0o755)
    stranger = sockets / "stranger"
    stranger.touch()
    try:
        with pytest.raises(DataFolderUnusable, match="shorter path"):
            await services.start(print)
        assert stranger.exists()
    finally:
        stranger.unlink()
        sockets.rmdir()


async def test_a_new_data_folder_with_blanks_and_quotes_in_its_name_works(new_data_folder: Path) -> None:
    await uses(unsynced_services(new_data_folder / "it's my data & 100%"))


def test_launching_from_another_thread_is_refused(new_data_folder: Path) -> None:
    program = (
        "import asyncio, json, sys, threading; from pathlib import Path;"
        "from oddstream_server.embedded.services import EmbeddedServices\n"
        "def start():\n"
        "    try: asyncio.run(EmbeddedServices(Path(sys.argv[1])).start(print))\n"
        "    except Exception as error: print(json.dumps(type(error).__name__))\n"
        "thread = threading.Thread(target=start); thread.start(); thread.join()"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program, new_data_folder], capture_output=True, text=True, check=True
    )
    assert json.loads(answer.stdout.splitlines()[-1]) == "LaunchedOffMainThread"
