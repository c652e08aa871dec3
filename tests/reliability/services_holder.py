"""A server reduced to its embedded services: starts them, says where they are, stops them on SIGTERM or SIGINT.

Run as a program: `services_holder.py DATA_FOLDER [--leave-at-once]`. Its last line of a start is JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from oddstream_server.embedded.errors import EmbeddedError
from oddstream_server.embedded.services import EmbeddedServices

# A process's end loses nothing that it wrote; only a machine's does. So these tests needn't wait for the disk.
UNSYNCED = {"fsync": "off"}


async def hold(data_folder: Path) -> int:
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    services = EmbeddedServices(data_folder, postgres_settings=UNSYNCED)
    try:
        urls = await services.start(lambda line: print(line, flush=True))
    except EmbeddedError as error:
        print(json.dumps({"refusal": type(error).__name__, "message": str(error)}), flush=True)
        return 1
    health = services.health
    assert health.postgres is not None
    assert health.redis is not None
    print(
        json.dumps(
            {**asdict(urls), "user": os.geteuid(), "postgres_pid": health.postgres.pid, "redis_pid": health.redis.pid}
        ),
        flush=True,
    )
    if "--leave-at-once" not in sys.argv:
        await asked_to_stop.wait()
    await services.stop(lambda line: print(line, flush=True))
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(hold(Path(sys.argv[1]))))
