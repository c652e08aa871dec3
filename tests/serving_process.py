"""``oddstream-server serve`` as a process of its own, over the test's database and Redis."""

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from oddstream_server.application.keys.issuing import new_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.domain.principal import Role
from oddstream_server.embedded.keys import load_or_make_keys
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.observability.operations import State, WorkerClient
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.signals.signal_log import SignalLogStore

START_SECONDS = 30.0


@dataclass
class Serving:
    process: "subprocess.Popen[bytes]"
    port: int
    key: str
    """An admin's."""
    worker: WorkerClient
    log: Path

    @property
    def auth(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.key}"),)

    async def state(self) -> State:
        state = await self.worker.state()
        assert state is not None, self.log.read_text()
        return state


@asynccontextmanager
async def serving(
    folder: Path, database_url: str, redis_url: str, settings: Mapping[str, str], *, owner_url: str | None = None
) -> AsyncIterator[Serving]:
    """A process that is ready; it is drained at the end.

    :param folder: empty, for its data folder and log.
    :param settings: by name without the prefix.
    :param owner_url: how the test itself gets into the database, where that isn't ``database_url``.
    """
    data = DataFolder.at(folder / "data")
    data.create()
    keyring = load_or_make_keys(data.keys, database_is_new=True)
    database = Database(owner_url or database_url, pool_size=1, max_overflow=1)
    await SignalLogStore(database).mint_data_set_id()
    issued = new_key(Peppers(keyring.peppers), owner="test", role=Role.ADMIN, now_us=time.time_ns() // 1000)
    await ApiKeyStore(database).create(issued.stored)
    await database.close()
    log = folder / "server.jsonl"
    own = {
        "data_dir": str(folder / "data"),
        "database_url": database_url,
        "redis_url": redis_url,
        "grpc_port": "0",
        "drain_seconds": "0",
        "grace_seconds": "2",
        "log_file": str(log),
        **settings,
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ODDSTREAM_")}
    environment |= {f"ODDSTREAM_{name.upper()}": value for name, value in own.items()}
    process = subprocess.Popen(  # noqa: ASYNC220  # a fork takes no time that matters here
        [sys.executable, "-m", "oddstream_server", "serve"],
        env=environment,
        cwd=folder,  # no .env of the checkout
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    socket = data.socket_folder({os.geteuid(), data.run.stat().st_uid}) / "serve-0.sock"
    worker = WorkerClient("serve-0", socket)
    try:
        state = await _ready(process, worker, log)
        yield Serving(process, state["port"], issued.key.text, worker, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.to_thread(process.communicate)


async def _ready(process: "subprocess.Popen[bytes]", worker: WorkerClient, log: Path) -> State:
    async with asyncio.timeout(START_SECONDS):
        while True:
            assert process.poll() is None, _words(process, log)
            state = await worker.state()
            if state is not None and state["ready"]:
                return state
            await asyncio.sleep(0.05)


def _words(process: "subprocess.Popen[bytes]", log: Path) -> str:
    said = process.stdout.read().decode() if process.stdout else ""
    return said + (log.read_text() if log.exists() else "")
