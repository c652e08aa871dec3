"""Fills and executions, as messages and from them."""

from oddstream.v1 import execution_pb2, signal_service_pb2
from oddstream_server.application.executions import Reported
from oddstream_server.application.ports import ExecutionFilter
from oddstream_server.domain.execution import Execution, Fill, FillLiquidity
from oddstream_server.transport.converters.signals import ACTIONS
from oddstream_server.transport.converters.values import (
    VENUES,
    chosen,
    enum_table,
    instant_us,
    one,
    span,
    stamp,
    word,
    words,
)

LIQUIDITIES = enum_table(FillLiquidity, execution_pb2.FillLiquidity, "FILL_LIQUIDITY")


def fill_of(message: execution_pb2.Fill, path: str) -> Fill:
    return Fill(
        venue=one(VENUES, message.venue, f"{path}.venue"),
        venue_fill_id=message.venue_fill_id,
        market_id=message.market_id,
        outcome_index=message.outcome_index,
        action=one(ACTIONS, message.action, f"{path}.action"),
        price_micros=message.price_micros,
        size_micros=message.size_micros,
        fee_micros=message.fee_micros if message.HasField("fee_micros") else None,
        liquidity=one(LIQUIDITIES, message.liquidity, f"{path}.liquidity"),
        venue_time_us=instant_us(message.venue_time, f"{path}.venue_time"),
        signal_id=message.signal_id if message.HasField("signal_id") else None,
        leg_number=message.leg_number if message.HasField("leg_number") else None,
        venue_order_id=word(message.venue_order_id, f"{path}.venue_order_id"),
        client_order_id=word(message.client_order_id, f"{path}.client_order_id"),
    )


def fills_of(request: signal_service_pb2.ReportExecutionsRequest) -> list[Fill]:
    return [fill_of(fill, f"fills[{i}]") for i, fill in enumerate(request.fills)]


def execution_filter(given: signal_service_pb2.ExecutionFilter) -> ExecutionFilter:
    when = span(given.venue_time_range, "filter.venue_time_range")
    return ExecutionFilter(
        venues=chosen(VENUES, given.venues, "filter.venues"),
        market_ids=tuple(given.market_ids),
        signal_ids=tuple(given.signal_ids),
        strategy_ids=tuple(given.strategy_ids),
        owners=words(given.owners, "filter.owners"),
        venue_time_from_us=when.from_us,
        venue_time_to_us=when.to_us,
    )


def reported_message(reported: Reported) -> signal_service_pb2.ReportedExecution:
    return signal_service_pb2.ReportedExecution(
        execution=execution_message(reported.execution), already_reported=reported.already_reported
    )


def execution_message(execution: Execution) -> execution_pb2.Execution:
    fill = execution.fill
    return execution_pb2.Execution(
        execution_id=execution.execution_id,
        fill=execution_pb2.Fill(
            venue=VENUES[fill.venue],
            venue_fill_id=fill.venue_fill_id,
            market_id=fill.market_id,
            outcome_index=fill.outcome_index,
            action=ACTIONS[fill.action],
            price_micros=fill.price_micros,
            size_micros=fill.size_micros,
            fee_micros=fill.fee_micros,
            liquidity=LIQUIDITIES[fill.liquidity],
            venue_time=stamp(fill.venue_time_us),
            signal_id=fill.signal_id,
            leg_number=fill.leg_number,
            venue_order_id=fill.venue_order_id,
            client_order_id=fill.client_order_id,
        ),
        owner=execution.owner,
        create_time=stamp(execution.create_time_us),
        realized_profit_micros=execution.realized_profit_micros,
        slippage_micros=execution.slippage_micros,
        estimated_fee_micros=execution.estimated_fee_micros,
        strategy_id=execution.strategy_id,
    )
