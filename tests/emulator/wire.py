"""Numbers and times as both venues write them."""

from datetime import UTC, datetime


def decimals(micros: int, places: int) -> str:
    """Micros as a decimal text with exactly so many places, which must hold the value."""
    step = 10 ** (6 - places)
    if micros % step:
        raise ValueError(f"{micros} micros need more than {places} decimal places")
    sign, units = "-" if micros < 0 else "", abs(micros) // step
    return f"{sign}{units // 10**places}.{units % 10**places:0{places}d}"


def shortest(micros: int) -> str:
    """Micros as a decimal text without needless zeros."""
    text = decimals(micros, 6).rstrip("0")
    return text.removesuffix(".")


def iso(instant_us: int) -> str:
    """ISO 8601 in UTC with microseconds."""
    seconds = datetime.fromtimestamp(instant_us // 1_000_000, UTC)
    return f"{seconds:%Y-%m-%dT%H:%M:%S}.{instant_us % 1_000_000:06d}Z"
