"""Where a stream may be resumed, where not, and that no answer is ever a silent reset."""

import time
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

import oddstream
from loadtests.stream.signals import made_event
from oddstream.errors import from_rpc_error
from oddstream.v1 import signal_pb2, signal_service_pb2
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from tests.reliability.streams.processes import Stage, stage
from tests.reliability.streams.subscribers import Entry, complaints, read_log

pytestmark = pytest.mark.timeout(120)

EVENTS = 400
A_PARTITION = 50
LOOKED_AT_SECONDS = 3.0
OTHER_FILTER = signal_pb2.SignalFilter(kinds=["arb.event_sum"])


@dataclass
class Bot:
    """Opens streams one after the other, without the client library's own judgement."""

    client: oddstream.AsyncClient

    async def resume(
        self, start: Any, through: int, where: signal_pb2.SignalFilter | None = None
    ) -> tuple[list[Entry], str, oddstream.OddstreamError | None]:
        """What came up to a sequence, the last token, and the refusal if there was one."""
        call: Any = self.client.signals.WatchSignals(signal_service_pb2.WatchSignalsRequest(start=start, filter=where))
        received: list[Entry] = []
        token = ""
        try:
            while True:
                message: Any = await call.read()
                if message is grpc.aio.EOF:
                    return received, token, None
                received += [Entry(e.sequence, e.signal.signal_id) for e in message.events]
                token = message.resume_token
                if message.through_sequence >= through:
                    return received, token, None
        except grpc.aio.AioRpcError as error:
            return received, token, from_rpc_error(error)
        finally:
            call.cancel()


async def fill(here: Stage) -> None:
    store = PostgresPipelineStore(here.database, events_a_partition=A_PARTITION)
    lease = await store.acquire_lease("test", 60_000_000)
    assert lease is not None
    now = time.time_ns() // 1000
    for first in range(0, EVENTS, A_PARTITION):
        await store.append_events(lease, [made_event(n, now) for n in range(first, first + A_PARTITION)])


async def answers(database_url: str, redis_url: str, plant: str = "") -> tuple[dict[str, str], list[str]]:
    """The reason that each kind of bad start is refused with, "" where it is served; and complaints about good ones."""
    async with stage(database_url, redis_url) as here:
        await fill(here)
        server = await here.serve(plant=plant)
        log = await read_log(here.dsn)
        data_set = (await SignalLogStore(here.database).bounds()).data_set_id
        async with oddstream.AsyncClient(server.target, api_key=here.key) as client:
            bot = Bot(client)
            all_of_it, last_token, _ = await bot.resume(_at(data_set, 0), EVENTS)
            found = complaints(all_of_it, log)
            _, early_token, _ = await bot.resume(_at(data_set, 0), 1)
            _, narrow_token, _ = await bot.resume(_at(data_set, 0), 1, OTHER_FILTER)
            ended: Any = client.signals.WatchSignals(
                signal_service_pb2.WatchSignalsRequest(start=_at(data_set, EVENTS))
            )
            assert (await ended.read()).HasField("started")
            trimmed = await SignalLogStore(here.database).trim(2**52)
            assert trimmed.oldest_sequence > 2 * A_PARTITION
            # Until the server has looked at the log's ends again, what it still holds in memory is served, and whole.
            deadline = time.monotonic() + LOOKED_AT_SECONDS
            while time.monotonic() < deadline:
                served, _, refusal = await bot.resume(_at(data_set, 1), EVENTS)
                if refusal is not None:
                    break
                found += complaints(served, log[1:])
            refused = {
                "trimmed token": await bot.resume(oddstream.from_token(early_token), EVENTS),
                "trimmed position": await bot.resume(_at(data_set, 1), EVENTS),
                "ahead": await bot.resume(_at(data_set, EVENTS + 1_000), EVENTS),
                "foreign": await bot.resume(_at("ds_" + "a" * 32, 1), EVENTS),
                "other filter": await bot.resume(oddstream.from_token(narrow_token), EVENTS),
                "garbage": await bot.resume(oddstream.from_token("Z2FyYmFnZQ"), EVENTS),
            }
            trimmed_error = refused["trimmed token"][2]
            if trimmed_error is not None:
                oldest = oddstream.from_token(trimmed_error.metadata["oldest_resume_token"])
                rest, _, _ = await bot.resume(oldest, EVENTS)
                found += complaints(rest, log[trimmed.oldest_sequence - 1 :])
                assert trimmed_error.metadata["data_set_id"] == data_set
            kept, _, _ = await bot.resume(oddstream.from_token(last_token), EVENTS)
            found += complaints(kept, [])
            # As a restore from a backup leaves it: the rows wake up in another cluster.
            async with here.database.transaction() as transaction:
                await transaction.driver.execute("UPDATE signal_log_head SET system_identifier = 1")
            try:
                while await ended.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                found += [] if from_rpc_error(error).reason == "DATA_SET_CHANGED" else [f"an open stream: {error}"]
            refused["other data set"] = await bot.resume(oddstream.from_token(last_token), EVENTS)
    return {name: error.reason if error else "" for name, (_, _, error) in refused.items()}, found


def _at(data_set_id: str, sequence: int) -> signal_service_pb2.WatchSignalsStart:
    return oddstream.at_position(oddstream.Position(data_set_id, sequence))


async def test_a_point_that_can_not_be_resumed_from_is_refused_with_its_reason_and_never_reset(
    database_url: str, redis_url: str
) -> None:
    reasons, found = await answers(database_url, redis_url)
    assert reasons == {
        "trimmed token": "SIGNAL_HISTORY_TRIMMED",
        "trimmed position": "SIGNAL_HISTORY_TRIMMED",
        "ahead": "RESUME_POINT_AHEAD",
        "foreign": "DATA_SET_CHANGED",
        "other filter": "RESUME_TOKEN_FILTER_MISMATCH",
        "garbage": "RESUME_TOKEN_INVALID",
        "other data set": "DATA_SET_CHANGED",
    }
    assert found == []


async def test_a_planted_silent_reset_is_caught(database_url: str, redis_url: str) -> None:
    reasons, _ = await answers(database_url, redis_url, "reset_silently")
    served = {name for name, reason in reasons.items() if not reason}
    assert {"trimmed token", "trimmed position", "ahead", "foreign"} <= served
