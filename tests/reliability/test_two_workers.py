"""Two serving processes on one port: what an admin orders at one of them holds in the other."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import grpc
import pytest

from oddstream.v1 import (
    access_pb2,
    admin_service_pb2,
    admin_service_pb2_grpc,
    halt_pb2,
    pipeline_run_pb2,
    signal_pb2,
    signal_service_pb2,
    signal_service_pb2_grpc,
    strategy_pb2,
    system_status_pb2,
)
from tests.grpc.running_server import bearer, failure_of
from tests.installation import Installation, installation

pytestmark = [pytest.mark.timeout(180), pytest.mark.xdist_group("two_workers")]
pb = admin_service_pb2
CONNECTIONS = 12
"""The kernel deals connections out by their hash: that all of so many meet one process has a chance of 1 in 2,048."""
STREAMING = signal_service_pb2.WatchSignalsRequest(include_simulated=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Installation]:
    with installation({"workers": "2", "simulated_events": "8", "backtest_workers": "0"}) as made:
        made.start()
        yield made


@dataclass
class Connections:
    """Channels with a connection each, which both processes have some of."""

    channels: list[grpc.aio.Channel]
    auth: tuple[tuple[str, str], ...]

    @property
    def admin(self) -> Any:
        return admin_service_pb2_grpc.AdminServiceStub(self.channels[0])

    @property
    def signals(self) -> list[Any]:
        return [signal_service_pb2_grpc.SignalServiceStub(channel) for channel in self.channels]

    async def new_key(self) -> tuple[str, str]:
        """Id and text."""
        request = pb.CreateApiKeyRequest(
            display_name="bot", role=access_pb2.ROLE_VIEWER, owner_email="planted@example.org", request_id=str(uuid4())
        )
        made = await self.admin.CreateApiKey(request, metadata=self.auth)
        return made.api_key.api_key_id, made.secret


@asynccontextmanager
async def connections(server: Installation) -> AsyncIterator[Connections]:
    async with AsyncExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(server.target, options))
            for _ in range(CONNECTIONS)
        ]
        yield Connections(channels, bearer(server.key))


def streams_of(server: Installation) -> list[int]:
    workers = server.state()["workers"]
    return [sum(workers[name]["streams"].values()) if isinstance(workers[name]["streams"], dict)
            else workers[name]["streams"] for name in ("serve-0", "serve-1")]  # fmt: skip


async def test_a_revoked_key_is_refused_and_its_streams_end_in_every_process(server: Installation) -> None:
    async with connections(server) as made:
        key_id, text = await made.new_key()
        calls = [stub.WatchSignals(STREAMING, metadata=bearer(text)) for stub in made.signals]
        await asyncio.gather(*(call.initial_metadata() for call in calls))
        assert min(await asyncio.to_thread(streams_of, server)) > 0, "one process has no stream"
        revoke = pb.RevokeApiKeyRequest(api_key_id=key_id, request_id=str(uuid4()))
        await made.admin.RevokeApiKey(revoke, metadata=made.auth)
        began = time.monotonic()
        ended = await asyncio.gather(*(failure_of(call) for call in calls))
        assert time.monotonic() - began < 5
        assert {failure.reason for failure in ended} == {"CREDENTIAL_REVOKED"}
        again = [
            stub.ListSignals(signal_service_pb2.ListSignalsRequest(), metadata=bearer(text)) for stub in made.signals
        ]
        assert {(await failure_of(call)).reason for call in again} == {"API_KEY_INVALID"}


async def test_a_halt_is_in_force_in_every_process_within_a_second_and_a_resume_lifts_it(server: Installation) -> None:
    async def halts_of(channel: grpc.aio.Channel) -> list[str]:
        stub: Any = admin_service_pb2_grpc.AdminServiceStub(channel)
        status = (await stub.GetSystemStatus(pb.GetSystemStatusRequest(), metadata=made.auth)).status
        assert any("signals are halted" in words for words in status.degraded_features) is bool(status.halts)
        return [halt.halt_id for halt in status.halts]

    async with connections(server) as made:
        await asyncio.gather(*map(halts_of, made.channels))  # connected before the time counts
        halt = pb.HaltSignalsRequest(scope=halt_pb2.HaltScope(), note="a test", request_id=str(uuid4()))
        halt.scope.everything.SetInParent()
        began = time.monotonic()
        done = await made.admin.HaltSignals(halt, metadata=made.auth)
        found = await asyncio.gather(*map(halts_of, made.channels))
        assert time.monotonic() - began < 1
        assert found == [[done.halt.halt_id]] * CONNECTIONS
        resume = pb.ResumeSignalsRequest(halt_id=done.halt.halt_id, request_id=str(uuid4()))
        await made.admin.ResumeSignals(resume, metadata=made.auth)
        assert await asyncio.gather(*map(halts_of, made.channels)) == [[]] * CONNECTIONS


async def test_a_signal_that_is_withdrawn_at_one_process_ends_on_the_streams_of_all_and_is_withdrawn_wherever_asked(
    server: Installation,
) -> None:
    async def ends_of(stream: Any, told: dict[int, str], news: asyncio.Event) -> None:
        """Read from the beginning on, so that what is waited for stands behind nothing unread."""
        async for response in stream:
            for event in response.events:
                if event.type == signal_pb2.SIGNAL_EVENT_TYPE_WITHDRAWN:
                    told[event.sequence] = event.signal.signal_id
                    news.set()

    async def withdrawn_on(told: dict[int, str], news: asyncio.Event) -> str:
        while done.sequence not in told:
            news.clear()
            await news.wait()
        return told[done.sequence]

    async def state_at(stub: Any, signal_id: str) -> int:
        get = signal_service_pb2.GetSignalRequest(signal_id=signal_id)
        return int((await stub.GetSignal(get, metadata=made.auth)).signal.state)

    async with connections(server) as made:
        streams = [stub.WatchSignals(STREAMING, metadata=made.auth) for stub in made.signals]
        await asyncio.gather(*(stream.initial_metadata() for stream in streams))
        assert min(await asyncio.to_thread(streams_of, server)) > 0, "one process has no stream"
        heard: list[tuple[dict[int, str], asyncio.Event]] = [({}, asyncio.Event()) for _ in streams]
        readers = [asyncio.create_task(ends_of(stream, *ears)) for stream, ears in zip(streams, heard, strict=True)]
        listing = signal_service_pb2.ListSignalsRequest(include_simulated=True, page_size=20)
        listing.history.states.append(signal_pb2.SIGNAL_STATE_ACTIVE)
        done = pb.WithdrawSignalsResponse()
        async with asyncio.timeout(60):
            while not done.withdrawn_count:  # one that ended meanwhile is withdrawn no more
                for signal in (await made.signals[0].ListSignals(listing, metadata=made.auth)).signals:
                    ids = [signal.signal_id]
                    request = pb.WithdrawSignalsRequest(signal_ids=ids, note="a test", request_id=str(uuid4()))
                    done = await made.admin.WithdrawSignals(request, metadata=made.auth)
                    if done.withdrawn_count:
                        break
                else:
                    await asyncio.sleep(0.2)
        async with asyncio.timeout(1):  # what is promised
            ended = await asyncio.gather(*(withdrawn_on(*ears) for ears in heard))
        # The opportunity's last signal, which is another one than was named if it was revised meanwhile.
        assert len(set(ended)) == 1
        states = await asyncio.gather(*(state_at(stub, ended[0]) for stub in made.signals))
        assert set(states) == {signal_pb2.SIGNAL_STATE_WITHDRAWN}
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def test_a_strategy_that_is_switched_off_is_off_in_every_process_at_once(server: Installation) -> None:
    async with connections(server) as made:
        for enabled in (False, True):
            strategy = strategy_pb2.Strategy(strategy_id="arb.event_sum", enabled=enabled)
            update = pb.UpdateStrategyRequest(strategy=strategy, request_id=str(uuid4()))
            update.update_mask.paths.append("enabled")
            await made.admin.UpdateStrategy(update, metadata=made.auth)
            get = signal_service_pb2.GetStrategyRequest(strategy_id="arb.event_sum")
            for stub in made.signals:
                assert (await stub.GetStrategy(get, metadata=made.auth)).strategy.enabled is enabled


async def test_a_run_that_is_asked_for_is_taken_up_by_the_leader(server: Installation) -> None:
    async with connections(server) as made:
        for stage in (pipeline_run_pb2.PIPELINE_STAGE_GRADE, pipeline_run_pb2.PIPELINE_STAGE_DISCOVER):
            request = pb.RunPipelineRequest(stage=stage, request_id=str(uuid4()))
            async with asyncio.timeout(20):
                while True:  # one by the clock may be under way, and is waited for as the refusal says
                    try:
                        asked = (await made.admin.RunPipeline(request, metadata=made.auth)).pipeline_runs
                        break
                    except grpc.aio.AioRpcError as refused:
                        if refused.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                            raise
                        await asyncio.sleep(0.2)
            ids = {run.pipeline_run_id for run in asked}
            assert ids
            async with asyncio.timeout(60):
                while True:
                    listed = await made.admin.ListPipelineRuns(pb.ListPipelineRunsRequest(), metadata=made.auth)
                    states = {run.state for run in listed.pipeline_runs if run.pipeline_run_id in ids}
                    if states == {pipeline_run_pb2.PIPELINE_RUN_STATE_SUCCEEDED}:
                        break
                    assert pipeline_run_pb2.PIPELINE_RUN_STATE_FAILED not in states
                    await asyncio.sleep(0.1)


async def test_housekeeping_verifies_anchors_and_counts_in_the_leading_process(server: Installation) -> None:
    async with connections(server) as made:
        await made.new_key()
    verified = re.compile(r'^oddstream_audit_log_verified_rows\{worker="pipeline"\} [0-9.]+$', re.MULTILINE)
    async with asyncio.timeout(30):
        while not verified.search(await asyncio.to_thread(server.get, "/metrics")):
            await asyncio.sleep(0.2)
        anchors = server.data_dir / "audit-anchors.jsonl"
        while not anchors.exists():
            await asyncio.sleep(0.2)
    anchor = json.loads(anchors.read_text().splitlines()[0])
    assert anchor["sequence"] >= 1
    assert len(anchor["hash"]) == 64


async def test_the_status_names_every_part_of_a_running_installation(server: Installation) -> None:
    async with connections(server) as made:
        status = (await made.admin.GetSystemStatus(pb.GetSystemStatusRequest(), metadata=made.auth)).status
    parts = {component.name: component.state for component in status.components}
    up, absent = system_status_pb2.COMPONENT_STATE_UP, system_status_pb2.COMPONENT_STATE_ABSENT
    assert parts == {"database": up, "replica": absent, "redis": up, "pipeline": up, "workers": up, "secrets": up}
    assert status.leader.holder
    assert [venue.breaker_state for venue in status.venues] == [system_status_pb2.BREAKER_STATE_CLOSED]
    assert status.last_runs
    assert status.schema_revision
    assert status.version


# --- the commands ---


def oddstream(server: Installation, *arguments: str, columns: str = "200") -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ODDSTREAM_")}
    environment |= {"ODDSTREAM_TARGET": server.target, "ODDSTREAM_API_KEY": server.key, "COLUMNS": columns}
    command = [sys.executable, "-m", "oddstream.cli", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def lines(server: Installation, *arguments: str) -> list[dict[str, Any]]:
    done = oddstream(server, *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_keys_are_made_listed_rotated_and_revoked_at_the_command_line(server: Installation) -> None:
    (made,) = lines(server, "keys", "create", "maker", "--role", "trader", "--venue", "kalshi", "--days", "7")
    assert made["secret"].startswith(made["prefix"])
    (rotated,) = lines(server, "keys", "rotate", made["api_key_id"], "--overlap", "30m")
    assert rotated["secret"] not in ("", made["secret"])
    (revoked,) = lines(server, "keys", "revoke", made["api_key_id"], "--note", "over")
    assert "secret" not in revoked
    listed = {key["api_key_id"]: key for key in lines(server, "keys", "list")}
    assert listed[made["api_key_id"]]["revoke_time"] == revoked["revoke_time"]
    assert all("secret" not in key for key in listed.values())
    wrong = oddstream(server, "keys", "create", "x", "--role", "king")
    assert wrong.returncode == 2
    assert "viewer, analyst, trader or admin" in wrong.stderr


def test_a_halt_and_its_end_at_the_command_line(server: Installation) -> None:
    (halted,) = lines(server, "halt", "a drill", "--kind", "test.nothing")
    (lifted,) = lines(server, "resume", halted["halt"]["halt_id"])
    assert lifted["lift_time"]
    both = oddstream(server, "halt", "a drill", "--all", "--kind", "test.nothing")
    assert both.returncode == 2
    assert "--venue VENUE" in both.stderr


def test_the_audit_log_is_exported_as_json_lines_and_verified(server: Installation) -> None:
    lines(server, "keys", "create", "audited")
    (verified,) = lines(server, "audit", "verify")
    assert verified["intact"] is True
    entries = lines(server, "audit", "list")
    sequences = [int(entry["sequence"]) for entry in entries]
    assert sequences == list(range(1, len(entries) + 1))
    created = [entry for entry in entries if entry["method"].endswith("/CreateApiKey")]
    assert created[-1]["after"]["display_name"] == "audited"


def test_the_status_is_told_in_words_and_as_json(server: Installation) -> None:
    (told,) = lines(server, "status")
    assert {part["name"] for part in told["system"]["components"]} >= {"database", "redis", "pipeline"}
    assert told["system"]["leader"]["holder"]
