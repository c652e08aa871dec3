"""Prices of what markets are about, as venues' sockets tell them."""

from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import Quote, SourceKind, TickSource


def as_quote(
    venue: Venue, instrument_id: str, price_micros: int, stream: str, *, venue_time_us: int, receive_time_us: int
) -> Quote:
    """A price as the tick store keeps it: a quote without sizes whose bid and ask it is, once an instant of the venue.

    :param stream: the socket's session and channel.
    """
    return Quote(
        market_id=instrument_id,
        receive_time_us=receive_time_us,
        bid_price_micros=price_micros,
        bid_size_micros=None,
        ask_price_micros=price_micros,
        ask_size_micros=None,
        source=TickSource(venue, SourceKind.WEBSOCKET, stream),
        source_key=venue_time_us,
        venue_time_us=venue_time_us,
    )
