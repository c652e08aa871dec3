"""The market that everybody serves, and what a server is told."""

from dataclasses import dataclass

from oddstream_server.domain.fees import FREE
from oddstream_server.domain.market import Market, MarketState, Outcome, PriceRange, Venue

SERVICE, METHOD = "oddstream.v1.MarketService", "GetMarket"
_CLOSE_US = 1_900_000_000_000_000


def market_id(number: int) -> str:
    return f"kalshi:KXBENCH-{number}"


MARKET = market_id(0)


@dataclass(frozen=True)
class Given:
    """On a server's command line, as JSON."""

    database_url: str
    redis_url: str
    pepper: str
    """Hexadecimal."""
    log_file: str


def sample_market(number: int = 0) -> Market:
    """Its message has about 470 bytes."""
    native = market_id(number).partition(":")[2]
    return Market(
        market_id=market_id(number),
        venue=Venue.KALSHI,
        venue_market_id=native,
        event_id="kalshi:KXBENCH",
        title="Will the temperature in Central Park be above 25 degrees on Thursday?",
        outcomes=(Outcome(0, "Yes", native), Outcome(1, "No", native)),
        state=MarketState.OPEN,
        price_ranges=(PriceRange(0, 1_000_000, 10_000),),
        minimum_size_micros=1_000_000,
        size_step_micros=1_000_000,
        fee_schedules=(FREE,),
        rules_text="Resolves to Yes where the official reading at noon is above the strike.",
        venue_ids=(("ticker", native),),
        close_time_us=_CLOSE_US,
    )
