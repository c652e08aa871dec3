"""Numbers, times and enum values as people read them. Exact: nothing here ever becomes a float."""

from datetime import UTC, datetime, tzinfo

from google.protobuf.timestamp_pb2 import Timestamp

from oddstream.v1 import market_pb2, signal_pb2, venue_pb2

MICROS = 1_000_000


def decimal(micros: int, *, signed: bool = False) -> str:
    """430000 -> "0.43": the shortest exact text of a number of millionths.

    :param signed: with a plus before what is above 0.
    """
    sign = "-" if micros < 0 else "+" if signed and micros > 0 else ""
    whole, rest = divmod(abs(micros), MICROS)
    return f"{sign}{whole:,}" + (f".{rest:06d}".rstrip("0") if rest else "")


def absent(micros: int | None, *, signed: bool = False) -> str:
    return "-" if micros is None else decimal(micros, signed=signed)


def span(us: int) -> str:
    """A span of microseconds in at most two units: "850ms", "12s", "4m 05s", "3h 20m", "2d 4h"."""
    if us < 0:
        return f"-{span(-us)}"
    if us < 1_000:
        return f"{us}µs"
    if us < MICROS:
        return f"{us // 1_000}ms"
    seconds = us // MICROS
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes}m {seconds:02d}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02d}m"
    days, hours = divmod(hours, 24)
    return f"{days}d {hours}h"


def short_span(us: int) -> str:
    """A span in one unit, for a narrow column."""
    return "0s" if us < MICROS else span(us).split()[0]


def ago(us: int) -> str:
    return f"in {span(-us)}" if us < 0 else f"{span(us)} ago"


def moment(time: Timestamp, now_us: int, zone: tzinfo | None = None) -> str:
    """A time in the local zone with its age: "2026-05-13 20:00:04 CEST (12s ago)".

    :param zone: another zone than the machine's.
    """
    local = datetime.fromtimestamp(time.seconds, UTC).astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M:%S %Z} ({ago(now_us - time.ToMicroseconds())})"


def word(enum: type, value: int) -> str:
    """The word of an enum's value without the enum's prefix: "ACTIVE"; its number where this version doesn't know it.

    :param enum: a generated enum.
    """
    descriptor = enum.DESCRIPTOR  # type: ignore[attr-defined]  # every generated enum has one; its metaclass is untyped
    return enum_word(descriptor, value)


def enum_word(descriptor: object, value: int) -> str:
    """See :func:`word`.

    :param descriptor: an ``EnumDescriptor``.
    """
    known = descriptor.values_by_number.get(value)  # type: ignore[attr-defined]  # stubs leave its base class out
    if known is None:
        return str(value)
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in descriptor.name).lstrip("_")  # type: ignore[attr-defined]
    return str(known.name).removeprefix(f"{prefix}_")


def venue(value: int) -> str:
    """As in ids: "kalshi"."""
    return word(venue_pb2.Venue, value).lower()


_SHORT_VENUES = {"polymarket": "poly", "polymarket_us": "poly-us", "simulated": "sim"}


def short_venue(value: int) -> str:
    """At most seven letters."""
    return _SHORT_VENUES.get(venue(value), venue(value))


_ORIGIN_MARKS: dict[int, str] = {
    venue_pb2.DATA_ORIGIN_SIMULATED: "SIM",
    venue_pb2.DATA_ORIGIN_REPLAY: "REPLAY",
}


def origin_mark(value: int) -> str:
    """Empty for live data, SIM or REPLAY for data that must not be traded on."""
    return _ORIGIN_MARKS.get(value, "")


def signal_state(value: int) -> str:
    return word(signal_pb2.SignalState, value).lower()


def market_state(value: int) -> str:
    return word(market_pb2.MarketState, value).lower()


def to_do(signal: signal_pb2.Signal) -> str:
    """What to do: ``BUY "Lakers" ≤ 0.43 × 120``; for a basket what all legs have in common."""
    legs = signal.legs
    if not legs:
        return "nothing to trade"
    if len(legs) == 1:
        leg = legs[0]
        return f"{_order(leg)}{_size(leg)}"
    total = decimal(sum(leg.limit_price_micros for leg in legs))
    sizes = {leg.available_size_micros if leg.HasField("available_size_micros") else None for leg in legs}
    size = _size(legs[0]) if len(sizes) == 1 else ""
    actions, labels = {leg.action for leg in legs}, {leg.outcome_label for leg in legs}
    if len(actions) == 1:
        verb = word(signal_pb2.LegAction, legs[0].action)
        if len(labels) == 1:
            return f'{verb} {len(legs)} "{legs[0].outcome_label}", sum {_bound(legs[0])} {total}{size}'
        names = " + ".join(f'"{leg.outcome_label}" {decimal(leg.limit_price_micros)}' for leg in legs)
        return f"{verb} {len(legs)} legs, sum {_bound(legs[0])} {total}{size}: {names}"
    return f"{len(legs)} legs: " + " + ".join(f"{_order(leg)}{_size(leg)}" for leg in legs)


def _order(leg: signal_pb2.SignalLeg) -> str:
    label = leg.outcome_label or f"outcome {leg.outcome_index}"
    verb = word(signal_pb2.LegAction, leg.action)
    return f'{verb} "{label}" {_bound(leg)} {decimal(leg.limit_price_micros)}'


def _bound(leg: signal_pb2.SignalLeg) -> str:
    return "≥" if leg.action == signal_pb2.LEG_ACTION_SELL else "≤"


def _size(leg: signal_pb2.SignalLeg) -> str:
    return f" × {decimal(leg.available_size_micros)}" if leg.HasField("available_size_micros") else ""
