"""What a simulated world is made of. The same config and start time give the same world, bit for bit."""

from dataclasses import dataclass, fields

from oddstream_server.domain.errors import FieldViolation, InvalidArgument

DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True)
class SimulatedConfig:
    """Settings of the simulated venue.

    Rates in ppm are parts per million. A world is a function of ``seed`` and of absolute time: started again at a later
    instant it has the same events, the same underlying paths and the same results, so that a market which was open when
    a server stopped settles after its restart. Only the books begin anew, in a new session and epoch.

    :raises InvalidArgument: a value breaks its rule; each violation names the field.
    """

    seed: int = 1
    events: int = 14
    """Events open at any time; they take the kinds of :mod:`series` in turn, about four markets an event."""
    kinds: tuple[str, ...] = ()
    """Codes of the kinds of series to list, e.g. ``("SIMCOIN15M",)``; empty means all of :data:`series.KINDS`."""
    start_time_us: int | None = None
    """First instant of the world; absent means the adapter's clock at its first use, less the warm-up."""
    warm_up_us: int = 720_000_000
    """Past that is pushed at once when the start time is absent, so that windows are filled after seconds.

    Its ticks have receive times in the past; the adapter's ``not_before_us`` keeps them behind an earlier session's.
    """
    speed: float | None = 1.0
    """World seconds a real second; None means as fast as the sink takes the items, on the world's own clock.

    Receive times are the world's times, so above 1 they run ahead of the wall clock.
    """
    run_for_us: int | None = None
    """Length of the world, after which ``follow`` pushes nothing more; None means no end."""
    activity_ppm: int = 1_000_000
    """Scales how often books change and trades print; 10_000_000 is ten times the recorded rate."""
    depth_levels: int = 10
    """Price levels a side that the makers keep."""
    mispricing_interval_us: int | None = 10_000_000
    """Mean time between two mispricings in the thin series; None means none. Every wait is 0.5 to 1.5 times this."""
    gap_interval_us: int | None = 900_000_000
    """Mean time between two losses of the feed; None means none."""
    gap_length_us: int = 2_000_000
    """How long the feed loses everything before it is taken anew."""
    duplicates_ppm: int = 2_000
    """Share of quotes and trades that are pushed twice, with the same source key."""
    crossed_ppm: int = 0
    """Share of quotes that are preceded by a crossed one, as venues show them within one timestamp."""
    voids_ppm: int = 10_000
    """Share of events that end void."""
    amendments_ppm: int = 20_000
    """Share of events whose first settlement is wrong and amended later."""
    determination_delay_us: int = 20_000_000
    """From close to the provisional settlement."""
    settlement_delay_us: int = 40_000_000
    """From the provisional to the final settlement."""
    amendment_delay_us: int = 120_000_000
    """From the final settlement to its amendment."""
    feed_latency_us: int = 2_000
    """From venue time to receive time."""
    underlying_interval_us: int | None = None
    """How often the prices that coin series are about are told; None means never."""

    def __post_init__(self) -> None:
        whole = {f.name for f in fields(self)} - {"speed", "kinds"}
        violations = [
            FieldViolation(name, f"must be a whole number, got {type(getattr(self, name)).__name__}")
            for name in sorted(whole)
            if not isinstance(getattr(self, name), int) and getattr(self, name) is not None
        ]
        if not violations:
            violations = [
                FieldViolation(name, f"must be between {low} and {high}, got {value}")
                for name, low, high in _BOUNDS
                if (value := getattr(self, name)) is not None and not low <= value <= high
            ]
        if self.speed is not None and not 0 < self.speed <= 1_000_000:
            violations.append(FieldViolation("speed", "must be above 0 and at most 1000000, or None for no pacing"))
        if violations:
            raise InvalidArgument(violations)


_BOUNDS: tuple[tuple[str, int, int], ...] = (
    ("seed", 0, 2**63 - 1),
    ("events", 1, 20_000),
    ("start_time_us", 0, 2**62),
    ("warm_up_us", 0, DAY_US),
    ("run_for_us", 1, 2**62),
    ("activity_ppm", 1_000, 1_000_000_000),
    ("depth_levels", 1, 200),
    ("mispricing_interval_us", 100_000, DAY_US),
    ("gap_interval_us", 1_000_000, 365 * DAY_US),
    ("gap_length_us", 1, DAY_US),
    ("duplicates_ppm", 0, 1_000_000),
    ("crossed_ppm", 0, 1_000_000),
    ("voids_ppm", 0, 1_000_000),
    ("amendments_ppm", 0, 1_000_000),
    ("determination_delay_us", 0, DAY_US),
    ("settlement_delay_us", 0, DAY_US),
    ("amendment_delay_us", 1, DAY_US),
    ("feed_latency_us", 0, 10_000_000),
    ("underlying_interval_us", 100_000, DAY_US),
)
