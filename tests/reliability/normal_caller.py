"""A well-behaved bot as a process of its own: one call after the other, twenty milliseconds apart.

Run as ``normal_caller.py PORT`` with the key on the first line of its input; each further line is answered by what the
calls since the last one came to, as JSON. Its own process, since its times must not be those of a busy neighbour in the
same event loop.
"""

import asyncio
import json
import sys
import time

import grpc

from oddstream.v1 import market_service_pb2, market_service_pb2_grpc

PAUSE_SECONDS = 0.02


async def call(port: int, key: str, seconds: list[float], failures: list[str]) -> None:
    request = market_service_pb2.ListMarketsRequest(page_size=1)
    auth = (("authorization", f"Bearer {key}"),)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        markets = market_service_pb2_grpc.MarketServiceStub(channel)
        while True:
            began = time.perf_counter()
            try:
                await markets.ListMarkets(request, metadata=auth, timeout=10)
            except grpc.aio.AioRpcError as error:
                failures.append(f"{error.code()}: {error.details()}")
            seconds.append(time.perf_counter() - began)
            await asyncio.sleep(PAUSE_SECONDS)


async def main(port: int) -> None:
    seconds: list[float] = []
    failures: list[str] = []
    key = (await asyncio.to_thread(sys.stdin.readline)).strip()
    calling = asyncio.create_task(call(port, key, seconds, failures))
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps({"seconds": seconds, "failures": failures}), flush=True)
        seconds.clear()
        failures.clear()
    calling.cancel()
    await asyncio.wait([calling])


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
