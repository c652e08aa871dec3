"""Candles of one minute, one hour and one day that come out the same in whatever order their rows arrive.

A row belongs to the bucket of its venue time, else of its receive time. Open and close keep the key (time, ingest
sequence) of the row that they came from, so that a late row finds out whether it was earlier or later; high, low and
volume do not care. A bucket had ended for a batch when its end was not after the latest receive time stored for that
venue before; when such a bucket changes, its revision grows.

Block trades count in the volume, and stay out of the prices.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oddstream_server.domain.quote import Candle, CandleInterval, Ohlc, Quote, Trade
from oddstream_server.storage.writes import Write

INTERVAL_SECONDS = {interval: interval.duration_us // 1_000_000 for interval in CandleInterval}

_SERIES = ("trade", "bid", "ask")
_FIELDS = ("open", "high", "low", "close", "open_time", "open_sequence", "close_time", "close_sequence")

CandleKey = tuple[int, int, int]
"""(market key, interval in seconds, start in microseconds)."""


@dataclass(slots=True)
class Series:
    """Open, high, low and close of a run of prices, with the order keys of open and close."""

    open: int
    high: int
    low: int
    close: int
    open_key: tuple[int, int]
    close_key: tuple[int, int]

    def take(self, other: "Series") -> None:
        if other.open_key < self.open_key:
            self.open, self.open_key = other.open, other.open_key
        if other.close_key > self.close_key:
            self.close, self.close_key = other.close, other.close_key
        self.high = max(self.high, other.high)
        self.low = min(self.low, other.low)


@dataclass(slots=True)
class Partial:
    """What a batch adds to one candle."""

    volume_micros: int = 0
    trade_count: int = 0
    series: dict[str, Series] = field(default_factory=dict)

    def add(self, name: str, price: int, key: tuple[int, int]) -> None:
        self.take_series(name, Series(price, price, price, price, key, key))

    def take_series(self, name: str, run: Series) -> None:
        known = self.series.get(name)
        if known is None:
            self.series[name] = Series(run.open, run.high, run.low, run.close, run.open_key, run.close_key)
        else:
            known.take(run)

    def take(self, other: "Partial") -> None:
        self.volume_micros += other.volume_micros
        self.trade_count += other.trade_count
        for name, run in other.series.items():
            self.take_series(name, run)


def fold(ticks: Iterable[Quote | Trade], market_keys: Mapping[str, int]) -> dict[CandleKey, Partial]:
    """What numbered ticks add to the candles of every interval."""
    minute = INTERVAL_SECONDS[CandleInterval.MINUTE]
    minutes: dict[CandleKey, Partial] = {}
    for tick in ticks:
        time = tick.receive_time_us if tick.venue_time_us is None else tick.venue_time_us
        key = (market_keys[tick.market_id], minute, time - time % (minute * 1_000_000))
        partial = minutes.get(key)
        if partial is None:
            partial = minutes[key] = Partial()
        order = (time, tick.ingest_sequence)
        if isinstance(tick, Trade):
            partial.volume_micros += tick.size_micros
            partial.trade_count += 1
            if not tick.block:
                partial.add("trade", tick.price_micros, order)
        else:
            if tick.bid_price_micros is not None:
                partial.add("bid", tick.bid_price_micros, order)
            if tick.ask_price_micros is not None:
                partial.add("ask", tick.ask_price_micros, order)
    folded = dict(minutes)
    for interval in (CandleInterval.HOUR, CandleInterval.DAY):
        seconds = INTERVAL_SECONDS[interval]
        for (market_key, _, start), partial in minutes.items():
            wide = (market_key, seconds, start - start % (seconds * 1_000_000))
            folded.setdefault(wide, Partial()).take(partial)
    return folded


def merging(partials: Mapping[CandleKey, Partial], watermark_us: int) -> list[Write]:
    """What merges the candles of a batch into the stored ones.

    :param watermark_us: buckets that end at or before this instant had ended.
    """
    if not partials:
        return []
    keys = sorted(partials)  # one order for all writers, so that they can't deadlock
    columns: list[list[Any]] = [[k[2] for k in keys], [k[0] for k in keys], [k[1] for k in keys]]
    rows = [partials[k] for k in keys]
    columns.append([r.trade_count for r in rows])
    columns.append([r.volume_micros for r in rows])
    for name in _SERIES:
        runs = [r.series.get(name) for r in rows]
        columns += [
            [None if s is None else s.open for s in runs],
            [None if s is None else s.high for s in runs],
            [None if s is None else s.low for s in runs],
            [None if s is None else s.close for s in runs],
            [None if s is None else s.open_key[0] for s in runs],
            [None if s is None else s.open_key[1] for s in runs],
            [None if s is None else s.close_key[0] for s in runs],
            [None if s is None else s.close_key[1] for s in runs],
        ]
    return [Write(_MERGE, (*columns, watermark_us))]


_COLUMNS = (
    "start_time",
    "market_key",
    "interval_seconds",
    "trade_count",
    "volume_micros",
    *(f"{s}_{f}" for s in _SERIES for f in _FIELDS),
)


def _type_of(column: str) -> str:
    if column in ("market_key", "interval_seconds", "trade_count"):
        return "int4"
    return "timestamptz" if column.endswith("_time") else "int8"


def on_conflict(watermark: str) -> str:
    """The tail of an INSERT INTO candles AS c: how a new partial candle merges with the stored one."""
    new: dict[str, str] = {
        "trade_count": "c.trade_count + excluded.trade_count",
        "volume_micros": "c.volume_micros + excluded.volume_micros",
    }
    for s in _SERIES:
        for side, before in (("open", "<"), ("close", ">")):
            wins = (
                f"c.{s}_{side} IS NULL OR (excluded.{s}_{side}_time, excluded.{s}_{side}_sequence) {before} "
                f"(c.{s}_{side}_time, c.{s}_{side}_sequence)"
            )
            for name in (f"{s}_{side}", f"{s}_{side}_time", f"{s}_{side}_sequence"):
                new[name] = f"CASE WHEN {wins} THEN excluded.{name} ELSE c.{name} END"
        new[f"{s}_high"] = f"greatest(c.{s}_high, excluded.{s}_high)"
        new[f"{s}_low"] = f"least(c.{s}_low, excluded.{s}_low)"
    # What a reader sees: a late row that changes an order key alone is no new revision.
    visible = ["trade_count", "volume_micros", *(f"{s}_{f}" for s in _SERIES for f in _FIELDS[:4])]
    shown = ", ".join(new[v] for v in visible)
    stored = ", ".join(f"c.{v}" for v in visible)
    ended = f"c.start_time + c.interval_seconds * interval '1 second' <= {watermark}"
    new["revision"] = f"c.revision + CASE WHEN {ended} AND ({shown}) IS DISTINCT FROM ({stored}) THEN 1 ELSE 0 END"
    sets = ", ".join(f"{name} = {value}" for name, value in new.items())
    everything = [name for name in new if name != "revision"]
    changed = f"({', '.join(new[n] for n in everything)}) IS DISTINCT FROM ({', '.join(f'c.{n}' for n in everything)})"
    return f"ON CONFLICT (market_key, interval_seconds, start_time) DO UPDATE SET {sets} WHERE {changed}"


_MERGE = (
    f"INSERT INTO candles AS c ({', '.join(_COLUMNS)}, revision) SELECT *, 1 FROM unnest("
    + ", ".join(f"{{{i}}}::{_type_of(column)}[]" for i, column in enumerate(_COLUMNS))
    + f") {on_conflict(f'{{{len(_COLUMNS)}}}::timestamptz')}"
)

# A key and its price as one array of integers: min and max of it are the first and the last price, without a sort.
_FIRST_AND_LAST = """
    min(ARRAY[t, ingest_sequence, bid]) FILTER (WHERE bid IS NOT NULL) AS bid_first, max(bid) AS bid_high,
    min(bid) AS bid_low, max(ARRAY[t, ingest_sequence, bid]) FILTER (WHERE bid IS NOT NULL) AS bid_last,
    min(ARRAY[t, ingest_sequence, ask]) FILTER (WHERE ask IS NOT NULL) AS ask_first, max(ask) AS ask_high,
    min(ask) AS ask_low, max(ARRAY[t, ingest_sequence, ask]) FILTER (WHERE ask IS NOT NULL) AS ask_last
"""
_MINUTES_OF_QUOTES = f"""
    SELECT market_key, (t / 60000000) * 60000000 AS bucket, {_FIRST_AND_LAST}
    FROM (SELECT market_key, ingest_sequence, bid_price_micros AS bid, ask_price_micros AS ask,
                 (extract(epoch FROM coalesce(venue_time, receive_time)) * 1000000)::bigint AS t
          FROM quotes WHERE lane = 2 AND receive_time >= $1 AND receive_time < $2 AND source_id = $3
            AND market_key = ANY($5::int[])) AS rows
    GROUP BY 1, 2
"""
_WIDER = """
    SELECT market_key, (bucket / ({width} * 1000000::bigint)) * ({width} * 1000000::bigint) AS bucket,
           min(bid_first) AS bid_first, max(bid_high) AS bid_high, min(bid_low) AS bid_low, max(bid_last) AS bid_last,
           min(ask_first) AS ask_first, max(ask_high) AS ask_high, min(ask_low) AS ask_low, max(ask_last) AS ask_last
    FROM {narrow} GROUP BY 1, 2
"""


def _instant(value: str) -> str:
    return f"timestamptz 'epoch' + ({value}) * interval '1 microsecond'"


MERGE_QUOTES_OF_A_SOURCE = f"""
    WITH minutes AS MATERIALIZED ({_MINUTES_OF_QUOTES}),
         hours AS MATERIALIZED ({_WIDER.format(width=3_600, narrow="minutes")}),
         days AS ({_WIDER.format(width=86_400, narrow="hours")}),
         together AS (SELECT 60 AS interval_seconds, * FROM minutes UNION ALL SELECT 3600, * FROM hours
                      UNION ALL SELECT 86400, * FROM days)
    INSERT INTO candles AS c (start_time, market_key, interval_seconds, trade_count, volume_micros, revision,
        bid_open, bid_high, bid_low, bid_close, bid_open_time, bid_open_sequence, bid_close_time, bid_close_sequence,
        ask_open, ask_high, ask_low, ask_close, ask_open_time, ask_open_sequence, ask_close_time, ask_close_sequence)
    SELECT {_instant("bucket")}, market_key, interval_seconds, 0, 0, 1,
        bid_first[3], bid_high, bid_low, bid_last[3],
        {_instant("bid_first[1]")}, bid_first[2], {_instant("bid_last[1]")}, bid_last[2],
        ask_first[3], ask_high, ask_low, ask_last[3],
        {_instant("ask_first[1]")}, ask_first[2], {_instant("ask_last[1]")}, ask_last[2]
    FROM together ORDER BY market_key, interval_seconds, bucket
    """ + on_conflict("$4::timestamptz")
"""Candles of one imported source's quotes ($3) of some markets ($5) with a receive time in [$1, $2).

$4 is the watermark.
"""


LIST_CANDLES = """
    SELECT start_time, trade_open, trade_high, trade_low, trade_close, bid_open, bid_high, bid_low, bid_close,
           ask_open, ask_high, ask_low, ask_close, volume_micros, trade_count, revision
    FROM candles
    WHERE market_key = $1 AND interval_seconds = $2 AND start_time >= $3 AND start_time < $4
    ORDER BY start_time LIMIT $5
"""


def candle_of(market_id: str, interval: CandleInterval, row: Sequence[Any]) -> Candle:
    """A row of :data:`LIST_CANDLES` as the domain's candle."""
    return Candle(
        market_id=market_id,
        interval=interval,
        start_time_us=row[0],
        trade=None if row[1] is None else Ohlc(row[1], row[2], row[3], row[4]),
        bid=None if row[5] is None else Ohlc(row[5], row[6], row[7], row[8]),
        ask=None if row[9] is None else Ohlc(row[9], row[10], row[11], row[12]),
        volume_micros=row[13],
        trade_count=row[14],
        revision=row[15],
    )
