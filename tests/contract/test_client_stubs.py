"""What a bot imports: the generated stubs, on the newest and the oldest libraries that they promise to run on."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from oddstream.v1 import feed_status_pb2, signal_pb2, signal_service_pb2, stream_pb2

Run = Callable[..., "subprocess.CompletedProcess[str]"]

IMPORT_EVERYTHING = """
import importlib, pathlib, sys
folder = pathlib.Path(sys.argv[1]) / "oddstream" / "v1"
names = sorted(path.stem for path in folder.glob("*_pb2*.py"))
assert len(names) > 30, names
for name in names:
    importlib.import_module(f"oddstream.v1.{name}")
foreign = sorted({"buf", "protovalidate", "oddstream_server"} & set(sys.modules))
assert not foreign, foreign
"""

CALL_A_SERVER = """
from concurrent import futures
import grpc
from oddstream.v1 import market_service_pb2 as messages, market_service_pb2_grpc as services

class Markets(services.MarketServiceServicer):
    def GetMarket(self, request, context):
        return messages.GetMarketResponse(market={"market_id": request.market_id, "payout_micros": 1_000_000})

server = grpc.server(futures.ThreadPoolExecutor(1))
services.add_MarketServiceServicer_to_server(Markets(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
    request = messages.GetMarketRequest(market_id="simulated:M1")
    answer = services.MarketServiceStub(channel).GetMarket(request, timeout=20, wait_for_ready=True)
assert (answer.market.market_id, answer.market.payout_micros) == ("simulated:M1", 1_000_000), answer
server.stop(None).wait()
"""

BOT = """
import grpc
from oddstream.v1 import signal_pb2, signal_service_pb2, signal_service_pb2_grpc


def last_edge(channel: grpc.Channel) -> int | None:
    stub = signal_service_pb2_grpc.SignalServiceStub(channel)
    listed = stub.ListSignals(signal_service_pb2.ListSignalsRequest(page_size=3), timeout=1.0)
    position = signal_service_pb2.LogPosition(data_set_id=listed.data_set_id, sequence=listed.as_of_sequence)
    start = signal_service_pb2.WatchSignalsStart(position=position)
    for message in stub.WatchSignals(signal_service_pb2.WatchSignalsRequest(start=start)):
        for event in message.events:
            return event.signal.net_edge_micros if event.signal.HasField("net_edge_micros") else None
    return None


async def last_state(channel: grpc.aio.Channel) -> signal_pb2.SignalState.ValueType:
    stub = signal_service_pb2_grpc.SignalServiceStub(channel)
    answer = await stub.GetSignal(signal_service_pb2.GetSignalRequest(view=signal_pb2.SIGNAL_VIEW_FULL))
    state = answer.signal.state
    async for message in stub.WatchSignals(signal_service_pb2.WatchSignalsRequest()):
        for event in message.events:
            state = event.signal.state
    return state
"""


def test_the_stubs_import_nothing_of_the_validation_rules_nor_of_the_server(root: Path, tmp_path: Path) -> None:
    client = root / "clients/python"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", IMPORT_EVERYTHING, str(client)],
        env={"PYTHONPATH": str(client)},
        cwd=tmp_path,
        check=True,
        timeout=60,
    )


@pytest.mark.parametrize("end", ["oldest", "newest"])
def test_the_stubs_run_on_both_ends_of_what_the_client_promises(
    root: Path, run_tool: Run, tmp_path: Path, end: str
) -> None:
    client = root / "clients/python"
    promised = tomllib.loads((client / "pyproject.toml").read_text())["project"]["dependencies"]
    assert len(promised) == 3
    wanted = [re.sub(r">=([\d.]+).*", r"==\1", line) for line in promised] if end == "oldest" else promised
    isolated = ["run", "--quiet", "--no-project", *(part for one in wanted for part in ("--with", one))]
    done = run_tool(
        "uv",
        *isolated,
        "python",
        "-W",
        "error::UserWarning",
        "-c",
        IMPORT_EVERYTHING + CALL_A_SERVER,
        str(client),
        cwd=tmp_path,
        PYTHONPATH=str(client),
    )
    if done.returncode != 0 and re.search("Failed to fetch|dns error|Could not connect", done.stderr):
        pytest.skip("the libraries are not installed and PyPI can't be reached")
    assert done.returncode == 0, done.stderr


def test_a_bot_on_the_stubs_passes_strict_mypy_in_both_forms(root: Path, run_tool: Run, tmp_path: Path) -> None:
    bot = tmp_path / "bot.py"
    bot.write_text(BOT)
    arguments = ["--strict", "--config-file=", "--namespace-packages", "--explicit-package-bases", "--no-incremental"]
    checked = run_tool("mypy", *arguments, str(bot), cwd=tmp_path, MYPYPATH=str(root / "clients/python"))
    assert checked.returncode == 0, checked.stdout


def test_a_wrong_bot_does_not_pass_strict_mypy(root: Path, run_tool: Run, tmp_path: Path) -> None:
    bot = tmp_path / "bot.py"
    bot.write_text(BOT.replace("answer = await stub.GetSignal", "answer = stub.GetSignal"))
    arguments = ["--strict", "--config-file=", "--namespace-packages", "--explicit-package-bases", "--no-incremental"]
    checked = run_tool("mypy", *arguments, str(bot), cwd=tmp_path, MYPYPATH=str(root / "clients/python"))
    assert checked.returncode != 0
    assert 'has no attribute "signal"' in checked.stdout


def test_events_encoded_once_can_be_joined_with_the_header_of_each_message() -> None:
    events = [
        signal_pb2.SignalEvent(sequence=number, signal=signal_pb2.Signal(signal_id=f"sig_{number:032d}"))
        for number in (7, 9)
    ]
    fragments = [signal_service_pb2.WatchSignalsResponse(events=[event]).SerializeToString() for event in events]
    header = signal_service_pb2.WatchSignalsResponse(
        after_sequence=6,
        through_sequence=9,
        head_sequence=12,
        resume_token="token",
        heartbeat=stream_pb2.StreamHeartbeat(),
        feed_statuses=[feed_status_pb2.FeedStatus(epoch=3)],
    )
    whole = signal_service_pb2.WatchSignalsResponse(events=events)
    whole.MergeFrom(header)
    for joined in (
        b"".join([*fragments, header.SerializeToString()]),
        b"".join([header.SerializeToString(), *fragments]),
    ):
        assert signal_service_pb2.WatchSignalsResponse.FromString(joined) == whole
