"""What the simulated venue lists: series that open one event after another on a fixed grid of absolute time.

A series' event number k is open in [k x period + phase, (k + 1) x period + phase), so that any event, its underlying
and its result can be computed from the seed, the series' number and k alone.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.market import (
    Declared,
    Event,
    Market,
    MarketState,
    Outcome,
    PriceRange,
    Strike,
    Venue,
    market_id,
    underlying_id,
)
from oddstream_server.domain.money import MICROS
from oddstream_server.venues.simulated.config import SimulatedConfig
from oddstream_server.venues.simulated.draws import Draws
from oddstream_server.venues.simulated.maker import SIZE_STEP_MICROS
from oddstream_server.venues.simulated.path import UNIT, Path
from oddstream_server.venues.simulated.profiles import FAST, LADDER, SPORTS, THIN, Profile

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
SOURCE = "simulated venue"

CENT_GRID = (PriceRange(0, MICROS, 10_000),)
TAPERED_GRID = (
    PriceRange(0, 100_000, 1_000),
    PriceRange(100_000, 900_000, 10_000),
    PriceRange(900_000, MICROS, 1_000),
)
FEES = (
    FeeSchedule(FeeFormula.QUADRATIC, taker_rate_ppm=70_000, maker_rate_ppm=0, rounding_step_micros=100, source=SOURCE),
)
SPORTS_FEES = (
    FeeSchedule(
        FeeFormula.QUADRATIC,
        taker_rate_ppm=70_000,
        maker_rate_ppm=17_500,
        multiplier_ppm=500_000,
        rounding_step_micros=100,
        source=SOURCE,
    ),
)


@dataclass(frozen=True, slots=True)
class Leg:
    """One market of an event: it pays where the underlying ends in (floor, cap] (None is without bound)."""

    suffix: str
    title: str
    labels: tuple[str, str]
    floor: int | None
    cap: int | None
    strike: Strike | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of series."""

    code: str
    title: str
    category: str
    period_us: int
    profile: Profile
    price_ranges: tuple[PriceRange, ...]
    fees: tuple[FeeSchedule, ...]
    legs: Callable[[Draws], tuple[Leg, ...]]
    exclusive: bool
    exhaustive: bool
    mispriced: bool = False
    taker_delay_us: int = 0


def _money(micros: int) -> str:
    return f"{micros // MICROS:,}"


def _dollars(draws: Draws) -> tuple[int, int]:
    """(level at the start, size of one standard deviation) of a made-up price, in micros."""
    return draws.between(40_000, 90_000) * MICROS, draws.between(200, 600) * MICROS


def _up_or_down(draws: Draws) -> tuple[Leg, ...]:
    start, _ = _dollars(draws)
    strike = Strike("greater_or_equal", floor_micros=start)
    return (Leg("UP", f"above {_money(start)} at the close", ("Up", "Down"), draws.between(-1, 1), None, strike),)


def _thresholds(draws: Draws) -> tuple[Leg, ...]:
    start, scale = _dollars(draws)
    legs = []
    for cut in range(-1_500_000, 1_500_001, 500_000):
        value = (start + cut * scale // UNIT) // MICROS * MICROS
        strike = Strike("greater", floor_micros=value)
        legs.append(Leg(f"T{value // MICROS}", f"above {_money(value)}", ("Yes", "No"), cut, None, strike))
    return tuple(legs)


def _brackets(draws: Draws) -> tuple[Leg, ...]:
    start, scale = _dollars(draws)
    cuts = tuple(range(-2_000_000, 2_000_001, 400_000))
    values = [(start + cut * scale // UNIT) // MICROS * MICROS for cut in cuts]
    below, above = Strike("less", cap_micros=values[0]), Strike("greater", floor_micros=values[-1])
    legs = [Leg(f"L{values[0] // MICROS}", f"below {_money(values[0])}", ("Yes", "No"), None, cuts[0], below)]
    for (low, high), (low_value, high_value) in zip(itertools.pairwise(cuts), itertools.pairwise(values), strict=True):
        strike = Strike("between", floor_micros=low_value, cap_micros=high_value)
        title = f"{_money(low_value)} to {_money(high_value)}"
        legs.append(Leg(f"B{low_value // MICROS}", title, ("Yes", "No"), low, high, strike))
    legs.append(Leg(f"G{values[-1] // MICROS}", f"above {_money(values[-1])}", ("Yes", "No"), cuts[-1], None, above))
    return tuple(legs)


_TOWNS = (
    "Ashford", "Birchwood", "Calder", "Dunmore", "Eastvale", "Fairhaven", "Glenrock", "Harwick",
    "Ironbridge", "Kestrel", "Larkspur", "Millbrook", "Northgate", "Oakhurst", "Port Ellen", "Ravenhill",
)  # fmt: skip
_PEOPLE = (
    "Abara", "Bellini", "Castellan", "Dvorak", "Engstrom", "Fontaine", "Grover", "Hale",
    "Ito", "Jansen", "Kovacs", "Lindqvist", "Moreau", "Novak", "Okafor", "Pereira",
)  # fmt: skip


def _match(draws: Draws) -> tuple[Leg, ...]:
    """Home, draw, away as stretches of one hidden lead."""
    lean, width = draws.between(-400_000, 400_000), draws.between(300_000, 420_000)
    first = draws.below(len(_TOWNS))
    home, away = _TOWNS[first], _TOWNS[(first + 1 + draws.below(len(_TOWNS) - 1)) % len(_TOWNS)]
    return (
        Leg("HOME", f"{home} beat {away}", (home, f"not {home}"), lean + width, None),
        Leg("TIE", f"{home} and {away} draw", ("Tie", "not a tie"), lean - width, lean + width),
        Leg("AWAY", f"{away} beat {home}", (away, f"not {away}"), None, lean - width),
    )


def _pair(draws: Draws) -> tuple[Leg, ...]:
    lean = draws.between(-500_000, 500_000)
    first = draws.below(len(_TOWNS))
    home, away = _TOWNS[first], _TOWNS[(first + 1 + draws.below(len(_TOWNS) - 1)) % len(_TOWNS)]
    return (
        Leg("HOME", f"{home} beat {away}", (home, away), lean, None),
        Leg("AWAY", f"{away} beat {home}", (away, home), None, lean),
    )


def _candidates(draws: Draws) -> tuple[Leg, ...]:
    cuts = (
        -900_000 + draws.between(-80_000, 80_000),
        -250_000 + draws.between(-80_000, 80_000),
        600_000 + draws.between(-80_000, 80_000),
        1_300_000 + draws.between(-80_000, 80_000),
    )
    first = draws.below(len(_PEOPLE))
    bounds: tuple[int | None, ...] = (None, *cuts, None)
    legs = []
    for i in range(5):
        name = _PEOPLE[(first + 3 * i) % len(_PEOPLE)]
        legs.append(Leg(name.upper(), f"{name} wins", (name, f"not {name}"), bounds[i], bounds[i + 1]))
    return tuple(legs)


def _single(draws: Draws) -> tuple[Leg, ...]:
    return (Leg("YES", "it happens before the close", ("Yes", "No"), draws.between(-700_000, 700_000), None),)


KINDS: tuple[Kind, ...] = (
    Kind("SIMTHREE", "Three-way vote", "politics", 12 * HOUR_US, THIN, CENT_GRID, FEES, _match, True, True,
         mispriced=True),
    Kind("SIMCOIN15M", "Coin price in 15 minutes", "crypto", 15 * MINUTE_US, FAST, TAPERED_GRID, FEES, _up_or_down,
         True, False),
    Kind("SIMMATCH", "Match of the day", "sports", 24 * HOUR_US, SPORTS, CENT_GRID, SPORTS_FEES, _match, True, True,
         taker_delay_us=3_000_000),
    Kind("SIMCOINH", "Coin price at the hour", "crypto", HOUR_US, LADDER, CENT_GRID, FEES, _brackets, True, True),
    Kind("SIMTHIN", "Will it happen today", "other", 24 * HOUR_US, THIN, CENT_GRID, FEES, _single, True,
         False, mispriced=True),
    Kind("SIMGAME", "Game winner", "sports", 24 * HOUR_US, SPORTS, CENT_GRID, SPORTS_FEES, _pair, True, True,
         taker_delay_us=3_000_000),
    Kind("SIMCOIN4H", "Coin price above", "crypto", 4 * HOUR_US, LADDER, CENT_GRID, FEES, _thresholds, False, False),
    Kind("SIMVOTE", "Election winner", "politics", 24 * HOUR_US, SPORTS, CENT_GRID, FEES, _candidates, True, True),
    Kind("SIMPAIR", "Quick duel", "sports", 5 * MINUTE_US, THIN, CENT_GRID, SPORTS_FEES, _pair, True, True,
         mispriced=True),
)  # fmt: skip
"""Series take these in turn."""


@dataclass(frozen=True, slots=True)
class Series:
    """Number ``lane`` of the world's series."""

    lane: int
    kind: Kind
    series_id: str
    phase_us: int

    def number_at(self, instant_us: int) -> int:
        """The event that is open at an instant."""
        return (instant_us - self.phase_us) // self.kind.period_us

    def open_us(self, number: int) -> int:
        return number * self.kind.period_us + self.phase_us


@dataclass(frozen=True, slots=True)
class Listing:
    """One event with all that was decided before it opened."""

    series: Series
    number: int
    open_us: int
    close_us: int
    event: Event
    markets: tuple[Market, ...]
    """As listed: OPEN, without settlement."""
    legs: tuple[Leg, ...]
    end: int
    """Where the underlying ends."""
    void: bool
    amended: bool
    price: tuple[int, int] | None = None
    """(price at the start, one standard deviation) of the underlying in micros; None where it has no price."""

    def price_micros(self, level: int) -> int | None:
        """The underlying's price at a level of its path."""
        return None if self.price is None else self.price[0] + level * self.price[1] // UNIT

    def payouts(self, end: int) -> tuple[bool, ...]:
        """Which legs' outcome 0 wins where the underlying ends at ``end``."""
        return tuple((g.floor is None or end > g.floor) and (g.cap is None or end <= g.cap) for g in self.legs)

    def wrong_end(self) -> int:
        """An end near the true one with other payouts: what an amended event is settled by at first."""
        right = self.payouts(self.end)
        wrong = self.end
        step = UNIT // 4
        while self.payouts(wrong) == right:
            wrong = self.end + step
            step = -step if step > 0 else UNIT // 4 - step
        return wrong


def all_series(config: SimulatedConfig) -> tuple[Series, ...]:
    """The series of a world, spread over the phases of their periods.

    :raises InvalidArgument: the config names a kind that doesn't exist.
    """
    known = {kind.code: kind for kind in KINDS}
    if unknown := [code for code in config.kinds if code not in known]:
        raise InvalidArgument([FieldViolation("kinds", f"{unknown[0]} is none of {', '.join(known)}")])
    kinds = tuple(known[code] for code in config.kinds) or KINDS
    series = []
    for lane in range(config.events):
        kind, turn = kinds[lane % len(kinds)], lane // len(kinds)
        phase = Draws(config.seed, "phase", kind.code, turn).below(kind.period_us) if turn else 0
        series.append(Series(lane, kind, f"{kind.code}{turn or ''}", phase))
    return tuple(series)


def listing(config: SimulatedConfig, series: Series, number: int) -> tuple[Listing, Path]:
    """The event with a number and its underlying, the same whenever and however often they are asked for."""
    kind = series.kind
    key = (config.seed, series.series_id, number)
    draws = Draws(*key, "event")
    legs = kind.legs(draws)
    priced = any(leg.strike is not None for leg in legs)
    void, amended = draws.chance(config.voids_ppm), draws.chance(config.amendments_ppm)
    open_us = series.open_us(number)
    close_us = open_us + kind.period_us
    native = f"{series.series_id}-{number}"
    event_id = market_id(Venue.SIMULATED, native)
    about = underlying_id(Venue.SIMULATED, native)
    settle_us = close_us + config.determination_delay_us + config.settlement_delay_us
    markets = tuple(
        Market(
            market_id=f"{event_id}-{leg.suffix}",
            venue=Venue.SIMULATED,
            venue_market_id=f"{native}-{leg.suffix}",
            event_id=event_id,
            title=f"{kind.title}: {leg.title}",
            outcomes=tuple(Outcome(i, label, f"{native}-{leg.suffix}-{i}") for i, label in enumerate(leg.labels)),
            state=MarketState.OPEN,
            price_ranges=kind.price_ranges,
            minimum_size_micros=MICROS,
            size_step_micros=SIZE_STEP_MICROS,
            fee_schedules=kind.fees,
            taker_delay_us=kind.taker_delay_us,
            rules_text=f"Pays where the simulated underlying of {native} ends within: {leg.title}.",
            category=kind.category,
            series_id=series.series_id,
            venue_ids=(("ticker", f"{native}-{leg.suffix}"),),
            open_time_us=open_us,
            close_time_us=close_us,
            expected_settlement_time_us=settle_us,
            strike=None if leg.strike is None else replace(leg.strike, underlying_id=about),
            volume_micros=0,
            open_interest_micros=0,
        )
        for leg in legs
    )
    event = Event(
        event_id=event_id,
        venue=Venue.SIMULATED,
        venue_event_id=native,
        title=f"{kind.title} {number}",
        category=kind.category,
        series_id=series.series_id,
        market_ids=tuple(m.market_id for m in markets),
        exclusivity=Declared.YES if kind.exclusive else Declared.NO,
        exclusivity_source=SOURCE,
        exhaustiveness=Declared.YES if kind.exhaustive else Declared.NO,
        exhaustiveness_source=SOURCE,
    )
    profile = kind.profile
    path = Path(
        open_us,
        close_us,
        profile.jump_variance_ppm,
        profile.jumps,
        (*key, "path"),
        profile.quiet_time_ppm,
        profile.quiet_variance_ppm,
    )
    # every priced kind draws its price first
    price = _dollars(Draws(*key, "event")) if priced else None
    return Listing(series, number, open_us, close_us, event, markets, legs, path.end, void, amended, price), path
