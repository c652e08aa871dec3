"""How books of a kind of market behave, as parameters chosen against measured summary figures.

``FAST``: recorded 15-minute bitcoin markets of Kalshi; ``LADDER``: hourly brackets of Kalshi; ``SPORTS``: moneylines of
Polymarket US and game winners of Kalshi. The figures stand with their sources in the statistics module, which measures
the same on a simulated feed; a test holds each within a factor of two.
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
    quiet_time_ppm: int = 0
    quiet_variance_ppm: int = 0
    """The first share of an event's life and its share of the variance, as before a game begins."""


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
    half_spread_micros=(3_000, 5_000, 8_000, 12_000),
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
    half_spread_micros=(500, 500, 500, 500, 500, 20_000),
    respread_ppm=2_000,
    noise_micros=500,
    stickiness_micros=5_000,
    sizes=(10, 25, 60, 120, 250, 600, 1_500, 5_000),
    jump_variance_ppm=850_000,
    jumps=16,
    quiet_time_ppm=700_000,
    quiet_variance_ppm=50_000,
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
    quiet_time_ppm=900_000,
    quiet_variance_ppm=100_000,
)
"""Quiet books in which mispricings happen; made for trying bots, so measured against nothing."""
