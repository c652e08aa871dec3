"""The track record of a strategy: one aggregate over the outcomes of its signals, cut by venue and horizon.

Sums are of integers and exact; what is divided is divided once, here. Formulas are those of backtests.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from oddstream_server.application.ports import TrackRecordQuery
from oddstream_server.backtesting.figures.forecasts import BIN_MICROS, realized_edge, wilson
from oddstream_server.domain.backtest import CalibrationRow
from oddstream_server.domain.market import Venue
from oddstream_server.domain.money import MICROS, Rounding, divide
from oddstream_server.domain.track_record import Figures, Horizon, Slice, TrackRecord
from oddstream_server.storage.database import Database, Transaction

BINS: Final = MICROS // BIN_MICROS
MAXIMUM_CLUSTERS: Final = 1_000
"""Events that the bootstrap draws from; more are joined with their neighbours by name, which keeps series together."""

_SIGNALS = f"""
    SELECT grouping(cluster, fair_bin, price_bin) AS grouped, venue, horizon, cluster,
        coalesce(fair_bin, price_bin) AS bin, count(*) AS signals, count(edge_micros) AS graded,
        count(*) FILTER (WHERE void) AS voids, count(*) FILTER (WHERE edge_micros > 0) AS hits,
        coalesce(sum(edge_micros), 0)::bigint AS edge, count(next_edge_micros) AS later_count,
        coalesce(sum(next_edge_micros), 0)::bigint AS later_edge,
        count(*) FILTER (WHERE happened) AS happened,
        count(*) FILTER (WHERE fair_micros IS NOT NULL) AS fair_count,
        count(*) FILTER (WHERE fair_micros IS NOT NULL AND happened) AS fair_happened,
        coalesce(sum(fair_micros), 0)::bigint AS fair_sum,
        coalesce(sum(fair_error * fair_error), 0)::text AS fair_squares,
        count(price_micros) AS price_count, coalesce(sum(price_micros), 0)::bigint AS price_sum,
        coalesce(sum(price_error * price_error), 0)::text AS price_squares,
        min(trigger_time) AS first, max(trigger_time) AS last
    FROM (
        SELECT *, (fair_micros - happened::int * {MICROS})::numeric AS fair_error,
            (price_micros - happened::int * {MICROS})::numeric AS price_error,
            least(greatest(fair_micros / {BIN_MICROS}, 0), {BINS - 1}) AS fair_bin,
            least(greatest(price_micros / {BIN_MICROS}, 0), {BINS - 1}) AS price_bin
        FROM signal_outcomes AS o WHERE {{conditions}}
    ) AS o
    GROUP BY GROUPING SETS ((venue, horizon, cluster), (venue, horizon, fair_bin), (venue, horizon, price_bin))
    ORDER BY venue, horizon, cluster, bin
"""
_BY_CLUSTER, _BY_FAIR, _BY_PRICE = 0b011, 0b101, 0b110

PROFIT = f"""
    CASE WHEN m.settlement IS NULL OR m.settlement->>'state' = 'provisional' THEN NULL
    WHEN m.settlement->>'yes_payout_micros' IS NULL THEN 0
    ELSE floor(
        (CASE e.action WHEN 'buy' THEN 1 ELSE -1 END) * (
            CASE e.outcome_index WHEN 0 THEN (m.settlement->>'yes_payout_micros')::numeric
            ELSE (m.body->>'payout_micros')::numeric - (m.settlement->>'yes_payout_micros')::numeric END
            - e.price_micros
        ) * e.size_micros / {MICROS}
    ) END - coalesce(e.fee_micros, e.estimated_fee_micros)
"""
""":func:`~oddstream_server.domain.execution.realized_profit_micros` of ``executions AS e`` on ``markets AS m``."""

_EXECUTIONS = f"""
    SELECT o.venue, o.horizon, count(*) AS executions, sum({PROFIT})::text AS profit
    FROM signal_outcomes AS o JOIN executions AS e USING (signal_id) LEFT JOIN markets AS m USING (market_id)
    WHERE {{conditions}} AND e.strategy_id = o.strategy_id GROUP BY 1, 2
"""


class TrackRecordStore:
    """Fulfils :class:`~oddstream_server.application.ports.TrackRecordStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def track_record(self, query: TrackRecordQuery, now_us: int) -> TrackRecord:
        conditions = ["o.strategy_id = $1", "o.kind_version = $2", "o.data_origin = $3"]
        arguments: list[Any] = [query.strategy_id, query.kind_version, query.origin.value]

        def given(condition: str, value: Any) -> None:
            arguments.append(value)
            conditions.append(condition.format(f"${len(arguments)}"))

        if query.triggers.from_us is not None:
            given("o.trigger_time >= {}", query.triggers.from_us)
        if query.triggers.to_us is not None:
            given("o.trigger_time < {}", query.triggers.to_us)
        if query.within_venues:
            given("o.venues <@ {}::text[]", [venue.value for venue in query.within_venues])
        of_signals = _SIGNALS.format(conditions=" AND ".join(conditions)), tuple(arguments)
        if query.owner is not None:
            given("e.owner = {}", query.owner)
        of_executions = _EXECUTIONS.format(conditions=" AND ".join(conditions)), tuple(arguments)

        async def work(transaction: Transaction) -> tuple[list[Any], list[Any]]:
            return (
                list(await transaction.driver.fetch(of_signals[0], *of_signals[1])),
                list(await transaction.driver.fetch(of_executions[0], *of_executions[1])),
            )

        signals, executions = await self._database.read(work, snapshot=True)
        clusters = [row for row in signals if row["grouped"] == _BY_CLUSTER]
        # The bootstrap takes a moment, which other calls don't wait for.
        overall, slices = await asyncio.to_thread(_cut, signals, executions)
        return TrackRecord(
            strategy_id=query.strategy_id,
            kind_version=query.kind_version,
            overall=overall,
            slices=slices,
            first_trigger_us=min((row["first"] for row in clusters), default=None),
            last_trigger_us=max((row["last"] for row in clusters), default=None),
            compute_time_us=now_us,
        )


def _cut(signals: Sequence[Any], executions: Sequence[Any]) -> tuple[Figures, tuple[Slice, ...]]:
    """The figures over everything, and those by venue, by horizon and by both."""

    def figures(venue: str | None, horizon: int | None) -> Figures:
        def inside(row: Any) -> bool:
            return venue in (None, row["venue"]) and horizon in (None, row["horizon"])

        tally = _Tally()
        tally.add_signals(filter(inside, signals))
        tally.add_executions(filter(inside, executions))
        return tally.figures()

    venues = sorted({row["venue"] for row in signals}, key=[v.value for v in Venue].index)
    horizons = sorted({row["horizon"] for row in signals} - {None})
    pairs = sorted({(row["venue"], row["horizon"]) for row in signals if row["horizon"] is not None})
    cuts = [*((v, None) for v in venues), *((None, h) for h in horizons), *pairs]
    slices = (Slice(None if v is None else Venue(v), None if h is None else Horizon(h), figures(v, h)) for v, h in cuts)
    return figures(None, None), tuple(slices)


@dataclass
class _Bin:
    count: int = 0
    forecasts: int = 0
    happened: int = 0

    def add(self, count: int, forecasts: int, happened: int) -> None:
        self.count += count
        self.forecasts += forecasts
        self.happened += happened


@dataclass
class _Tally:
    """Sums over some rows of the aggregate."""

    signals: int = 0
    graded: int = 0
    voids: int = 0
    hits: int = 0
    later_count: int = 0
    later_edge: int = 0
    fair_count: int = 0
    fair_squares: int = 0
    price_count: int = 0
    price_squares: int = 0
    executions: int = 0
    profit: int | None = None
    clusters: dict[str, list[int]] = field(default_factory=dict)
    """Edge and count of each event's graded signals."""
    fair_bins: list[_Bin] = field(default_factory=lambda: [_Bin() for _ in range(BINS)])
    price_bins: list[_Bin] = field(default_factory=lambda: [_Bin() for _ in range(BINS)])

    def add_signals(self, rows: Iterable[Any]) -> None:
        for row in rows:
            if row["grouped"] == _BY_FAIR and row["bin"] is not None:
                self.fair_bins[row["bin"]].add(row["fair_count"], row["fair_sum"], row["fair_happened"])
            elif row["grouped"] == _BY_PRICE and row["bin"] is not None:
                self.price_bins[row["bin"]].add(row["price_count"], row["price_sum"], row["happened"])
            elif row["grouped"] == _BY_CLUSTER:
                self._add_cluster(row)

    def _add_cluster(self, row: Any) -> None:
        self.signals += row["signals"]
        self.graded += row["graded"]
        self.voids += row["voids"]
        self.hits += row["hits"]
        self.later_count += row["later_count"]
        self.later_edge += row["later_edge"]
        self.fair_count += row["fair_count"]
        self.fair_squares += int(row["fair_squares"])
        self.price_count += row["price_count"]
        self.price_squares += int(row["price_squares"])
        if row["graded"]:
            sums = self.clusters.setdefault(row["cluster"], [0, 0])
            sums[0] += row["edge"]
            sums[1] += row["graded"]

    def add_executions(self, rows: Iterable[Any]) -> None:
        for row in rows:
            self.executions += row["executions"]
            if row["profit"] is not None:
                self.profit = (self.profit or 0) + int(row["profit"])

    def figures(self) -> Figures:
        interval = wilson(self.hits, self.graded)
        names, edges, counts = self._joined()
        edge = realized_edge(edges, counts * MICROS, names) if names else None
        bins = self.fair_bins if self.fair_count else self.price_bins
        return Figures(
            signal_count=self.signals,
            graded_count=self.graded,
            void_count=self.voids,
            hit_rate=self.hits / self.graded if self.graded else None,
            hit_rate_low=interval[0] if interval else None,
            hit_rate_high=interval[1] if interval else None,
            brier=_mean_square(self.fair_squares, self.fair_count),
            brier_crowd=_mean_square(self.price_squares, self.price_count),
            mean_realized_edge_micros=edge.mean_micros if edge else None,
            mean_next_quote_edge_micros=(
                divide(self.later_edge, self.later_count, Rounding.HALF_UP) if self.later_count else None
            ),
            realized_edge_low_micros=edge.low_micros if edge else None,
            realized_edge_high_micros=edge.high_micros if edge else None,
            execution_count=self.executions,
            executed_profit_micros=self.profit,
            calibration=tuple(_bin_row(number, one) for number, one in enumerate(bins)) if self.price_count else (),
        )

    def _joined(self) -> tuple[list[str], Any, Any]:
        """Clusters by name with their edges and counts, at most as many as the bootstrap draws from."""
        names = sorted(self.clusters)
        edges = np.array([self.clusters[name][0] for name in names], dtype=np.int64)
        counts = np.array([self.clusters[name][1] for name in names], dtype=np.int64)
        if len(names) > MAXIMUM_CLUSTERS:
            starts = np.arange(MAXIMUM_CLUSTERS) * len(names) // MAXIMUM_CLUSTERS
            edges, counts = np.add.reduceat(edges, starts), np.add.reduceat(counts, starts)
            names = [names[start] for start in starts]
        return names, edges, counts


def _mean_square(squares: int, count: int) -> float | None:
    return squares / (count * MICROS * MICROS) if count else None


def _bin_row(number: int, one: _Bin) -> CalibrationRow:
    return CalibrationRow(
        start_price_micros=number * BIN_MICROS,
        end_price_micros=(number + 1) * BIN_MICROS,
        count=one.count,
        mean_forecast=one.forecasts / one.count / MICROS if one.count else None,
        frequency=one.happened / one.count if one.count else None,
    )
