"""The two clients: the same calls, blocking or awaited."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import grpc

from oddstream.connection import Connection
from oddstream.executions import report_requests
from oddstream.v1 import (
    admin_service_pb2_grpc,
    backtest_pb2,
    backtest_service_pb2_grpc,
    execution_pb2,
    market_service_pb2,
    market_service_pb2_grpc,
    quote_pb2,
    signal_pb2,
    signal_service_pb2,
    signal_service_pb2_grpc,
    strategy_pb2,
    sweep_pb2,
    time_range_pb2,
)
from oddstream.watching.cursor import OnBreak
from oddstream.watching.quotes import OnReset, QuoteCursor
from oddstream.watching.runs import BacktestCursor, SweepCursor, backtest_cursor, sweep_cursor
from oddstream.watching.signals import Checkpoint, SignalCursor
from oddstream.watching.watches import AsyncWatch, Watch

SignalFilter = signal_pb2.SignalFilter
QuoteWatchFilter = market_service_pb2.QuoteWatchFilter
WatchSignalsRequest = signal_service_pb2.WatchSignalsRequest
WatchSignalsStart = signal_service_pb2.WatchSignalsStart
SignalEvent = signal_pb2.SignalEvent


class PagedRequest(Protocol):
    page_token: str


class PagedResponse(Protocol):
    @property
    def next_page_token(self) -> str: ...


Page = TypeVar("Page", bound=PagedResponse)


def _watch_request(
    filter: SignalFilter | None,  # noqa: A002 - the contract's own word
    start: WatchSignalsStart | None,
    include_simulated: bool,
    view: signal_pb2.SignalView.ValueType,
    skip_expired: bool,
) -> WatchSignalsRequest:
    return WatchSignalsRequest(
        filter=filter, start=start, include_simulated=include_simulated, view=view, skip_expired=skip_expired
    )


class Client:
    """A blocking client; thread-safe, one channel.

    :param target: ``host:port``.
    :param credentials: TLS; without it only a server on this machine gets the key.
    """

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        allow_plaintext: bool = False,
        timeout_seconds: float = 15.0,
    ) -> None:
        self.connection = Connection(target, api_key, credentials, allow_plaintext, timeout_seconds)
        self.channel = self.connection.channel()
        self.markets = market_service_pb2_grpc.MarketServiceStub(self.channel)
        self.signals = signal_service_pb2_grpc.SignalServiceStub(self.channel)
        self.backtests = backtest_service_pb2_grpc.BacktestServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    def pages(self, method: Callable[[Any], Page], request: PagedRequest) -> Iterator[Page]:
        """Every page of a list, e.g. ``client.pages(client.markets.ListMarkets, ListMarketsRequest())``."""
        following = type(request)()
        following.CopyFrom(request)  # type: ignore[attr-defined]  # a protobuf message, whose base is not generic
        while True:
            page = method(following)
            yield page
            if not page.next_page_token:
                return
            following.page_token = page.next_page_token

    def watch_signals(
        self,
        filter: SignalFilter | None = None,  # noqa: A002 - the contract's own word
        *,
        start: WatchSignalsStart | None = None,
        checkpoint: Checkpoint | None = None,
        include_simulated: bool = False,
        view: signal_pb2.SignalView.ValueType = signal_pb2.SIGNAL_VIEW_BASIC,
        skip_expired: bool = False,
        on_message: Callable[[signal_service_pb2.WatchSignalsResponse], None] | None = None,
        on_break: OnBreak | None = None,
    ) -> Watch[SignalEvent, SignalCursor]:
        """Follow the signal log; resumes by itself and never leaves a hole.

        :param start: see :func:`oddstream.from_now` and its kin; a checkpoint that holds a position wins.
        :param checkpoint: loaded now, saved each time that the reader asks for more.
        :param on_message: sees each message before its events: heartbeats, feed states, the head.
        :param on_break: sees each break: what for (None where the stream ended with OK) and seconds to the next try.
        :raises OddstreamError: what can't get better by itself.
        """
        request = _watch_request(filter, start, include_simulated, view, skip_expired)
        cursor = SignalCursor(request, checkpoint=checkpoint, on_message=on_message, on_break=on_break)
        return Watch(self.signals.WatchSignals, cursor)

    def watch_quotes(
        self,
        filter: QuoteWatchFilter | None = None,  # noqa: A002 - the contract's own word
        *,
        include_simulated: bool = False,
        on_reset: OnReset | None = None,
        on_message: Callable[[market_service_pb2.WatchQuotesResponse], None] | None = None,
        on_break: OnBreak | None = None,
    ) -> Watch[quote_pb2.Quote, QuoteCursor]:
        """Follow the latest quote of each market; opens the stream again by itself.

        The stream is conflated: where quotes come faster than they are read, only the latest of a market comes. After
        a break it begins anew with each market's quote as it is, and until then ``cursor.latest`` is empty.

        :param on_reset: sees each gap at a venue: what was known of its markets is void until their next quotes.
        :param on_message: sees each message before its quotes.
        :param on_break: sees each break, see :meth:`watch_signals`.
        :raises OddstreamError: what can't get better by itself.
        """
        request = market_service_pb2.WatchQuotesRequest(filter=filter, include_simulated=include_simulated)
        cursor = QuoteCursor(request, on_reset=on_reset, on_message=on_message, on_break=on_break)
        return Watch(self.markets.WatchQuotes, cursor)

    def watch_backtest(
        self, backtest_id: str, *, on_break: OnBreak | None = None
    ) -> Watch[backtest_pb2.Backtest, BacktestCursor]:
        """Follow a backtest until it has ended: each change, at last the whole; over lost connections too.

        :raises OddstreamError: what can't get better by itself, e.g. there is no such backtest.
        """
        return Watch(self.backtests.WatchBacktest, backtest_cursor(backtest_id, on_break))

    def watch_sweep(self, sweep_id: str, *, on_break: OnBreak | None = None) -> Watch[sweep_pb2.Sweep, SweepCursor]:
        """Follow a sweep until it has ended; see :meth:`watch_backtest`."""
        return Watch(self.backtests.WatchSweep, sweep_cursor(sweep_id, on_break))

    def report_executions(self, fills: Iterable[execution_pb2.Fill]) -> list[signal_service_pb2.ReportedExecution]:
        """Report fills, 500 a call; answers what became of each, in their order.

        Each call's fills are stored all or none. A fill is stored once for ever by (venue, its fill id), so the whole
        may be repeated after any failure.

        :raises AlreadyExists: EXECUTION_CONFLICT: a fill was reported before with other content.
        """
        return [
            result for request in report_requests(fills) for result in self.signals.ReportExecutions(request).results
        ]

    def executions(
        self,
        filter: signal_service_pb2.ExecutionFilter | None = None,  # noqa: A002 - the contract's own word
        *,
        page_size: int = 0,
    ) -> Iterator[execution_pb2.Execution]:
        """The caller's executions, an admin's call everybody's, the latest reported first; pages come as they are
        needed."""
        request = signal_service_pb2.ListExecutionsRequest(filter=filter, page_size=page_size)
        for page in self.pages(self.signals.ListExecutions, request):
            yield from page.executions

    def strategy_performance(
        self,
        strategy_id: str,
        *,
        kind_version: int = 0,
        period: time_range_pb2.TimeRange | None = None,
        simulated: bool = False,
    ) -> strategy_pb2.StrategyPerformance:
        """The live track record of a strategy from its graded signals.

        :param kind_version: 0 for the one that runs.
        :param period: which trigger times count; all, where it is None.
        :param simulated: of simulated signals instead of live ones.
        """
        request = signal_service_pb2.GetStrategyPerformanceRequest(
            strategy_id=strategy_id, kind_version=kind_version, period=period, simulated=simulated
        )
        return self.signals.GetStrategyPerformance(request).performance

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncClient:
    """An asynchronous client; make it inside the running event loop that uses it. See :class:`Client`."""

    def __init__(
        self,
        target: str = "localhost:50051",
        *,
        api_key: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        allow_plaintext: bool = False,
        timeout_seconds: float = 15.0,
    ) -> None:
        self.connection = Connection(target, api_key, credentials, allow_plaintext, timeout_seconds)
        self.channel = self.connection.async_channel()
        self.markets = market_service_pb2_grpc.MarketServiceStub(self.channel)
        self.signals = signal_service_pb2_grpc.SignalServiceStub(self.channel)
        self.backtests = backtest_service_pb2_grpc.BacktestServiceStub(self.channel)
        self.admin = admin_service_pb2_grpc.AdminServiceStub(self.channel)

    async def pages(self, method: Callable[[Any], Awaitable[Page]], request: PagedRequest) -> AsyncIterator[Page]:
        """Every page of a list, e.g. ``client.pages(client.markets.ListMarkets, ListMarketsRequest())``."""
        following = type(request)()
        following.CopyFrom(request)  # type: ignore[attr-defined]  # a protobuf message, whose base is not generic
        while True:
            page = await method(following)
            yield page
            if not page.next_page_token:
                return
            following.page_token = page.next_page_token

    def watch_signals(
        self,
        filter: SignalFilter | None = None,  # noqa: A002 - the contract's own word
        *,
        start: WatchSignalsStart | None = None,
        checkpoint: Checkpoint | None = None,
        include_simulated: bool = False,
        view: signal_pb2.SignalView.ValueType = signal_pb2.SIGNAL_VIEW_BASIC,
        skip_expired: bool = False,
        on_message: Callable[[signal_service_pb2.WatchSignalsResponse], None] | None = None,
        on_break: OnBreak | None = None,
    ) -> AsyncWatch[SignalEvent, SignalCursor]:
        """Follow the signal log; see :meth:`Client.watch_signals`."""
        request = _watch_request(filter, start, include_simulated, view, skip_expired)
        cursor = SignalCursor(request, checkpoint=checkpoint, on_message=on_message, on_break=on_break)
        return AsyncWatch(self.signals.WatchSignals, cursor)

    def watch_quotes(
        self,
        filter: QuoteWatchFilter | None = None,  # noqa: A002 - the contract's own word
        *,
        include_simulated: bool = False,
        on_reset: OnReset | None = None,
        on_message: Callable[[market_service_pb2.WatchQuotesResponse], None] | None = None,
        on_break: OnBreak | None = None,
    ) -> AsyncWatch[quote_pb2.Quote, QuoteCursor]:
        """Follow the latest quote of each market; see :meth:`Client.watch_quotes`."""
        request = market_service_pb2.WatchQuotesRequest(filter=filter, include_simulated=include_simulated)
        cursor = QuoteCursor(request, on_reset=on_reset, on_message=on_message, on_break=on_break)
        return AsyncWatch(self.markets.WatchQuotes, cursor)

    def watch_backtest(
        self, backtest_id: str, *, on_break: OnBreak | None = None
    ) -> AsyncWatch[backtest_pb2.Backtest, BacktestCursor]:
        """Follow a backtest until it has ended; see :meth:`Client.watch_backtest`."""
        return AsyncWatch(self.backtests.WatchBacktest, backtest_cursor(backtest_id, on_break))

    def watch_sweep(
        self, sweep_id: str, *, on_break: OnBreak | None = None
    ) -> AsyncWatch[sweep_pb2.Sweep, SweepCursor]:
        """Follow a sweep until it has ended; see :meth:`watch_backtest`."""
        return AsyncWatch(self.backtests.WatchSweep, sweep_cursor(sweep_id, on_break))

    async def report_executions(
        self, fills: Iterable[execution_pb2.Fill]
    ) -> list[signal_service_pb2.ReportedExecution]:
        """Report fills, 500 a call; see :meth:`Client.report_executions`."""
        return [
            result
            for request in report_requests(fills)
            for result in (await self.signals.ReportExecutions(request)).results
        ]

    async def executions(
        self,
        filter: signal_service_pb2.ExecutionFilter | None = None,  # noqa: A002 - the contract's own word
        *,
        page_size: int = 0,
    ) -> AsyncIterator[execution_pb2.Execution]:
        """The latest reported first; see :meth:`Client.executions`."""
        request = signal_service_pb2.ListExecutionsRequest(filter=filter, page_size=page_size)
        async for page in self.pages(self.signals.ListExecutions, request):
            for execution in page.executions:
                yield execution

    async def strategy_performance(
        self,
        strategy_id: str,
        *,
        kind_version: int = 0,
        period: time_range_pb2.TimeRange | None = None,
        simulated: bool = False,
    ) -> strategy_pb2.StrategyPerformance:
        """The live track record of a strategy; see :meth:`Client.strategy_performance`."""
        request = signal_service_pb2.GetStrategyPerformanceRequest(
            strategy_id=strategy_id, kind_version=kind_version, period=period, simulated=simulated
        )
        return (await self.signals.GetStrategyPerformance(request)).performance

    async def close(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self.channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
