"""BacktestService: from a request to a use case and back."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from oddstream.v1 import backtest_pb2, backtest_service_pb2, backtest_service_pb2_grpc, sweep_pb2
from oddstream_server.application.backtests import Backtests, CheckedSpec
from oddstream_server.application.calls.mutations import Mutation, Mutations
from oddstream_server.application.calls.request import require_principal
from oddstream_server.application.ports import Clock
from oddstream_server.domain import disclosures
from oddstream_server.domain.backtest import BacktestResult, Run, RunKind, SweepResult
from oddstream_server.domain.principal import Principal
from oddstream_server.feed.runs import RunDelivery, RunFeed, RunWatch
from oddstream_server.transport.administration.answers import Answers
from oddstream_server.transport.converters import backtest_results as as_result
from oddstream_server.transport.converters import backtests as as_run
from oddstream_server.transport.converters.disclosures import disclaimer
from oddstream_server.transport.converters.streams import add_signs_of_life
from oddstream_server.transport.converters.values import stamp
from oddstream_server.transport.tokens import next_page_token, page_request

Context = grpc.aio.ServicerContext[Any, Any]
pb = backtest_service_pb2
M = TypeVar("M", bound=Message)

SERVICE = "oddstream.v1.BacktestService"
_DEFAULT_HEARTBEAT_S = 10.0
BACKTEST, SWEEP = RunKind.BACKTEST, RunKind.SWEEP


class BacktestService(backtest_service_pb2_grpc.BacktestServiceServicer):
    def __init__(self, backtests: Backtests, feed: RunFeed, now: Clock, mutations: Mutations) -> None:
        self._answers = Answers(mutations)
        self._backtests = backtests
        self._feed = feed
        self._now = now

    async def CreateBacktest(self, request: pb.CreateBacktestRequest, context: Context) -> pb.CreateBacktestResponse:
        spec = as_run.backtest_spec(request.config, "config")

        def answer(run: Run) -> pb.CreateBacktestResponse:
            return pb.CreateBacktestResponse(backtest=as_run.backtest_message(run))

        return await self._queue(
            request, pb.CreateBacktestResponse, lambda caller: self._backtests.check_backtest(caller, spec), answer
        )

    async def GetBacktest(self, request: pb.GetBacktestRequest, context: Context) -> pb.GetBacktestResponse:
        run = await self._backtests.get(require_principal(), request.backtest_id, BACKTEST)
        return pb.GetBacktestResponse(backtest=await self._backtest(run))

    async def ListBacktests(self, request: pb.ListBacktestsRequest, context: Context) -> pb.ListBacktestsResponse:
        where, page = as_run.run_filter(request.filter), page_request(request, int)
        found = await self._backtests.list_runs(require_principal(), BACKTEST, where, page)
        return pb.ListBacktestsResponse(
            backtests=map(as_run.backtest_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def CancelBacktest(self, request: pb.CancelBacktestRequest, context: Context) -> pb.CancelBacktestResponse:
        async def work(mutation: Mutation) -> pb.CancelBacktestResponse:
            run, result = await self._backtests.cancel(mutation, request.backtest_id, BACKTEST)
            return pb.CancelBacktestResponse(backtest=_backtest(run, result))

        return await self._answers.once(request, pb.CancelBacktestResponse, work)

    async def DeleteBacktest(self, request: pb.DeleteBacktestRequest, context: Context) -> pb.DeleteBacktestResponse:
        async def work(mutation: Mutation) -> pb.DeleteBacktestResponse:
            await self._backtests.delete_backtest(mutation, request.backtest_id)
            return pb.DeleteBacktestResponse()

        return await self._answers.once(request, pb.DeleteBacktestResponse, work)

    async def ListBacktestTrades(
        self, request: pb.ListBacktestTradesRequest, context: Context
    ) -> pb.ListBacktestTradesResponse:
        where, page = as_run.blotter_filter(request.filter), page_request(request, int)
        found = await self._backtests.list_trades(require_principal(), request.backtest_id, where, page)
        return pb.ListBacktestTradesResponse(
            trades=map(as_result.trade_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
            disclaimer=disclaimer(disclosures.BACKTEST),
        )

    async def GetEquityCurve(self, request: pb.GetEquityCurveRequest, context: Context) -> pb.GetEquityCurveResponse:
        curve = await self._backtests.equity_curve(
            require_principal(), request.backtest_id, request.maximum_point_count
        )
        return pb.GetEquityCurveResponse(
            points=map(as_result.point_message, curve.points),
            total_point_count=curve.total_point_count,
            disclaimer=disclaimer(disclosures.BACKTEST),
        )

    async def CreateSweep(self, request: pb.CreateSweepRequest, context: Context) -> pb.CreateSweepResponse:
        spec = as_run.sweep_spec(request.config, "config")

        def answer(run: Run) -> pb.CreateSweepResponse:
            return pb.CreateSweepResponse(sweep=as_run.sweep_message(run))

        return await self._queue(
            request, pb.CreateSweepResponse, lambda caller: self._backtests.check_sweep(caller, spec), answer
        )

    async def GetSweep(self, request: pb.GetSweepRequest, context: Context) -> pb.GetSweepResponse:
        run = await self._backtests.get(require_principal(), request.sweep_id, SWEEP)
        return pb.GetSweepResponse(sweep=await self._sweep(run))

    async def ListSweeps(self, request: pb.ListSweepsRequest, context: Context) -> pb.ListSweepsResponse:
        where, page = as_run.run_filter(request.filter), page_request(request, int)
        found = await self._backtests.list_runs(require_principal(), SWEEP, where, page)
        return pb.ListSweepsResponse(
            sweeps=map(as_run.sweep_message, found.items), next_page_token=next_page_token(request, found.next_key)
        )

    async def CancelSweep(self, request: pb.CancelSweepRequest, context: Context) -> pb.CancelSweepResponse:
        async def work(mutation: Mutation) -> pb.CancelSweepResponse:
            run, result = await self._backtests.cancel(mutation, request.sweep_id, SWEEP)
            return pb.CancelSweepResponse(sweep=_sweep(run, result))

        return await self._answers.once(request, pb.CancelSweepResponse, work)

    async def WatchBacktest(  # type: ignore[override]  # it writes to the context, and the stubs know generators alone
        self, request: pb.WatchBacktestRequest, context: Context
    ) -> None:
        caller = require_principal()
        run = await self._backtests.get(caller, request.backtest_id, BACKTEST)

        async def message(delivery: RunDelivery) -> Message:
            made = pb.WatchBacktestResponse(send_time=stamp(self._now()))
            if delivery.run is not None:
                whole = delivery.first or delivery.last
                made.backtest.CopyFrom(
                    await self._backtest(delivery.run)
                    if whole
                    else as_run.backtest_message(delivery.run, with_config=False)
                )
            return made

        await self._watch(run, caller, request, context, message)

    async def WatchSweep(  # type: ignore[override]  # as WatchBacktest
        self, request: pb.WatchSweepRequest, context: Context
    ) -> None:
        caller = require_principal()
        run = await self._backtests.get(caller, request.sweep_id, SWEEP)

        async def message(delivery: RunDelivery) -> Message:
            made = pb.WatchSweepResponse(send_time=stamp(self._now()))
            if delivery.run is not None:
                whole = delivery.first or delivery.last
                made.sweep.CopyFrom(
                    await self._sweep(delivery.run) if whole else as_run.sweep_message(delivery.run, with_config=False)
                )
            return made

        await self._watch(run, caller, request, context, message)

    async def _queue(
        self,
        request: pb.CreateBacktestRequest | pb.CreateSweepRequest,
        answer: type[M],
        check: Callable[[Principal], Awaitable[CheckedSpec]],
        made: Callable[[Run], M],
    ) -> M:
        """Check a spec, unless the call was answered before, and queue its run."""
        name = as_run.display_name(request.display_name)
        checked: CheckedSpec | None = None

        async def prepare() -> None:
            nonlocal checked
            checked = await check(require_principal())

        async def work(mutation: Mutation) -> M:
            assert checked is not None
            return made(await self._backtests.create(mutation, checked, name))

        return await self._answers.once(request, answer, work, prepare)

    async def _watch(
        self,
        run: Run,
        caller: Principal,
        request: pb.WatchBacktestRequest | pb.WatchSweepRequest,
        context: Context,
        message: Callable[[RunDelivery], Awaitable[Message]],
    ) -> None:
        heartbeat_s = _DEFAULT_HEARTBEAT_S
        if request.HasField("heartbeat_interval"):
            heartbeat_s = request.heartbeat_interval.ToMicroseconds() / 1_000_000
        watch: RunWatch = self._feed.watch(run, caller, heartbeat_s)
        try:
            while True:
                delivery = await watch.next()
                made = await message(delivery)
                add_signs_of_life(made, delivery.heartbeat, watch.next_within_us, delivery.closing)
                await context.write(made.SerializeToString())
                if delivery.last:
                    return
        finally:
            watch.close()

    async def _backtest(self, run: Run) -> backtest_pb2.Backtest:
        return _backtest(run, await self._backtests.result(run))

    async def _sweep(self, run: Run) -> sweep_pb2.Sweep:
        return _sweep(run, await self._backtests.result(run))


def _backtest(run: Run, result: BacktestResult | SweepResult | None) -> backtest_pb2.Backtest:
    made = as_run.backtest_message(run)
    if isinstance(result, BacktestResult):
        made.result.CopyFrom(as_result.backtest_result_message(result))
    return made


def _sweep(run: Run, result: BacktestResult | SweepResult | None) -> sweep_pb2.Sweep:
    made = as_run.sweep_message(run)
    if isinstance(result, SweepResult):
        made.result.CopyFrom(as_result.sweep_result_message(result))
    return made
