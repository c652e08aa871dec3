"""The simulated feed's spread, inter-arrival, jumps and exclusive sums lie within a factor of two of the recorded ones.

Run with ``-s`` to see the tables. The committed figures are checked against the recordings where these are present.
"""

import csv
import gzip
import io
from collections import defaultdict
from dataclasses import astuple, fields

import numpy as np
import orjson
import pyarrow.parquet as parquet
import pytest

from oddstream_server.venues.simulated import SimulatedConfig
from oddstream_server.venues.simulated import statistics as figures
from oddstream_server.venues.simulated.series import MINUTE_US
from oddstream_server.venues.simulated.statistics import ExclusiveSum, FeedStatistics, Top
from tests.venues.recorded import FOLDER, body, lines, names, needs_recordings, plain_json

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

MICROS = 1_000_000
START_US = 1_795_000_500_000_000


Figures = FeedStatistics | ExclusiveSum


def assert_within_two_times(name: str, simulated: Figures, recorded: Figures) -> None:
    print("\n" + figures.table(name, simulated, recorded))
    far = {
        spec.name: round(own / theirs, 2)
        for spec, own, theirs in zip(fields(simulated), astuple(simulated), astuple(recorded), strict=True)
        if not 0.5 <= own / theirs <= 2
    }
    assert far == {}


def test_fifteen_minute_markets_are_like_the_recorded_ones() -> None:
    """Two whole rounds of two series; seeds 1 to 3 lie within 1.4 times."""
    config = SimulatedConfig(seed=1, kinds=("SIMCOIN15M",), events=2, gap_interval_us=None, duplicates_ppm=0)
    simulated = figures.measure(figures.simulated_tops(config, START_US, 30 * MINUTE_US), 1_000_000)
    assert_within_two_times("15-minute markets", simulated, figures.RECORDED_FAST)


def test_sports_are_like_the_recorded_ones() -> None:
    assert_within_two_times("sports", figures.simulated_sports(), figures.RECORDED_SPORTS)


def test_the_sums_of_games_and_ladders_are_like_the_recorded_ones() -> None:
    games = figures.simulated_sum(("SIMGAME", "SIMMATCH"))
    assert_within_two_times("games' sums", games, figures.RECORDED_GAMES)
    assert_within_two_times("ladders' sums", figures.simulated_sum(("SIMCOINH",)), figures.RECORDED_LADDER)


def test_the_default_world_has_the_same_statistics_outside_of_its_thin_series() -> None:
    """The statistics above run series by themselves; in the default world the same series tick the same."""
    config = SimulatedConfig(gap_interval_us=None, duplicates_ppm=0)
    together = figures.simulated_tops(config, START_US, 5 * MINUTE_US)
    alone = figures.simulated_tops(
        SimulatedConfig(gap_interval_us=None, duplicates_ppm=0, kinds=("SIMCOIN15M",), events=1),
        START_US,
        5 * MINUTE_US,
    )
    for market_id, rows in alone.items():
        assert together[market_id] == rows


# --- the committed figures themselves ---------------------------------------------------------------------------------


def recorded_tops(path: str) -> list[Top]:
    """Two-sided tops of a recorded market at the end of each venue timestamp, where they changed."""
    sides: dict[str, dict[int, int]] = {"yes": {}, "no": {}}
    tops: list[Top] = []
    stamp: int | None = None
    shown: tuple[int, int, int, int] | None = None

    def show(instant_ms: int) -> None:
        nonlocal shown
        if sides["yes"] and sides["no"]:
            bid, no = max(sides["yes"]), max(sides["no"])
            top = (bid, sides["yes"][bid], MICROS - no, sides["no"][no])
            if top != shown:
                shown = top
                tops.append((instant_ms * 1_000, bid, MICROS - no))

    for line in lines(path):
        frame = orjson.loads(line)
        message = frame["msg"]
        if frame["type"] == "orderbook_snapshot":
            for name in sides:
                levels = message.get(f"{name}_dollars_fp", [])
                sides[name] = {round(float(p) * MICROS): round(float(size) * 100) for p, size in levels}
        elif frame["type"] == "orderbook_delta":
            if stamp is not None and message["ts_ms"] != stamp:
                show(stamp)
            stamp = message["ts_ms"]
            side, price = sides[message["side"]], round(float(message["price_dollars"]) * MICROS)
            size = side.pop(price, 0) + round(float(message["delta_fp"]) * 100)
            if size > 0:
                side[price] = size
    return tops


def assert_committed(measured: Figures, committed: Figures) -> None:
    for spec, own, told in zip(fields(measured), astuple(measured), astuple(committed), strict=True):
        assert own == pytest.approx(told, rel=0.15), spec.name


@needs_recordings
def test_the_figures_of_fifteen_minute_markets_are_what_the_recordings_say() -> None:
    each = [
        astuple(figures.measure({path: recorded_tops(path)}, 1_000_000))
        for path in names("kalshi/ws")
        if path.endswith(".gz")
    ]
    assert len(each) == 8
    assert_committed(FeedStatistics(*np.mean(each, axis=0)), figures.RECORDED_FAST)


@needs_recordings
def test_the_figures_of_sports_are_what_the_recordings_say() -> None:
    folder = FOLDER / "polymarket_us/quotes/dt=2026-07-12"
    quotes = parquet.read_table(
        folder, columns=["ts", "slug", "bid", "ask"], filters=[("slug", ">=", "aec-"), ("slug", "<", "aec.")]
    ).sort_by([("slug", "ascending"), ("ts", "ascending")])
    tops: dict[str, list[Top]] = defaultdict(list)
    columns = (quotes["ts"].to_numpy().astype("int64"), quotes["bid"].to_numpy(), quotes["ask"].to_numpy())
    for slug, instant, bid, ask in zip(quotes["slug"].to_pylist(), *columns, strict=True):
        if bid > 0 and ask < 1 and ask - bid <= 0.1 + 1e-9:
            top = (int(instant), round(bid * MICROS), round(ask * MICROS))
            if not tops[slug] or tops[slug][-1][1:] != top[1:]:
                tops[slug].append(top)
    assert_committed(figures.measure(tops, 123_000_000), figures.RECORDED_SPORTS)


@needs_recordings
def test_the_figures_of_exclusive_sums_are_what_the_recordings_say() -> None:
    games = []
    for path in ("kalshi/rest/events_sports_nested.json", "kalshi/rest/events_nfl_preseason.json"):
        recorded = plain_json(path)
        for event in recorded["events"] if isinstance(recorded, dict) else recorded:
            active = [m for m in event["markets"] if m["status"] == "active"]
            if event["mutually_exclusive"] and len(active) in (2, 3):
                games.append([_top(m["yes_bid_dollars"], m["yes_ask_dollars"]) for m in active])
    assert_committed(figures.exclusive_sum(games), figures.RECORDED_GAMES)
    ladders: dict[tuple[str, str], list[tuple[int | None, int | None]]] = defaultdict(list)
    text = gzip.decompress(body("kalshi/history/crypto_hourly_flat.csv.gz")).decode()
    for row in csv.DictReader(io.StringIO(text)):
        ladders[row["captured_at"], row["event_ticker"]].append(_top(row["yes_bid"] or "0", row["yes_ask"] or "1"))
    assert_committed(figures.exclusive_sum(ladders.values()), figures.RECORDED_LADDER)


def _top(bid: str, ask: str) -> tuple[int | None, int | None]:
    return round(float(bid) * MICROS) or None, round(float(ask) * MICROS)
