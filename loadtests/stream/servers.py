"""A server of the comparison, a process of its own: ``feed`` (this project's), ``naive`` or ``websockets``.

Prints its port, then obeys a line of JSON at a time: ``{"publish": rate}`` (signals a second; 0 saturates, null
rests, and waits until all is sent) or ``{}`` asks; each is answered by a line of JSON with the server's memory, the CPU
time it took so far and the head of its log.
"""

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path

import grpc

from loadtests.stream.feed_server import FeedServer
from loadtests.stream.payloads import PAYLOADS
from loadtests.stream.raw_client import METHOD, SERVICE
from loadtests.stream.rivals import NaiveServer, WebsocketServer
from oddstream_server.lifecycle import calm_collector
from oddstream_server.transport.server import ServerOptions

SERVER_CORE, CLIENT_CORE = 0, 1
_TOP_UP_S = 0.002
"""How often a publisher at saturation looks whether there is room."""


def pin(core: int) -> None:
    """Keep to one core where there are several and the system allows it."""
    with contextlib.suppress(AttributeError, OSError):
        os.sched_setaffinity(0, {core})


def resident_kib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024


async def serve(mode: str, payload: str) -> None:
    server: FeedServer | NaiveServer | WebsocketServer
    # Its own pings are too strict for a machine that does other things while it measures.
    options = ServerOptions(keepalive_seconds=60, ping_timeout_seconds=30)
    aio = grpc.aio.server(options=options.channel_options())
    if mode == "websockets":
        server = WebsocketServer(PAYLOADS[payload])
        port = await server.start()
    else:
        if mode == "feed":
            calm_collector()  # as every process of the product
        server = FeedServer(PAYLOADS[payload]) if mode == "feed" else NaiveServer(PAYLOADS[payload])
        handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(server.watch)
        aio.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: handler}),))
        port = aio.add_insecure_port("127.0.0.1:0")
        await aio.start()
    print(port, flush=True)
    loop = asyncio.get_running_loop()
    publishing: asyncio.Task[None] | None = None
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        if "publish" in order and publishing is not None:
            publishing.cancel()
        if order.get("publish") is not None:
            publishing = asyncio.create_task(publish(server, order["publish"]))
        elif "publish" in order:
            while server.behind():  # noqa: ASYNC110  # an event in the servers would be in what is measured
                await asyncio.sleep(0.01)
        print(json.dumps({"kib": resident_kib(), "cpu_s": time.process_time(), "head": server.head}), flush=True)


async def publish(server: FeedServer | NaiveServer | WebsocketServer, per_s: float) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        due = due + 1 / per_s if per_s else loop.time() + _TOP_UP_S
        await asyncio.sleep(max(0.0, due - loop.time()))
        if per_s:
            server.publish(1)
        else:
            server.top_up()


if __name__ == "__main__":
    pin(SERVER_CORE)
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
