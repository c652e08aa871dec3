"""SignalService: from a request to a use case and back."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from oddstream.v1 import signal_pb2, signal_service_pb2, signal_service_pb2_grpc
from oddstream_server.application.calls.mutations import Mutation, Mutations
from oddstream_server.application.calls.request import require_principal
from oddstream_server.application.executions import Executions
from oddstream_server.application.performance import Performance, RecordQuestion
from oddstream_server.application.signals import Signals, StrategyFilter
from oddstream_server.transport.administration.answers import Answers
from oddstream_server.transport.converters.disclosures import disclaimer
from oddstream_server.transport.converters.executions import (
    execution_filter,
    execution_message,
    fills_of,
    reported_message,
)
from oddstream_server.transport.converters.signals import signal_list_filter, stored_signal_message
from oddstream_server.transport.converters.strategies import strategy_message, track_record_message
from oddstream_server.transport.converters.values import span
from oddstream_server.transport.tokens import next_page_token, page_request

Context = grpc.aio.ServicerContext[Any, Any]
WatchSignals = Callable[[signal_service_pb2.WatchSignalsRequest, Context], Awaitable[None]]

SERVICE = "oddstream.v1.SignalService"


class SignalService(signal_service_pb2_grpc.SignalServiceServicer):
    """:param watch_signals: serves one stream of signals until it ends, writing to the context."""

    def __init__(
        self,
        signals: Signals,
        performance: Performance,
        executions: Executions,
        mutations: Mutations,
        watch_signals: WatchSignals,
    ) -> None:
        self._answers = Answers(mutations)
        self._signals = signals
        self._performance = performance
        self._executions = executions
        self._watch_signals = watch_signals

    async def ListSignals(
        self, request: signal_service_pb2.ListSignalsRequest, context: Context
    ) -> signal_service_pb2.ListSignalsResponse:
        found = await self._signals.list_signals(signal_list_filter(request), page_request(request, int))
        full = request.view == signal_pb2.SIGNAL_VIEW_FULL
        return signal_service_pb2.ListSignalsResponse(
            signals=[stored_signal_message(signal, full=full) for signal in found.page.items],
            next_page_token=next_page_token(request, found.page.next_key),
            as_of_sequence=found.as_of_sequence,
            data_set_id=found.data_set_id,
        )

    async def GetSignal(
        self, request: signal_service_pb2.GetSignalRequest, context: Context
    ) -> signal_service_pb2.GetSignalResponse:
        stored = await self._signals.get_signal(request.signal_id)
        full = request.view != signal_pb2.SIGNAL_VIEW_BASIC
        return signal_service_pb2.GetSignalResponse(
            signal=stored_signal_message(stored, full=full),
            sequence=stored.sequence,
            disclaimer=disclaimer(stored.signal.disclaimer_code),
        )

    async def ListStrategies(
        self, request: signal_service_pb2.ListStrategiesRequest, context: Context
    ) -> signal_service_pb2.ListStrategiesResponse:
        enabled = request.filter.enabled if request.filter.HasField("enabled") else None
        where = StrategyFilter(tuple(request.filter.kinds), enabled)
        found = await self._signals.list_strategies(where, page_request(request, str))
        return signal_service_pb2.ListStrategiesResponse(
            strategies=map(strategy_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def GetStrategy(
        self, request: signal_service_pb2.GetStrategyRequest, context: Context
    ) -> signal_service_pb2.GetStrategyResponse:
        strategy = await self._signals.get_strategy(request.strategy_id)
        return signal_service_pb2.GetStrategyResponse(strategy=strategy_message(strategy))

    async def GetStrategyPerformance(
        self, request: signal_service_pb2.GetStrategyPerformanceRequest, context: Context
    ) -> signal_service_pb2.GetStrategyPerformanceResponse:
        triggers = span(request.period, "period")
        asked = RecordQuestion(request.strategy_id, request.kind_version, triggers, request.simulated)
        record = await self._performance.track_record(require_principal(), asked)
        return signal_service_pb2.GetStrategyPerformanceResponse(performance=track_record_message(record, triggers))

    async def ReportExecutions(
        self, request: signal_service_pb2.ReportExecutionsRequest, context: Context
    ) -> signal_service_pb2.ReportExecutionsResponse:
        fills = fills_of(request)

        async def work(mutation: Mutation) -> signal_service_pb2.ReportExecutionsResponse:
            reported = await self._executions.report(mutation, fills)
            return signal_service_pb2.ReportExecutionsResponse(results=map(reported_message, reported))

        return await self._answers.once(request, signal_service_pb2.ReportExecutionsResponse, work)

    async def ListExecutions(
        self, request: signal_service_pb2.ListExecutionsRequest, context: Context
    ) -> signal_service_pb2.ListExecutionsResponse:
        where, page = execution_filter(request.filter), page_request(request, int, str)
        found = await self._executions.list_executions(require_principal(), where, page)
        return signal_service_pb2.ListExecutionsResponse(
            executions=map(execution_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def WatchSignals(  # type: ignore[override]  # it writes to the context, and the stubs know generators alone
        self, request: signal_service_pb2.WatchSignalsRequest, context: Context
    ) -> None:
        await self._watch_signals(request, context)
