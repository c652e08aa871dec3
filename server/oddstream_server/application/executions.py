"""Executions: fills that bots report, each stored once for ever, and read by their owners."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from oddstream_server.application.access.venue_scope import narrowed, require_markets
from oddstream_server.application.calls.mutations import Mutation
from oddstream_server.application.calls.paging import PageRequest
from oddstream_server.application.ports import ExecutionFilter, ExecutionStore, Page
from oddstream_server.domain.errors import (
    AlreadyExists,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from oddstream_server.domain.execution import (
    Execution,
    Fill,
    estimated_fee_micros,
    execution_id,
    realized_profit_micros,
    slippage_micros,
)
from oddstream_server.domain.market import Market, Venue
from oddstream_server.domain.principal import Principal, Role
from oddstream_server.domain.signal import Leg, Signal

AHEAD_US = 600 * 1_000_000
"""How far a venue's clock may be ahead of ours. The simulated venue's clock is its own."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of one fill."""

    execution: Execution
    already_reported: bool


class Executions:
    def __init__(self, store: ExecutionStore) -> None:
        self._store = store

    async def report(self, mutation: Mutation, fills: Sequence[Fill]) -> list[Reported]:
        """Store fills, all of them or none; one that was reported before with the same content is answered again.

        :raises NotFound: MARKET_NOT_FOUND, SIGNAL_NOT_FOUND.
        :raises PermissionDenied: SCOPE_DENIED: a market or a leg of a signal is on a venue that the caller may not see.
        :raises InvalidArgument: naming each field that breaks a rule.
        :raises AlreadyExists: EXECUTION_CONFLICT: the fill was reported before with other content, or by another.
        """
        records, caller = mutation.change.executions, mutation.principal
        require_markets(fill.market_id for fill in fills)
        markets = await records.markets(sorted({fill.market_id for fill in fills}))
        signals = await records.signals(sorted({fill.signal_id for fill in fills if fill.signal_id is not None}))
        _check(fills, markets, signals, mutation.now_us)
        wanted = [_execution(fill, markets, signals, caller, mutation.now_us) for fill in fills]
        before = await records.add(list({execution.execution_id: execution for execution in wanted}.values()))
        reported = []
        seen = set(before)
        for execution in wanted:
            stored = before.get(execution.execution_id, execution)
            if (stored.fill, stored.owner) != (execution.fill, execution.owner):
                raise _conflict(execution)
            reported.append(Reported(_settled(stored, markets), execution.execution_id in seen))
            seen.add(execution.execution_id)
        new = [r.execution.execution_id for r in reported if not r.already_reported]
        resource = wanted[0].execution_id if len(wanted) == 1 else f"{wanted[0].execution_id}+{len(wanted) - 1}"
        await mutation.audit(
            f"Execution/{resource}",
            None,
            {"execution_ids": new, "already_reported": len(reported) - len(new)},
        )
        return reported

    async def list_executions(self, caller: Principal, where: ExecutionFilter, page: PageRequest) -> Page[Execution]:
        """Newest first: the caller's own, everybody's for an admin.

        :raises PermissionDenied: another owner is named by somebody who is no admin.
        """
        if caller.role < Role.ADMIN:
            if any(owner != caller.subject for owner in where.owners):
                raise PermissionDenied(
                    "only an admin may list what others own; leave filter.owners empty",
                    metadata={"required_role": "admin", "role": caller.role.name.lower()},
                )
            where = replace(where, owners=(caller.subject,))
        return await self._store.list_executions(replace(where, venues=narrowed(where.venues)), page.after, page.size)


def _execution(
    fill: Fill, markets: Mapping[str, Market], signals: Mapping[str, Signal], caller: Principal, now_us: int
) -> Execution:
    market = markets[fill.market_id]
    signal = None if fill.signal_id is None else signals[fill.signal_id]
    return Execution(
        execution_id=execution_id(fill.venue, fill.venue_fill_id),
        fill=fill,
        owner=caller.subject,
        create_time_us=now_us,
        strategy_id=None if signal is None else signal.strategy_id,
        estimated_fee_micros=estimated_fee_micros(fill, market),
        slippage_micros=None if signal is None else slippage_micros(fill, _leg(fill, signal), market),
    )


def _settled(execution: Execution, markets: Mapping[str, Market]) -> Execution:
    market = markets[execution.fill.market_id]
    profit = realized_profit_micros(execution.fill, execution.fee_micros, market.settlement, market.payout_micros)
    return replace(execution, realized_profit_micros=profit)


def _leg(fill: Fill, signal: Signal) -> Leg:
    return signal.legs[fill.leg_number or 0]


def _check(fills: Sequence[Fill], markets: Mapping[str, Market], signals: Mapping[str, Signal], now_us: int) -> None:
    """:raises InvalidArgument: with every rule that is broken; NotFound where none is and something is unknown."""
    violations = [v for i, fill in enumerate(fills) for v in _alone(f"fills[{i}]", fill, now_us)]
    first: dict[str, int] = {}
    for i, fill in enumerate(fills):
        j = first.setdefault(execution_id(fill.venue, fill.venue_fill_id), i)
        if fills[j] != fill:
            violations.append(
                FieldViolation(
                    f"fills[{i}].venue_fill_id",
                    f"is that of fills[{j}], whose content is another; report each fill once",
                )
            )
    if violations:
        raise InvalidArgument(violations)
    for fill in fills:
        if fill.market_id not in markets:
            raise NotFound("Market", fill.market_id)
        if fill.signal_id is not None and fill.signal_id not in signals:
            raise NotFound("Signal", fill.signal_id)
    for signal in signals.values():
        require_markets(leg.market_id for leg in signal.legs)
    for i, fill in enumerate(fills):
        violations += _on_market(f"fills[{i}]", fill, markets[fill.market_id])
        if fill.signal_id is not None:
            violations += _for_signal(f"fills[{i}]", fill, signals[fill.signal_id])
    if violations:
        raise InvalidArgument(violations)


def _alone(path: str, fill: Fill, now_us: int) -> Iterator[FieldViolation]:
    if not fill.market_id.startswith(f"{fill.venue.value}:"):
        yield FieldViolation(f"{path}.market_id", f"must be a market of the venue, and begin with {fill.venue.value}:")
    if fill.signal_id is None and fill.leg_number is not None:
        yield FieldViolation(f"{path}.leg_number", "must be absent without a signal_id")
    if fill.venue is not Venue.SIMULATED and fill.venue_time_us > now_us + AHEAD_US:
        yield FieldViolation(f"{path}.venue_time", "must not be in the future; give the venue's own time of the fill")


def _on_market(path: str, fill: Fill, market: Market) -> Iterator[FieldViolation]:
    if fill.outcome_index not in {outcome.index for outcome in market.outcomes}:
        yield FieldViolation(
            f"{path}.outcome_index", f"must be the index of an outcome, 0 to {len(market.outcomes) - 1}"
        )
    if fill.price_micros > market.payout_micros:
        yield FieldViolation(f"{path}.price_micros", f"must be at most the market's payout, {market.payout_micros}")


def _for_signal(path: str, fill: Fill, signal: Signal) -> Iterator[FieldViolation]:
    if fill.leg_number is None and len(signal.legs) != 1:
        yield FieldViolation(
            f"{path}.leg_number", f"must be given, 0 to {len(signal.legs) - 1}: the signal has {len(signal.legs)} legs"
        )
    elif (fill.leg_number or 0) >= len(signal.legs):
        yield FieldViolation(f"{path}.leg_number", f"must be the number of a leg, 0 to {len(signal.legs) - 1}")
    elif _leg(fill, signal).market_id != fill.market_id:
        yield FieldViolation(
            f"{path}.market_id", f"must be the market of the signal's leg, {_leg(fill, signal).market_id}"
        )


def _conflict(execution: Execution) -> AlreadyExists:
    # It doesn't say what the first report says: that may be somebody else's.
    return AlreadyExists(
        "Execution",
        execution.execution_id,
        reason="EXECUTION_CONFLICT",
        metadata={"venue": execution.fill.venue.value, "venue_fill_id": execution.fill.venue_fill_id},
    )
