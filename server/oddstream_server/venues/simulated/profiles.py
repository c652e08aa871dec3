"""How books of a kind of market behave, as parameters chosen against measured summary figures.

``FAST``: eight recorded 15-minute bitcoin markets of Kalshi (May 2026, WebSocket), over all their seconds: spread mean
1.0 cents, median 1; top of book changes every 22 ms in the median and 74 ms in the mean; the mid moves by 0.67 cents
in the mean from second to second with a standard deviation of 1.7, and 1.2 % of the moves are beyond four deviations.
``LADDER``: hourly bitcoin and ether brackets of Kalshi (July 2026): median spread of two-sided legs 3 cents, asks sum
to 1 + 1.1 cents a leg, bids to 0.95. ``SPORTS``: moneylines of Polymarket US (one day of July 2026, a quote every
123 s): median spread 2 cents, a fifth of the polls see a change, moves 0.32 cents in the mean with a deviation of 1.55,
1.3 % beyond four deviations. The statistics module measures the same on both, and a test holds them within a factor of
two.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Profile:
    """Parameters of one kind of book. Times in microseconds, prices in micros, sizes in whole contracts."""

    change_short_us: int
    """Mean wait between changes within a burst."""
    change_long_us: int
    """Mean wait between bursts."""
    long_share_ppm: int
    """Share of waits that are long."""
    trade_wait_us: int
    half_spread_micros: tuple[int, ...]
    """Distances from the fair value to the quotes, equally likely; the price grid widens them."""
    respread_ppm: int
    """Share of changes at which a maker takes another distance."""
    noise_micros: int
    """Makers disagree with the fair value by up to this."""
    stickiness_micros: int
    """A quote stays until the value that it should stand around has moved by more than this."""
    sizes: tuple[int, ...]
    """Sizes of a level, equally likely before a jitter of a quarter."""
    jump_variance_ppm: int
    jumps: int
    """Share of an event's variance that comes in jumps, and how many of them are expected."""


FAST = Profile(
    change_short_us=7_000,
    change_long_us=70_000,
    long_share_ppm=330_000,
    trade_wait_us=900_000,
    half_spread_micros=(500, 1_000, 1_500, 3_000),
    respread_ppm=20_000,
    noise_micros=800,
    stickiness_micros=1_500,
    sizes=(10, 25, 50, 100, 150, 250, 400, 800, 1_500, 4_000),
    jump_variance_ppm=680_000,
    jumps=26,
)
LADDER = Profile(
    change_short_us=900_000,
    change_long_us=6_000_000,
    long_share_ppm=300_000,
    trade_wait_us=45_000_000,
    half_spread_micros=(6_000, 9_000, 12_000, 16_000),
    respread_ppm=50_000,
    noise_micros=1_500,
    stickiness_micros=4_000,
    sizes=(5, 10, 25, 50, 100, 200, 400, 1_000),
    jump_variance_ppm=300_000,
    jumps=20,
)
SPORTS = Profile(
    change_short_us=6_000_000,
    change_long_us=60_000_000,
    long_share_ppm=500_000,
    trade_wait_us=240_000_000,
    half_spread_micros=(5_000, 6_000, 8_000, 12_000),
    respread_ppm=2_000,
    noise_micros=500,
    stickiness_micros=8_000,
    sizes=(10, 25, 60, 120, 250, 600, 1_500, 5_000),
    jump_variance_ppm=930_000,
    jumps=16,
)
THIN = Profile(
    change_short_us=400_000,
    change_long_us=2_500_000,
    long_share_ppm=300_000,
    trade_wait_us=15_000_000,
    half_spread_micros=(4_000, 5_000, 6_000),
    respread_ppm=10_000,
    noise_micros=400,
    stickiness_micros=3_000,
    sizes=(20, 40, 80, 150, 300),
    jump_variance_ppm=0,
    jumps=0,
)
"""Quiet books in which mispricings happen; made for trying bots, so measured against nothing."""
