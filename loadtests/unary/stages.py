"""Where the CPU time of a call goes: the chain's layers one by one, without gRPC.

The chain is run with its first layer, with its first two, and so on up to the handler; the difference between two runs
is the time of the layer that came in. CPU time, so that other work on the machine matters little; turns of all lengths
follow each other, so that what it does matter is in all of them.
"""

import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from loadtests.unary.world import MARKET, METHOD, SERVICE
from oddstream.v1 import market_service_pb2
from oddstream_server.application.calls.request import RequestContext
from oddstream_server.interceptors.call import Call, Layer, text_metadata
from oddstream_server.interceptors.composition import composed as chained
from oddstream_server.interceptors.methods import method_table
from oddstream_server.transport.contract import Contract

CALLS, TURNS = 2_000, 9


class StandInContext:
    """What gRPC hands to a handler, as far as the chain asks for it."""

    def __init__(self, key: str) -> None:
        self._metadata = (("authorization", f"Bearer {key}"), ("user-agent", "stages"))

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:50000"

    def time_remaining(self) -> None:
        return None

    def set_trailing_metadata(self, _metadata: object) -> None: ...


async def stage_times_us(
    layers: tuple[Layer, ...], contract: Contract, handler: Callable[[Any, Any], Awaitable[Any]], key: str
) -> dict[str, float]:
    """CPU microseconds a call of each layer and of the handler with its conversion and serialisation."""
    method = method_table(contract)[f"/{SERVICE}/{METHOD}"]
    context: Any = StandInContext(key)
    body = market_service_pb2.GetMarketRequest(market_id=MARKET).SerializeToString()
    answer = market_service_pb2.GetMarketResponse()
    read = market_service_pb2.GetMarketRequest.FromString

    async def nothing(_call: Call) -> Any:
        return answer

    async def handle(call: Call) -> Any:
        return (await handler(call.request, call.context)).SerializeToString()

    def composed(depth: int) -> Callable[[Call], Awaitable[Any]]:
        return chained(layers[:depth], handle if depth > len(layers) else nothing, method.kind)

    async def turn(proceed: Callable[[Call], Awaitable[Any]]) -> float:
        began = time.process_time()
        for _ in range(CALLS):
            metadata = text_metadata(context.invocation_metadata())
            await proceed(Call(method, body, context, metadata, read, RequestContext(method.full_name, "", "")))
        return (time.process_time() - began) / CALLS * 1e6

    depths = range(len(layers) + 2)
    chains = [composed(depth) for depth in depths]
    await turn(chains[-1])  # what is remembered is remembered
    turns = [[await turn(chain) for chain in chains] for _ in range(TURNS)]
    names = ["call", *(layer.name for layer in layers), "handler"]
    added = {}
    for depth, name in enumerate(names):
        # Of one round, since the machine's speed changes between rounds.
        found = [row[depth] - (row[depth - 1] if depth else 0) for row in turns]
        added[name] = statistics.median(found)
    return added
