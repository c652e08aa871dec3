"""Statistics of a feed, simulated or recorded, and the recorded figures that the simulated ones are held against.

``python -m oddstream_server.venues.simulated.statistics`` prints both side by side.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from oddstream_server.domain.market import Declared, MarketState
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import Quote
from oddstream_server.venues.simulated.config import SimulatedConfig
from oddstream_server.venues.simulated.feed import Feed
from oddstream_server.venues.simulated.series import HOUR_US, MINUTE_US
from oddstream_server.venues.simulated.world import World

Top = tuple[int, int, int]
"""(time in us, bid, ask in micros) of a two-sided book from a change on."""

INNER = (50_000, 950_000)
"""Moves are measured between these mids: beyond them a book has nowhere to go."""
TAIL_DEVIATIONS = 4


@dataclass(frozen=True, slots=True)
class FeedStatistics:
    """Spread, inter-arrival and jumps of two-sided tops."""

    spread_median_micros: float
    spread_mean_micros: float
    wait_median_us: float
    """Between changes of the top."""
    wait_mean_us: float
    move_mean_micros: float
    """Size of the mid's move over a step."""
    move_deviation_micros: float
    move_tail_ppm: float
    """Share of moves beyond four deviations."""


@dataclass(frozen=True, slots=True)
class ExclusiveSum:
    """How far the sums of an exclusive event's asks and bids are from the payout."""

    asks_over_micros: float
    """For each leg: most legs of a long ladder ask a tick and bid nothing."""
    bids_under_micros: float
    """For the whole event."""


RECORDED_FAST = FeedStatistics(10_000, 9_900, 22_500, 74_300, 6_700, 16_600, 12_500)
"""Eight 15-minute bitcoin markets of Kalshi (WebSocket, May 2026), step 1 s; means over the markets."""

RECORDED_SPORTS = FeedStatistics(10_000, 19_600, 123e6, 716e6, 5_050, 19_800, 16_000)
"""477 moneyline books of Polymarket US on 2026-07-12 (CC BY 4.0, Dinesh Gopalakrishnan), polled every 123 s.

Waits are between polls that saw a change, and so are the rows of the spread; books wider than 10 cents are left out,
since books without a market maker aren't simulated.
"""

RECORDED_GAMES = ExclusiveSum(10_070, 28_500)
"""47 exclusive sports events of Kalshi with two or three legs (REST, August 2026), means."""

RECORDED_LADDER = ExclusiveSum(14_800, 92_800)
"""1,111 snapshots of hourly brackets of Kalshi with about 188 legs (July 2026), means."""


def measure(tops: Mapping[str, Sequence[Top]], step_us: int) -> FeedStatistics:
    """Statistics over all markets together, each row weighing the same.

    :param tops: a market's changes in order of time; markets with fewer than 20 are left out.
    :param step_us: over which the mid's moves are measured.
    """
    spreads, waits, moves = [], [], []
    for rows in tops.values():
        if len(rows) < 20:
            continue
        times, bids, asks = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
        spreads.append(asks - bids)
        waits.append(np.diff(times))
        grid = np.arange(times[0], times[-1], step_us)
        at = np.searchsorted(times, grid, side="right") - 1
        mids = (bids[at] + asks[at]) / 2
        inner = (mids > INNER[0]) & (mids < INNER[1])
        moves.append(np.diff(mids)[inner[1:] & inner[:-1]])
    spread, wait, move = np.concatenate(spreads), np.concatenate(waits), np.abs(np.concatenate(moves))
    deviation = float(np.sqrt(np.mean(move**2)))
    return FeedStatistics(
        float(np.median(spread)),
        float(np.mean(spread)),
        float(np.median(wait)),
        float(np.mean(wait)),
        float(np.mean(move)),
        deviation,
        float(np.mean(move > TAIL_DEVIATIONS * deviation) * MICROS),
    )


def polled(tops: Mapping[str, Sequence[Top]], poll_us: int) -> dict[str, list[Top]]:
    """The same as a poller sees it: the tops at each poll, and of those the ones that differ from the poll before."""
    seen: dict[str, list[Top]] = {}
    for market_id, rows in tops.items():
        times = np.array([row[0] for row in rows], dtype=np.int64)
        kept: list[Top] = []
        for instant in range(int(times[0]), int(times[-1]), poll_us):
            _, bid, ask = rows[int(np.searchsorted(times, instant, side="right")) - 1]
            if not kept or kept[-1][1:] != (bid, ask):
                kept.append((instant, bid, ask))
        seen[market_id] = kept
    return seen


def exclusive_sum(events: Iterable[Sequence[tuple[int | None, int | None]]]) -> ExclusiveSum:
    """Means over events of ``(bid, ask)`` of each leg; a side without an order counts as 0 or the payout."""
    over, under = [], []
    for legs in events:
        asks = sum(MICROS if ask is None else ask for _, ask in legs)
        bids = sum(bid or 0 for bid, _ in legs)
        over.append((asks - MICROS) / len(legs))
        under.append(MICROS - bids)
    return ExclusiveSum(float(np.mean(over)), float(np.mean(under)))


def two_sided(quotes: Iterable[Quote]) -> dict[str, list[Top]]:
    """Tops by market, of the quotes that have both sides."""
    tops: dict[str, list[Top]] = defaultdict(list)
    for q in quotes:
        if q.bid_price_micros is not None and q.ask_price_micros is not None:
            tops[q.market_id].append((q.receive_time_us, q.bid_price_micros, q.ask_price_micros))
    return tops


def simulated_tops(config: SimulatedConfig, start_us: int, span_us: int) -> dict[str, list[Top]]:
    """Two-sided tops of a world over a span."""
    feed = Feed(World(config, start_us))
    return two_sided(item for item in feed.advance(start_us + span_us) if isinstance(item, Quote))


def simulated_fast(seed: int = 1) -> FeedStatistics:
    """An hour of two 15-minute series, step 1 s."""
    config = SimulatedConfig(seed=seed, kinds=("SIMCOIN15M",), events=2, gap_interval_us=None, duplicates_ppm=0)
    return measure(simulated_tops(config, 1_795_000_500_000_000, HOUR_US), 1_000_000)


def simulated_sports(seed: int = 1) -> FeedStatistics:
    """A day of twelve day-long series, polled every 123 s."""
    kinds = ("SIMMATCH", "SIMGAME")
    config = SimulatedConfig(seed=seed, kinds=kinds, events=12, gap_interval_us=None, duplicates_ppm=0)
    tops = simulated_tops(config, 1_795_046_400_000_000, 24 * HOUR_US)
    return measure(polled(tops, 123_000_000), 123_000_000)


def simulated_sum(kinds: tuple[str, ...], seed: int = 1) -> ExclusiveSum:
    """Exclusive events of some kinds, looked at every ten minutes for an hour."""
    start_us = 1_795_046_400_000_000
    feed = Feed(World(SimulatedConfig(seed=seed, kinds=kinds, events=8, gap_interval_us=None), start_us))
    looks: list[list[tuple[int | None, int | None]]] = []
    for look in range(1, 7):
        feed.advance(start_us + look * 10 * MINUTE_US)
        for event, markets in feed.world.catalog():
            if event.exhaustiveness is Declared.YES and all(m.state is MarketState.OPEN for m in markets):
                books = [feed.order_book(m.market_id) for m in markets]
                looks.append(
                    [
                        (b.bids[0].price_micros if b.bids else None, b.asks[0].price_micros if b.asks else None)
                        for b in books
                        if b is not None
                    ]
                )
    return exclusive_sum(looks)


def table(name: str, simulated: FeedStatistics | ExclusiveSum, recorded: FeedStatistics | ExclusiveSum) -> str:
    """Both side by side, with the ratio."""
    lines = [f"{name:<24}{'simulated':>14}{'recorded':>14}{'ratio':>8}"]
    for spec, own, theirs in zip(fields(simulated), astuple(simulated), astuple(recorded), strict=True):
        lines.append(f"  {spec.name:<22}{own:>14,.0f}{theirs:>14,.0f}{own / theirs:>8.2f}")
    return "\n".join(lines)


def main() -> None:
    print(table("15-minute markets", simulated_fast(), RECORDED_FAST))
    print(table("sports", simulated_sports(), RECORDED_SPORTS))
    print(table("games' sums", simulated_sum(("SIMGAME", "SIMMATCH")), RECORDED_GAMES))
    print(table("ladders' sums", simulated_sum(("SIMCOINH",)), RECORDED_LADDER))


if __name__ == "__main__":
    main()
