"""The stream of quotes from the reader's side: the latest quote of each market, and when it is known no more."""

from collections.abc import Callable, Iterator

from oddstream.v1 import feed_status_pb2, market_service_pb2, quote_pb2, venue_pb2
from oddstream.watching.cursor import Cursor, OnBreak

OnReset = Callable[[market_service_pb2.QuoteReset], None]


class QuoteCursor(
    Cursor[market_service_pb2.WatchQuotesRequest, market_service_pb2.WatchQuotesResponse, quote_pb2.Quote]
):
    """A watch of quotes. The stream is conflated and can't be resumed: each connection begins with the quote of each
    market as it is, so a reader is current after a break, and has not seen what came meanwhile.

    :ivar latest: by market id what is known now; nothing while the stream is broken, nor of a market after a gap
        until its next quote.
    :ivar conflated_count: quotes left out so far because a later one of the same market took their place.
    :ivar feed_statuses: the latest state of each venue's feed.
    """

    def __init__(
        self,
        request: market_service_pb2.WatchQuotesRequest,
        *,
        on_reset: OnReset | None = None,
        on_message: Callable[[market_service_pb2.WatchQuotesResponse], None] | None = None,
        on_break: OnBreak | None = None,
    ) -> None:
        super().__init__(on_message=on_message, on_break=on_break)
        self._request = market_service_pb2.WatchQuotesRequest()
        self._request.CopyFrom(request)
        self._on_reset = on_reset
        self.latest: dict[str, quote_pb2.Quote] = {}
        self.conflated_count = 0
        self.feed_statuses: dict[int, feed_status_pb2.FeedStatus] = {}

    def _next_request(self) -> market_service_pb2.WatchQuotesRequest:
        return self._request

    def _take_state(self, message: market_service_pb2.WatchQuotesResponse) -> None:
        self.conflated_count += message.conflated_count
        for status in message.feed_statuses:
            self.feed_statuses[status.venue] = status
        for reset in message.resets:
            self._forget(reset)
            if self._on_reset:
                self._on_reset(reset)
        for quote in message.quotes:
            self.latest[quote.market_id] = quote

    def _take_items(self, message: market_service_pb2.WatchQuotesResponse) -> Iterator[quote_pb2.Quote]:
        yield from message.quotes

    def _take_break(self) -> None:
        self.latest.clear()

    def _forget(self, reset: market_service_pb2.QuoteReset) -> None:
        prefix = venue_pb2.Venue.Name(reset.venue).removeprefix("VENUE_").lower() + ":"
        concerned = reset.market_ids or [market_id for market_id in self.latest if market_id.startswith(prefix)]
        for market_id in concerned:
            self.latest.pop(market_id, None)
