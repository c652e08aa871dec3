"""Bodies that are nearly right: whatever they say, the answer is never our fault."""

import random
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from oddstream_server.domain.principal import Role
from oddstream_server.interceptors.assembly import ChainSettings
from tests.grpc.running_server import CONTRACT, Running, World, bearer, read_failure, running
from tests.grpc.stored_world import MARKET, STRATEGY, StoredWorld, book, market, quotes, signal

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

SERVED_BODIES, REFUSED_BODIES = 60, 4
FAULTS = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

INTEGERS = (0, 1, 2, 3, 50, -1, 1000, 10**6, 2**31 - 1, -(2**31))
LONG_INTEGERS = (*INTEGERS, 10**12, 2**63 - 1, -(2**63), 253_402_300_800, -62_135_596_801)
TEXTS = (
    "",
    MARKET,
    "kalshi:NOPE",
    "kalshi:",
    "polymarket:0x00",
    signal(1).signal_id,
    "stat.mean_reversion",
    "x" * 300,
    "\x00",
    "é%_'\"\\;--",
    "pCAES",
    "rCAES",
    "ds_aaaaaaaaaaaaaaaa",
)
NUMBERS = (0.0, 0.5, 1.0, -1.0, 1e308, float("nan"), float("inf"), 5e-324)


async def at_once(request: Any, context: Any) -> None:
    """A stream that is over."""


def value_of(field: FieldDescriptor, chance: random.Random) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            return b"\x00\xff" if field.type == FieldDescriptor.TYPE_BYTES else chance.choice(TEXTS)
        case FieldDescriptor.CPPTYPE_BOOL:
            return chance.random() < 0.5
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return chance.choice(NUMBERS)
        case FieldDescriptor.CPPTYPE_INT64:
            return chance.choice(LONG_INTEGERS)
        case FieldDescriptor.CPPTYPE_ENUM:
            return chance.choice((0, 1, 1, 1, 2, 3, 99, -5))
        case _:
            return chance.choice(INTEGERS)


def fill(message: Message, chance: random.Random, depth: int = 0) -> None:
    """Fields at random, with values at and beyond the bounds of the contract."""
    for field in message.DESCRIPTOR.fields:
        if chance.random() < 0.5 or depth > 4:
            continue
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            continue
        if field.is_repeated:
            values = getattr(message, field.name)
            for _ in range(chance.randint(1, 3)):
                if entry is None:
                    values.append(value_of(field, chance))
                else:
                    fill(values.add(), chance, depth + 1)
        elif entry is not None:
            getattr(message, field.name).SetInParent()
            fill(getattr(message, field.name), chance, depth + 1)
        else:
            setattr(message, field.name, value_of(field, chance))


def bodies(method: str, count: int, chance: random.Random) -> Iterator[bytes]:
    for number in range(count):
        message = CONTRACT.request_class(method)()
        fill(message, chance)
        body = bytearray(message.SerializeToString())
        if number % 5 == 0 and body:  # and now and then a byte that doesn't belong
            body[chance.randrange(len(body))] = chance.randrange(256)
        yield bytes(body)


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_body_is_answered_as_our_fault(seed: int) -> None:
    world = World(settings=ChainSettings(units_per_minute=10_000_000), watch_signals=at_once, watch_quotes=at_once)
    world.catalog.markets[MARKET] = market(MARKET)
    world.ticks.quotes = quotes(5)
    world.books.books[MARKET] = book()
    world.strategies.strategies = [STRATEGY]
    async with running(world) as server:
        seen = await play(server, seed)
    # Without each of these the bodies would not have got far enough to say anything.
    for reason in ("OK", "INVALID_FIELD", "MALFORMED_REQUEST", "PAGE_TOKEN_INVALID", "MARKET_NOT_FOUND"):
        assert seen.get(reason, 0) >= 5, (reason, seen)


async def test_no_body_trips_the_database_up(stored: StoredWorld) -> None:
    seen = await play(stored.server, 3, unary_only=True)
    for reason in ("OK", "INVALID_FIELD", "MARKET_NOT_FOUND"):
        assert seen.get(reason, 0) >= 5, (reason, seen)


async def play(server: Running, seed: int, *, unary_only: bool = False) -> dict[str, int]:
    """Send bodies to every method; answers how often each reason came."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    admin = bearer(server.world.issue(Role.ADMIN).key.text)
    seen: dict[str, int] = {}
    for method in CONTRACT.methods.values():
        if unary_only and method.server_streaming:
            continue
        if not unary_only and method.service == "AdminService":
            continue  # it has no database here: what passes the checks would only wait for one
        served = method.service in ("MarketService", "SignalService")
        call = server.channel.unary_stream(method.full_name)
        for body in bodies(method.full_name, SERVED_BODIES if served else REFUSED_BODIES, chance):
            reason = "OK"
            try:
                async for _ in call(body, metadata=admin):
                    pass
            except grpc.aio.AioRpcError as error:
                failure = read_failure(error)
                assert failure.code not in FAULTS, (method.full_name, body, failure)
                reason = failure.reason
            seen[reason] = seen.get(reason, 0) + 1
    print(seen)
    return seen
