"""Both clients against a scripted server over a real channel."""

import asyncio
import itertools
import threading
from concurrent import futures

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

import oddstream
from oddstream import errors
from oddstream.connection import Connection, InsecureTarget
from oddstream.v1 import (
    backtest_pb2,
    backtest_service_pb2_grpc,
    market_service_pb2,
    market_service_pb2_grpc,
    quote_pb2,
    signal_pb2,
    signal_service_pb2_grpc,
)
from oddstream.v1.backtest_service_pb2 import WatchBacktestResponse
from oddstream.v1.market_service_pb2 import QuoteWatchFilter, WatchQuotesResponse
from oddstream.v1.signal_service_pb2 import WatchSignalsResponse

DATA_SET = "ds_aaaaaaaaaaaaaaaa"


def packed(*details):
    out = []
    for detail in details:
        wrapped = any_pb2.Any()
        wrapped.Pack(detail)
        out.append(wrapped)
    return out


def refuse(context, code, text, *details):
    status = status_pb2.Status(code=code.value[0], message=text, details=packed(*details))
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(code, text)


def stretch(after, through, sequences, *, started):
    message = WatchSignalsResponse(
        after_sequence=after,
        through_sequence=through,
        head_sequence=through,
        events=[signal_pb2.SignalEvent(sequence=s) for s in sequences],
    )
    if started:
        message.started.data_set_id = DATA_SET
        message.started.start_sequence = after
    return message


class Script(
    signal_service_pb2_grpc.SignalServiceServicer,
    market_service_pb2_grpc.MarketServiceServicer,
    backtest_service_pb2_grpc.BacktestServiceServicer,
):
    """Serves sequences 1 to 9, quotes and a backtest, and breaks: each connection ends as the script says."""

    def __init__(self):
        self.endings = []
        self.requests = []
        self.metadata = []

    def WatchSignals(self, request, context):
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        at = request.start.position.sequence
        ending = self.endings.pop(0)
        if callable(ending):
            ending(context)
        yield stretch(at, at + 3, [at + 1, at + 2, at + 3], started=True)
        if ending == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        elif ending == "silent":
            message = stretch(at + 3, at + 3, [], started=False)
            message.heartbeat.next_within.FromMilliseconds(1)
            yield message
            ended = threading.Event()
            context.add_callback(ended.set)
            ended.wait(30)

    def WatchQuotes(self, request, context):
        self.requests.append(request)
        yield WatchQuotesResponse(quotes=[quote_pb2.Quote(market_id=request.filter.market_ids[0])])
        if self.endings.pop(0) == "unavailable":
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    def WatchBacktest(self, request, context):
        self.requests.append(request)
        state = self.endings.pop(0)
        yield WatchBacktestResponse(backtest=backtest_pb2.Backtest(backtest_id=request.backtest_id, state=state))
        if state == backtest_pb2.BACKTEST_STATE_RUNNING:
            context.abort(grpc.StatusCode.UNAVAILABLE, "draining")

    def GetMarket(self, request, context):
        self.metadata.append(dict(context.invocation_metadata()))
        refuse(
            context,
            grpc.StatusCode.INVALID_ARGUMENT,
            "market_id: must be <venue>:<id>",
            error_details_pb2.ErrorInfo(reason="INVALID_FIELD", domain="oddstream", metadata={"a": "b"}),
            error_details_pb2.RequestInfo(request_id="c-1"),
            error_details_pb2.BadRequest(
                field_violations=[error_details_pb2.BadRequest.FieldViolation(field="market_id", description="rule")]
            ),
        )

    def ListMarkets(self, request, context):
        page = int(request.page_token or 0)
        return market_service_pb2.ListMarketsResponse(next_page_token=str(page + 1) if page < 2 else "")


@pytest.fixture
def server():
    script = Script()
    running = grpc.server(futures.ThreadPoolExecutor(8))
    signal_service_pb2_grpc.add_SignalServiceServicer_to_server(script, running)
    market_service_pb2_grpc.add_MarketServiceServicer_to_server(script, running)
    backtest_service_pb2_grpc.add_BacktestServiceServicer_to_server(script, running)
    port = running.add_insecure_port("127.0.0.1:0")
    running.start()
    yield script, f"127.0.0.1:{port}"
    running.stop(0).wait()


@pytest.fixture(params=["blocking", "asynchronous"])
def watched(request, server):
    """Read n items, or all, of a watch through one of the clients."""
    _, target = server

    def blocking(method, n, *arguments, **options):
        with oddstream.Client(target, api_key="ods_test_planted") as client:
            watch = getattr(client, method)(*arguments, **options)
            taken = list(itertools.islice(watch, n))
            watch.close()
            return taken

    def asynchronous(method, n, *arguments, **options):
        async def run():
            async with oddstream.AsyncClient(target, api_key="ods_test_planted") as client:
                watch, taken = getattr(client, method)(*arguments, **options), []
                async for item in watch:
                    taken.append(item)
                    if len(taken) == n:
                        break
                await watch.aclose()
                return taken

        return asyncio.run(run())

    return {"blocking": blocking, "asynchronous": asynchronous}[request.param]


@pytest.fixture
def take(watched):
    return lambda n, **options: [event.sequence for event in watched("watch_signals", n, **options)]


def test_a_watch_goes_on_over_breaks_silence_and_a_plain_end_without_a_gap_or_a_duplicate(server, take):
    script, _ = server
    script.endings = ["unavailable", "silent", "end", "end"]
    assert take(12) == list(range(1, 13))
    assert [r.start.position.sequence for r in script.requests] == [0, 3, 6, 9]


def test_quotes_begin_anew_after_a_break_and_a_plain_end(server, watched):
    script, _ = server
    script.endings = ["unavailable", "end", "end"]
    breaks = []
    quotes = watched(
        "watch_quotes", 3, QuoteWatchFilter(market_ids=["kalshi:A"]), on_break=lambda error, _: breaks.append(error)
    )
    assert [quote.market_id for quote in quotes] == ["kalshi:A"] * 3
    assert [None if error is None else error.code for error in breaks] == [grpc.StatusCode.UNAVAILABLE, None]
    assert [list(r.filter.market_ids) for r in script.requests] == [["kalshi:A"]] * 3


def test_a_backtest_is_followed_over_a_break_until_it_has_ended(server, watched):
    script, _ = server
    running, done = backtest_pb2.BACKTEST_STATE_RUNNING, backtest_pb2.BACKTEST_STATE_SUCCEEDED
    script.endings = [running, done]
    assert [run.state for run in watched("watch_backtest", None, "bt_a")] == [running, done]
    assert [r.backtest_id for r in script.requests] == ["bt_a", "bt_a"]


def test_every_call_carries_the_key_and_a_correlation_id(server, take):
    script, _ = server
    script.endings = ["end"]
    take(1)
    assert script.metadata[0]["authorization"] == "Bearer ods_test_planted"
    assert len(script.metadata[0]["x-correlation-id"]) == 36


def test_an_error_that_stays_is_raised_with_its_reason_and_where_to_start_again(server, take):
    script, _ = server
    info = error_details_pb2.ErrorInfo(
        reason="SIGNAL_HISTORY_TRIMMED", domain="oddstream", metadata={"oldest_sequence": "41"}
    )
    script.endings = [lambda context: refuse(context, grpc.StatusCode.OUT_OF_RANGE, "trimmed", info)]
    with pytest.raises(errors.OutOfRange) as refused:
        take(1)
    assert refused.value.reason == "SIGNAL_HISTORY_TRIMMED"
    assert refused.value.metadata == {"oldest_sequence": "41"}


def assert_is_the_refusal(error):
    assert error.reason == "INVALID_FIELD"
    assert error.metadata == {"a": "b"}
    assert error.correlation_id == "c-1"
    assert error.violations == (errors.FieldViolation("market_id", "rule"),)
    assert str(error) == "market_id: must be <venue>:<id> [INVALID_FIELD] (ref c-1)"


def test_a_refused_call_is_a_typed_exception_in_the_blocking_client(server):
    with oddstream.Client(server[1]) as client, pytest.raises(errors.InvalidArgument) as refused:
        client.markets.GetMarket(market_service_pb2.GetMarketRequest(market_id="x"))
    assert_is_the_refusal(refused.value)


async def test_a_refused_call_is_a_typed_exception_in_the_asynchronous_client(server):
    async with oddstream.AsyncClient(server[1]) as client:
        with pytest.raises(errors.InvalidArgument) as refused:
            await client.markets.GetMarket(market_service_pb2.GetMarketRequest(market_id="x"))
    assert_is_the_refusal(refused.value)


async def test_pages_follow_the_token_to_the_last_one_in_both_clients(server):
    request = market_service_pb2.ListMarketsRequest(page_size=2)
    async with oddstream.AsyncClient(server[1]) as client:
        assert len([page async for page in client.pages(client.markets.ListMarkets, request)]) == 3
    with oddstream.Client(server[1]) as client:
        assert len(list(client.pages(client.markets.ListMarkets, request))) == 3
    assert request.page_token == ""


def test_a_server_that_is_not_there_is_unavailable_within_the_timeout():
    with oddstream.Client("127.0.0.1:1", timeout_seconds=2) as client, pytest.raises(errors.Unavailable):
        client.markets.ListMarkets(market_service_pb2.ListMarketsRequest())


@pytest.mark.parametrize("target", ["markets.example:50051", "10.1.2.3:50051", "dns:///markets.example:443"])
def test_a_key_is_not_sent_in_clear_text_off_this_machine_unless_told_so(target):
    with pytest.raises(InsecureTarget, match="allow_plaintext=True"):
        Connection(target, api_key="k")
    assert Connection(target, api_key="k", allow_plaintext=True).target == target
    assert Connection(target, api_key="k", credentials=grpc.ssl_channel_credentials()).target == target


@pytest.mark.parametrize("target", ["localhost:50051", "127.0.0.1:1", "[::1]:1", "unix:/tmp/x", "dns:///localhost:1"])
def test_a_key_may_go_to_this_machine_in_clear_text_and_never_shows_in_repr(target):
    assert "planted" not in repr(Connection(target, api_key="planted"))
