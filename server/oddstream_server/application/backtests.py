"""Backtests and sweeps: made, read, cancelled, deleted. Computing them is a worker's business."""

import base64
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from oddstream_server.application.calls.mutations import Mutation
from oddstream_server.application.calls.paging import PageRequest
from oddstream_server.application.ports import Page
from oddstream_server.application.ports.backtests import (
    NewRun,
    RecordedData,
    RunPlanner,
    RunStore,
)
from oddstream_server.domain.backtest import (
    BacktestResult,
    BacktestSpec,
    BlotterFilter,
    BlotterRow,
    Curve,
    CurvePoint,
    Run,
    RunFilter,
    RunKind,
    RunState,
    SweepResult,
    SweepSpec,
)
from oddstream_server.domain.errors import (
    FailedPrecondition,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
)
from oddstream_server.domain.market import Venue
from oddstream_server.domain.principal import Principal, Role

DEFAULT_POINTS = 1_000


@dataclass(frozen=True, slots=True)
class CheckedSpec:
    """What a run is to compute, with defaults filled in and every rule kept."""

    kind: RunKind
    spec: BacktestSpec | SweepSpec
    set_count: int


class Backtests:
    """The use cases of BacktestService.

    :param quota: backtests and sweeps of one owner that may be queued or running, unless the owner's role or the key's
        scopes say otherwise.
    :param quota_of_role: for owners of these roles.
    """

    def __init__(
        self,
        store: RunStore,
        data: RecordedData,
        planner: RunPlanner,
        quota: int,
        quota_of_role: Mapping[Role, int] | None = None,
    ) -> None:
        self._store = store
        self._data = data
        self._planner = planner
        self._quota = quota
        self._quota_of_role = dict(quota_of_role or {})

    async def check_backtest(self, caller: Principal, spec: BacktestSpec) -> CheckedSpec:
        """A spec with its defaults, ready to be queued.

        :raises NotFound: STRATEGY_NOT_FOUND, MARKET_NOT_FOUND, EVENT_NOT_FOUND.
        :raises InvalidArgument: naming each field that breaks a rule.
        :raises FailedPrecondition: BACKTEST_WITHOUT_DATA.
        """
        spec = self._planner.check_backtest(within_scopes(caller, spec))
        await self._check_data(caller, spec, "config")
        return CheckedSpec(RunKind.BACKTEST, spec, 1)

    async def check_sweep(self, caller: Principal, spec: SweepSpec) -> CheckedSpec:
        """As :meth:`check_backtest`, and InvalidArgument with SWEEP_TOO_LARGE."""
        spec, sets = self._planner.check_sweep(replace(spec, base=within_scopes(caller, spec.base)))
        await self._check_data(caller, spec.base, "config.base")
        return CheckedSpec(RunKind.SWEEP, spec, sets)

    async def create(self, mutation: Mutation, checked: CheckedSpec, display_name: str) -> Run:
        """Queue a run.

        :raises ResourceExhausted: BACKTEST_QUOTA_EXCEEDED: the caller's key, or every key, may have no more unfinished.
        """
        caller, kind = mutation.principal, checked.kind
        own_limit = caller.scopes.backtest_limit
        run = await mutation.change.backtests.create(
            NewRun(
                new_run_id(kind), kind, caller.subject, display_name, checked.spec, checked.set_count, mutation.now_us
            ),
            self._quota_of_role.get(caller.role, self._quota) if own_limit is None else own_limit,
        )
        await mutation.audit(_resource(run), None, _told(run))
        return run

    async def _check_data(self, caller: Principal, spec: BacktestSpec, path: str) -> None:
        _check_venues(caller, spec, path)
        markets, events = await self._data.unknown_ids(spec.markets)
        if markets:
            raise NotFound("Market", markets[0])
        if events:
            raise NotFound("Event", events[0])
        first_us = max(spec.start_us - self._planner.warm_up_us(spec), 0)
        if not await self._data.has_rows(spec.markets, first_us, spec.end_us, simulated=spec.simulated):
            raise FailedPrecondition(
                "no quote of the selected markets was recorded within the range; ListQuotes and the markets' open "
                "times tell what there is (simulated markets take part only where simulated is set, and no others "
                "do then)",
                subject=f"{path}.range",
                reason="BACKTEST_WITHOUT_DATA",
            )

    async def get(self, caller: Principal, run_id: str, kind: RunKind) -> Run:
        """:raises NotFound: there is none, or it is somebody else's."""
        run = await self._store.get(run_id)
        if run is None or not may_see(caller, run) or run.kind is not kind:
            raise NotFound(kind.resource_type, run_id)
        return run

    async def result(self, run: Run) -> BacktestResult | SweepResult | None:
        return await self._store.result(run.run_id) if run.state is RunState.SUCCEEDED else None

    async def list_runs(self, caller: Principal, kind: RunKind, where: RunFilter, page: PageRequest) -> Page[Run]:
        """Newest first; everybody's for an admin.

        :raises PermissionDenied: another owner is named by somebody who is no admin.
        """
        if caller.role < Role.ADMIN:
            if any(owner != caller.subject for owner in where.owners):
                raise PermissionDenied(
                    "only an admin may list what others own; leave filter.owners empty",
                    metadata={"required_role": "admin", "role": caller.role.name.lower()},
                )
            where = replace(where, owners=(caller.subject,))
        return await self._store.list_runs(kind, where, page.after, page.size)

    async def cancel(
        self, mutation: Mutation, run_id: str, kind: RunKind
    ) -> tuple[Run, BacktestResult | SweepResult | None]:
        """A finished one comes back unchanged, with its result where it has one.

        :raises NotFound: there is none, or it is somebody else's.
        """
        before = await self._own(mutation, run_id, kind)
        run = await mutation.change.backtests.cancel(run_id, mutation.now_us)
        if run is None:
            raise NotFound(kind.resource_type, run_id)
        await mutation.audit(_resource(run), _told(before), _told(run))
        # in the same transaction: a connection of its own would be a second one of each waiting call
        return run, await mutation.change.backtests.result(run_id)

    async def delete_backtest(self, mutation: Mutation, run_id: str) -> None:
        """:raises NotFound: as :meth:`cancel`.
        :raises FailedPrecondition: BACKTEST_NOT_FINISHED.
        """
        before = await self._own(mutation, run_id, RunKind.BACKTEST)
        if not await mutation.change.backtests.delete(run_id):
            raise _unfinished(run_id)
        await mutation.audit(_resource(before), _told(before), None)

    async def _own(self, mutation: Mutation, run_id: str, kind: RunKind) -> Run:
        run = await mutation.change.backtests.get(run_id)
        if run is None or not may_see(mutation.principal, run) or run.kind is not kind:
            raise NotFound(kind.resource_type, run_id)
        return run

    async def list_trades(
        self, caller: Principal, run_id: str, where: BlotterFilter, page: PageRequest
    ) -> Page[BlotterRow]:
        """:raises FailedPrecondition: BACKTEST_NOT_FINISHED, BACKTEST_WITHOUT_RESULT."""
        await self._succeeded(caller, run_id)
        return await self._store.list_trades(run_id, where, page.after, page.size)

    async def equity_curve(self, caller: Principal, run_id: str, maximum_points: int) -> Curve:
        """The curve thinned out so that peaks and troughs stay.

        :param maximum_points: 0 means 1,000.
        :raises FailedPrecondition: BACKTEST_NOT_FINISHED, BACKTEST_WITHOUT_RESULT.
        """
        await self._succeeded(caller, run_id)
        points = await self._store.curve(run_id)
        return Curve(tuple(thinned(points, maximum_points or DEFAULT_POINTS)), len(points))

    async def _succeeded(self, caller: Principal, run_id: str) -> None:
        run = await self.get(caller, run_id, RunKind.BACKTEST)
        if not run.state.finished:
            raise _unfinished(run_id)
        if run.state is not RunState.SUCCEEDED:
            raise FailedPrecondition(
                f"the backtest is {run.state.name} and has no result; make it anew",
                subject=run_id,
                reason="BACKTEST_WITHOUT_RESULT",
            )


def may_see(caller: Principal, run: Run) -> bool:
    return caller.role >= Role.ADMIN or run.owner == caller.subject


def _resource(run: Run) -> str:
    return f"{run.kind.resource_type}/{run.run_id}"


def _told(run: Run) -> dict[str, str | int]:
    """A run as the audit log has it."""
    base = run.base
    return {
        "owner": run.owner,
        "state": run.state.value,
        "strategies": ", ".join(s.kind for s in base.strategies),
        "start_time_us": base.start_us,
        "end_time_us": base.end_us,
        "set_count": run.set_count,
    }


def new_run_id(kind: RunKind) -> str:
    return f"{kind.id_prefix}_{base64.b32encode(secrets.token_bytes(15)).decode().lower()}"


def thinned(points: Sequence[CurvePoint], maximum: int) -> list[CurvePoint]:
    """At most ``maximum`` points (2 at least): the lowest and highest of each stretch, and both ends of the whole."""
    maximum = max(maximum, 2)
    if len(points) <= maximum:
        return list(points)
    stretches = max((maximum - 2) // 2, 0)
    kept = {0, len(points) - 1}
    inner = len(points) - 2
    for k in range(stretches):
        begin, end = 1 + inner * k // stretches, 1 + inner * (k + 1) // stretches
        stretch = range(begin, end)
        if stretch:
            kept.add(min(stretch, key=lambda i: points[i].equity_micros))
            kept.add(max(stretch, key=lambda i: points[i].equity_micros))
    return [points[i] for i in sorted(kept)]


def _unfinished(run_id: str) -> FailedPrecondition:
    return FailedPrecondition(
        "the backtest isn't finished; watch it with WatchBacktest, or cancel it first",
        subject=run_id,
        reason="BACKTEST_NOT_FINISHED",
    )


def within_scopes(caller: Principal, spec: BacktestSpec) -> BacktestSpec:
    """The markets of a spec that names no venue are those of the venues that the caller may see.

    :raises PermissionDenied: SCOPE_DENIED: there is none of the kind that the run is on.
    """
    if spec.markets.venues or not caller.scopes.venues:
        return spec
    venues = tuple(v for v in caller.scopes.venues if (v is Venue.SIMULATED) == spec.simulated)
    if not venues:
        kind = "the simulated venue" if spec.simulated else "every venue but the simulated one"
        raise PermissionDenied(f"the key's scopes leave out {kind}", reason="SCOPE_DENIED")
    return replace(spec, markets=replace(spec.markets, venues=venues))


def _check_venues(caller: Principal, spec: BacktestSpec, path: str) -> None:
    """:raises InvalidArgument: the venues contradict what the simulated flag says."""
    bad = [
        FieldViolation(
            f"{path}.markets.venues[{i}]",
            "is no simulated venue, and simulated is set; simulated and real markets are never mixed"
            if spec.simulated
            else "is the simulated venue; set simulated to run on it",
        )
        for i, venue in enumerate(spec.markets.venues)
        if (venue is Venue.SIMULATED) != spec.simulated
    ]
    if bad:
        raise InvalidArgument(bad)
    outside = [v for v in spec.markets.venues if caller.scopes.venues and v not in caller.scopes.venues]
    if outside:
        raise PermissionDenied(
            f"the key's scopes leave out {outside[0].value}",
            reason="SCOPE_DENIED",
            metadata={"venue": outside[0].value},
        )
