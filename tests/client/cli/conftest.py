"""A scripted server on a real channel, and the command as a person or a script runs it."""

import json
import os
import queue
import subprocess
import sys
import threading
from concurrent import futures
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from typer.testing import CliRunner

from oddstream.cli.app import app
from oddstream.v1 import (
    disclaimer_pb2,
    event_pb2,
    market_service_pb2,
    market_service_pb2_grpc,
    signal_service_pb2,
    signal_service_pb2_grpc,
    strategy_pb2,
)
from tests.client.cli.messages import (
    DATA_SET,
    a_book,
    a_fill,
    a_market,
    a_record,
    a_signal,
    an_execution,
    evidence,
    sig,
)

KEY = "ods_test_planted_secret"
BREAK = object()


def refuse(context, code, reason, text, *, metadata=None, details=()):
    info = error_details_pb2.ErrorInfo(reason=reason, domain="oddstream", metadata=metadata or {})
    packed = []
    for detail in (info, error_details_pb2.RequestInfo(request_id="c-1"), *details):
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        packed.append(wrapped)
    status = status_pb2.Status(code=code.value[0], message=text, details=packed)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, text)


class ScriptedServer(signal_service_pb2_grpc.SignalServiceServicer, market_service_pb2_grpc.MarketServiceServicer):
    """Streams what a test puts into ``messages``; BREAK aborts the stream with UNAVAILABLE."""

    def __init__(self):
        self.messages = queue.Queue()
        self.watch_requests = []
        self.list_requests = []
        self.reports = []
        self.ended = threading.Event()

    def _authenticate(self, context):
        sent = dict(context.invocation_metadata()).get("authorization")
        if sent != f"Bearer {KEY}":
            refuse(context, grpc.StatusCode.UNAUTHENTICATED, "API_KEY_MISSING", "the call carries no API key")

    def WatchSignals(self, request, context):
        self._authenticate(context)
        self.watch_requests.append(request)
        closed = threading.Event()
        context.add_callback(lambda: (closed.set(), self.messages.put(None)))
        while not closed.is_set():
            message = self.messages.get()
            if message is None:
                if closed.is_set() or self.ended.is_set():
                    return
                continue
            if message is BREAK:
                context.abort(grpc.StatusCode.UNAVAILABLE, "")
            yield message

    def ListMarkets(self, request, context):
        self._authenticate(context)
        self.list_requests.append(request)
        first = int(request.page_token or 0)
        count = min(request.page_size, 5 - first)
        return market_service_pb2.ListMarketsResponse(
            markets=[a_market(f"kalshi:M{first + i}") for i in range(count)],
            next_page_token=str(first + count) if first + count < 5 else "",
        )

    def GetMarket(self, request, context):
        self._authenticate(context)
        if ":" not in request.market_id:
            violation = error_details_pb2.BadRequest.FieldViolation(field="market_id", description="<venue>:<id>")
            refuse(
                context,
                grpc.StatusCode.INVALID_ARGUMENT,
                "INVALID_FIELD",
                "a field is not valid",
                details=[error_details_pb2.BadRequest(field_violations=[violation])],
            )
        if request.market_id == "kalshi:GONE":
            refuse(context, grpc.StatusCode.NOT_FOUND, "MARKET_NOT_FOUND", "no market has this id")
        return market_service_pb2.GetMarketResponse(market=a_market(request.market_id))

    def GetEvent(self, request, context):
        return market_service_pb2.GetEventResponse(event=event_pb2.Event(title="The final"))

    def GetOrderBook(self, request, context):
        if request.market_id == "kalshi:QUIET":
            refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "ORDER_BOOK_UNAVAILABLE", "no book is held")
        return a_book()

    def ListSignals(self, request, context):
        self._authenticate(context)
        self.list_requests.append(request)
        return signal_service_pb2.ListSignalsResponse(
            signals=[a_signal(n) for n in range(3)], data_set_id=DATA_SET, as_of_sequence=9
        )

    def GetSignal(self, request, context):
        self._authenticate(context)
        if request.signal_id != sig(1):
            refuse(context, grpc.StatusCode.NOT_FOUND, "SIGNAL_NOT_FOUND", "no signal has this id")
        signal = a_signal(1)
        signal.evidence.extend(evidence())
        told = disclaimer_pb2.Disclaimer(code=signal.disclaimer_code, text="What is staked can be lost whole.")
        return signal_service_pb2.GetSignalResponse(signal=signal, sequence=12, disclaimer=told)

    def ListStrategies(self, request, context):
        strategy = strategy_pb2.Strategy(strategy_id="arb.event_sum", kind="arb.event_sum", kind_version=1)
        return signal_service_pb2.ListStrategiesResponse(strategies=[strategy])

    def GetStrategyPerformance(self, request, context):
        self._authenticate(context)
        self.list_requests.append(request)
        return signal_service_pb2.GetStrategyPerformanceResponse(performance=a_record(request.strategy_id))

    def ReportExecutions(self, request, context):
        self._authenticate(context)
        self.reports.append(request)
        if any(fill.venue_fill_id == "CONFLICT" for fill in request.fills):
            refuse(context, grpc.StatusCode.ALREADY_EXISTS, "EXECUTION_CONFLICT", "the fill exists already")
        known = [fill.venue_fill_id for earlier in self.reports[:-1] for fill in earlier.fills]
        return signal_service_pb2.ReportExecutionsResponse(
            results=[
                signal_service_pb2.ReportedExecution(
                    execution=an_execution(fill), already_reported=fill.venue_fill_id in known
                )
                for fill in request.fills
            ]
        )

    def ListExecutions(self, request, context):
        self._authenticate(context)
        self.list_requests.append(request)
        first = int(request.page_token or 0)
        return signal_service_pb2.ListExecutionsResponse(
            executions=[an_execution(a_fill(f"f{first + n}")) for n in range(2)],
            next_page_token=str(first + 2) if first < 4 else "",
        )

    def GetStrategy(self, request, context):
        strategy = strategy_pb2.Strategy(strategy_id=request.strategy_id, description="sum of the asks")
        return signal_service_pb2.GetStrategyResponse(strategy=strategy)


@pytest.fixture
def script():
    return ScriptedServer()


@pytest.fixture
def target(script):
    server = grpc.server(futures.ThreadPoolExecutor(8))
    signal_service_pb2_grpc.add_SignalServiceServicer_to_server(script, server)
    market_service_pb2_grpc.add_MarketServiceServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    script.ended.set()
    script.messages.put(None)
    server.stop(0).wait()


@pytest.fixture
def environment(target):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ODDSTREAM_", "COLUMNS"))}
    return {**kept, "ODDSTREAM_TARGET": target, "ODDSTREAM_API_KEY": KEY, "TERM": "xterm-256color"}


COMMAND = (sys.executable, "-m", "oddstream.cli")


@dataclass(frozen=True)
class Done:
    """What a command that has ended leaves, as a finished process has it."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def run(environment):
    """Run the command to its end in this process, its output in pipes: one of its own takes fifty times as long."""

    def to_the_end(*arguments, **changes):
        cleared = dict.fromkeys(name for name in os.environ if name not in environment)
        result = CliRunner().invoke(app, arguments, env={**cleared, **environment, **changes})
        return Done(result.exit_code, result.stdout, result.stderr)

    return to_the_end


@pytest.fixture
def run_apart(environment):
    """Run the command to its end as a process."""

    def to_the_end(*arguments, **changes):
        env = {**environment, **changes}
        env = {name: value for name, value in env.items() if value is not None}
        return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=60)

    return to_the_end


@pytest.fixture
def operations():
    """An operations port whose ``/state`` answers what the test sets."""

    class Handler(BaseHTTPRequestHandler):
        body = b"{}"
        status = 200

        def do_GET(self):
            self.send_response(self.status if self.path == "/state" else 404)
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def answer(state, status=200):
        Handler.body = state if isinstance(state, bytes) else json.dumps(state).encode()
        Handler.status = status
        return f"http://127.0.0.1:{server.server_port}"

    yield answer
    server.shutdown()
    server.server_close()
    thread.join()
