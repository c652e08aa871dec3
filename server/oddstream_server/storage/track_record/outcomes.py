"""Outcomes: of each signal one narrow row, opened where the signal is made and completed where it is graded.

They are written in the transactions that append to the log, so the track record is an aggregate over an index and
never a scan of the log.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

from oddstream_server.application.ports import HitRate, NextQuote, WaitingQuote
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.grading import Terms, Touch, forecast_of, touch_edge_micros
from oddstream_server.domain.market import Settlement, split_market_id
from oddstream_server.domain.signal import DataOrigin, Grade, Signal
from oddstream_server.domain.track_record import horizon_of
from oddstream_server.storage.markets.documents import settlement_of
from oddstream_server.storage.writes import Write

_PPM = 1_000_000


def venues_of(signal: Signal) -> list[str]:
    """The venues of all legs, that of the first one first."""
    market_ids = dict.fromkeys(leg.market_id for leg in signal.legs)
    return list(dict.fromkeys([signal.venue.value, *(split_market_id(m)[0].value for m in market_ids)]))


def opening(signals: Sequence[Signal]) -> list[Write]:
    """A row of each new signal, and of each leg one that waits for the next quote; known ones are left alone."""
    writes = [
        Write(
            "INSERT INTO signal_outcomes (signal_id, strategy_id, kind_version, params_digest, data_origin, "
            "trigger_time, venue, venues, horizon, cluster) "
            "SELECT n.a, n.b, n.c, n.d, n.e, n.f, n.g, string_to_array(n.h, ','), n.i, n.j "
            "FROM unnest({0}::text[], {1}::text[], {2}::int[], {3}::text[], {4}::text[], {5}::timestamptz[], "
            "{6}::text[], {7}::text[], {8}::smallint[], {9}::text[]) AS n (a, b, c, d, e, f, g, h, i, j) "
            "ON CONFLICT DO NOTHING",
            (
                [s.signal_id for s in signals],
                [s.strategy_id for s in signals],
                [s.version for s in signals],
                [s.params_digest for s in signals],
                [s.data_origin.value for s in signals],
                [s.input_time_us for s in signals],
                [s.venue.value for s in signals],
                [",".join(venues_of(s)) for s in signals],
                [horizon_of(s) for s in signals],
                [s.event_id or s.subject_id for s in signals],
            ),
        )
    ]
    # What a replay says is of long ago: the next quote to come is not its next.
    legs = [
        (s.signal_id, number, leg.market_id, s.input_time_us)
        for s in signals
        if s.data_origin is not DataOrigin.REPLAY
        for number, leg in enumerate(s.legs)
    ]
    if legs:
        writes.append(
            Write(
                "INSERT INTO next_quotes (signal_id, leg_number, market_id, after_time) "
                "SELECT * FROM unnest({0}::text[], {1}::smallint[], {2}::text[], {3}::timestamptz[]) "
                "ON CONFLICT DO NOTHING",
                tuple(zip(*legs, strict=True)),
            )
        )
    return writes


def keeping(found: Sequence[NextQuote]) -> list[Write]:
    """The quotes that legs waited for; one that has its quote keeps it."""
    if not found:
        return []
    return [
        Write(
            "UPDATE next_quotes AS q SET bid_price_micros = n.bid, ask_price_micros = n.ask, quote_time = n.time "
            "FROM unnest({0}::text[], {1}::smallint[], {2}::bigint[], {3}::bigint[], {4}::timestamptz[]) "
            "AS n (signal_id, leg_number, bid, ask, time) "
            "WHERE q.signal_id = n.signal_id AND q.leg_number = n.leg_number AND q.quote_time IS NULL",
            (
                [f.signal_id for f in found],
                [f.leg_number for f in found],
                [f.touch.bid_price_micros for f in found],
                [f.touch.ask_price_micros for f in found],
                [f.touch.receive_time_us for f in found],
            ),
        )
    ]


async def waiting_quotes(driver: "asyncpg.Connection[Any]") -> Sequence[WaitingQuote]:
    rows = await driver.fetch(
        "SELECT signal_id, leg_number, market_id, after_time FROM next_quotes WHERE quote_time IS NULL "
        "ORDER BY after_time, signal_id, leg_number"
    )
    return [WaitingQuote(*row) for row in rows]


async def grade_outcomes(driver: "asyncpg.Connection[Any]", graded: Sequence[tuple[Signal, Grade]]) -> None:
    """Complete the rows of graded signals, by the settlements as they are now; an older grade changes nothing.

    A leg that still waits for its next quote stops waiting: what comes after the settlement is no touch.
    """
    signal_ids = [signal.signal_id for signal, _ in graded]
    terms = await _terms(driver, sorted({leg.market_id for signal, _ in graded for leg in signal.legs}))
    await driver.execute("DELETE FROM next_quotes WHERE signal_id = ANY($1::text[]) AND quote_time IS NULL", signal_ids)
    touches: dict[str, dict[int, Touch]] = {}
    for row in await driver.fetch(
        "SELECT signal_id, leg_number, bid_price_micros, ask_price_micros, quote_time FROM next_quotes "
        "WHERE signal_id = ANY($1::text[])",
        signal_ids,
    ):
        touches.setdefault(row[0], {})[row[1]] = Touch(row[2], row[3], row[4])
    rows = []
    for signal, grade in graded:
        forecast = None if grade.void else forecast_of(signal, terms)
        later = None if grade.void else touch_edge_micros(signal, touches.get(signal.signal_id, {}), terms)
        rows.append(
            (
                signal.signal_id,
                grade.revision,
                grade.void,
                grade.realized_edge_micros,
                later,
                None if forecast is None else forecast.fair_micros,
                None if forecast is None else forecast.price_micros,
                None if forecast is None else forecast.happened,
            )
        )
    await driver.execute(
        "UPDATE signal_outcomes AS o SET grade_revision = n.revision, void = n.void, edge_micros = n.edge, "
        "next_edge_micros = n.later, fair_micros = n.fair, price_micros = n.price, happened = n.happened "
        "FROM unnest($1::text[], $2::int[], $3::bool[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], "
        "$8::bool[]) AS n (signal_id, revision, void, edge, later, fair, price, happened) "
        "WHERE o.signal_id = n.signal_id AND coalesce(o.grade_revision, 0) < n.revision",
        *zip(*rows, strict=True),
    )


async def hit_rates(driver: "asyncpg.Connection[Any]", minimum_graded: int) -> Sequence[HitRate]:
    rows = await driver.fetch(
        "SELECT strategy_id, kind_version, params_digest, data_origin, count(*) AS graded, "
        "count(*) FILTER (WHERE edge_micros > 0) AS hits FROM signal_outcomes WHERE edge_micros IS NOT NULL "
        "GROUP BY 1, 2, 3, 4 HAVING count(*) >= $1 ORDER BY 1, 2, 3, 4",
        minimum_graded,
    )
    return [
        HitRate(
            row["strategy_id"],
            row["kind_version"],
            row["params_digest"],
            DataOrigin(row["data_origin"]),
            row["graded"],
            row["hits"] * _PPM // row["graded"],
        )
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class _Terms:
    payout_micros: int
    fee_schedules: tuple[FeeSchedule, ...]
    settlement: Settlement | None


async def _terms(driver: "asyncpg.Connection[Any]", market_ids: Sequence[str]) -> dict[str, Terms]:
    rows = await driver.fetch(
        "SELECT market_id, settlement, body->'payout_micros' AS payout, body->'fee_schedules' AS schedules "
        "FROM markets WHERE market_id = ANY($1::text[])",
        market_ids,
    )
    return {
        row["market_id"]: _Terms(
            payout_micros=row["payout"],
            fee_schedules=tuple(
                FeeSchedule(**{**schedule, "formula": FeeFormula(schedule["formula"])}) for schedule in row["schedules"]
            ),
            settlement=None if row["settlement"] is None else settlement_of(row["settlement"]),
        )
        for row in rows
    }
