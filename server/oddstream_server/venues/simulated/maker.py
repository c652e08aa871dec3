"""The book of one market and the maker who keeps it around a fair value."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from oddstream_server.domain.market import PriceRange
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import BookLevel
from oddstream_server.venues.simulated.draws import Draws
from oddstream_server.venues.simulated.profiles import Profile

SIZE_STEP_MICROS = 10_000


@cache
def price_grid(ranges: tuple[PriceRange, ...], payout_micros: int = MICROS) -> tuple[int, ...]:
    """Every price an order may have, ascending, without 0 and the payout."""
    prices: set[int] = set()
    for r in ranges:
        prices.update(range(r.start_micros, r.end_micros + 1, r.tick_micros))
    return tuple(sorted(p for p in prices if 0 < p < payout_micros))


@dataclass(frozen=True, slots=True)
class LevelChange:
    """The new size of a price level; 0 removes it."""

    bid: bool
    price_micros: int
    size_micros: int


@dataclass(frozen=True, slots=True)
class Print:
    """One level that a taker took from."""

    price_micros: int
    size_micros: int
    taker_bought: bool


class Maker:
    """Quotes one market. Levels are kept by their index in the price grid."""

    __slots__ = ("_anchor", "_depth", "_draws", "_grid", "_half", "_profile", "asks", "bids", "offset_micros")

    def __init__(self, profile: Profile, grid: tuple[int, ...], depth_levels: int, draws: Draws) -> None:
        self._profile, self._grid, self._depth, self._draws = profile, grid, depth_levels, draws
        self._half = draws.pick(profile.half_spread_micros)
        self._anchor: int | None = None
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}
        self.offset_micros = 0
        """How far off the fair value the maker stands by mistake."""

    @property
    def best_bid(self) -> BookLevel | None:
        if not self.bids:
            return None
        index = max(self.bids)
        return BookLevel(self._grid[index], self.bids[index])

    @property
    def best_ask(self) -> BookLevel | None:
        if not self.asks:
            return None
        index = min(self.asks)
        return BookLevel(self._grid[index], self.asks[index])

    def levels(self) -> tuple[tuple[BookLevel, ...], tuple[BookLevel, ...]]:
        """(bids, asks), best first."""
        grid = self._grid
        bids = tuple(BookLevel(grid[i], self.bids[i]) for i in sorted(self.bids, reverse=True))
        return bids, tuple(BookLevel(grid[i], self.asks[i]) for i in sorted(self.asks))

    def wait_us(self, activity_ppm: int) -> int:
        """Until the next change of the book."""
        p = self._profile
        mean = p.change_long_us if self._draws.chance(p.long_share_ppm) else p.change_short_us
        return max(1, self._draws.exponential(mean) * MICROS // activity_ppm)

    def trade_wait_us(self, activity_ppm: int) -> int:
        return max(1, self._draws.exponential(self._profile.trade_wait_us) * MICROS // activity_ppm)

    def requote(self, fair_micros: int) -> list[LevelChange]:
        """Follow the fair value; where that asks for nothing, change the size of some level."""
        draws, profile = self._draws, self._profile
        value = fair_micros + self.offset_micros + draws.between(-profile.noise_micros, profile.noise_micros)
        if draws.chance(profile.respread_ppm):
            self._half, self._anchor = draws.pick(profile.half_spread_micros), None
        if self._anchor is None or abs(value - self._anchor) > profile.stickiness_micros:
            self._anchor = value
        grid = self._grid
        top_bid = bisect_right(grid, self._anchor - self._half) - 1
        top_ask = bisect_left(grid, self._anchor + self._half)
        top_ask = max(top_ask, top_bid + 1)
        changes: list[LevelChange] = []
        self._shape(self.bids, True, range(top_bid, max(-1, top_bid - self._depth), -1), changes)
        self._shape(self.asks, False, range(top_ask, min(len(grid), top_ask + self._depth)), changes)
        if not changes:
            self._resize(changes)
        return changes

    def take(self, buy: bool) -> tuple[list[Print], list[LevelChange]]:
        """A taker's order against the book: a quarter of a usual level's size, through up to three levels."""
        side = self.asks if buy else self.bids
        left = self._size() // 4 // SIZE_STEP_MICROS * SIZE_STEP_MICROS
        prints: list[Print] = []
        changes: list[LevelChange] = []
        for index in sorted(side, reverse=not buy)[:3]:
            size = min(left, side[index])
            prints.append(Print(self._grid[index], size, buy))
            self._set(side, not buy, index, side[index] - size, changes)
            left -= size
            if left == 0:
                break
        return prints, changes

    def clear(self) -> list[LevelChange]:
        """Pull every quote."""
        changes = [LevelChange(True, self._grid[i], 0) for i in sorted(self.bids)]
        changes += [LevelChange(False, self._grid[i], 0) for i in sorted(self.asks)]
        self.bids.clear()
        self.asks.clear()
        self._anchor = None
        return changes

    def _shape(self, side: dict[int, int], bid: bool, wanted: Sequence[int], changes: list[LevelChange]) -> None:
        if len(side) == len(wanted) and all(i in side for i in wanted):
            return
        for index in [i for i in side if i not in wanted]:
            self._set(side, bid, index, 0, changes)
        for index in wanted:
            if index not in side:
                self._set(side, bid, index, self._size(), changes)

    def _resize(self, changes: list[LevelChange]) -> None:
        word = self._draws.word()
        bid = bool(word & 1)
        side = self.bids if bid else self.asks
        if not side:
            return
        behind = (0, 0, 0, 1, 1, 2, 3, 5)[(word >> 1) & 7]
        ordered = sorted(side, reverse=bid)
        self._set(side, bid, ordered[min(behind, len(ordered) - 1)], self._size(), changes)

    def _size(self) -> int:
        word = self._draws.word()
        base = self._profile.sizes[(word >> 8) % len(self._profile.sizes)]
        hundredths = base * (75 + (word & 0xFF) * 50 // 255)
        if word >> 62:  # three of four orders are for whole contracts
            hundredths = max(100, hundredths // 100 * 100)
        return hundredths * SIZE_STEP_MICROS

    def _set(self, side: dict[int, int], bid: bool, index: int, size: int, changes: list[LevelChange]) -> None:
        if size:
            side[index] = size
        else:
            side.pop(index, None)
        changes.append(LevelChange(bid, self._grid[index], size))
