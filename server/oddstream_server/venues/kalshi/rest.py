"""Kalshi's REST reads as pages of rows."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from oddstream_server.venues.breaker import CircuitBreaker
from oddstream_server.venues.budget import TokenBucket
from oddstream_server.venues.http import HttpReader, VenueAway
from oddstream_server.venues.kalshi.config import KalshiConfig
from oddstream_server.venues.kalshi.signing import KalshiSigner
from oddstream_server.venues.rows import RowError, as_list, as_object
from oddstream_server.venues.times import seconds_text

Row = Any
"""One element of a page as the exact JSON reader gives it; whether it is an object is the row reader's business."""


class CursorRepeated(VenueAway):
    """A page answered the cursor with which it was asked, or one seen before: the pass can't go on."""


class KalshiRest:
    """Pages end at the empty cursor only, never at a short page."""

    def __init__(
        self,
        config: KalshiConfig,
        session: Callable[[], aiohttp.ClientSession],
        breaker: CircuitBreaker,
        signer: KalshiSigner | None,
    ) -> None:
        self._config = config
        base_path = urlsplit(config.rest_url).path.rstrip("/")
        self.reader = HttpReader(
            config.rest_url,
            session,
            breaker,
            TokenBucket(config.tokens_per_s, config.token_burst),
            config.http,
            headers=(lambda method, path: signer.headers(method, base_path + path)) if signer else None,
        )

    async def reachable(self) -> bool:
        return await self.reader.probe("/exchange/status")

    async def series(self) -> Sequence[Row]:
        """All series; the venue doesn't page them."""
        return _rows(await self._get("/series"), "series")

    async def series_fee_changes(self) -> Sequence[Row]:
        """Dated changes of series' fees, past ones too."""
        return _rows(await self._get("/series/fee_changes", [("show_historical", "true")]), "series_fee_change_arr")

    def open_events(self) -> AsyncIterator[Sequence[Row]]:
        """Events with open markets, their markets nested."""
        limit = str(self._config.page_limit_events)
        return self._pages("/events", "events", [("status", "open"), ("with_nested_markets", "true"), ("limit", limit)])

    async def events(self, event_tickers: Sequence[str]) -> Sequence[Row]:
        """The named events without their markets."""
        parameters = [("tickers", ",".join(event_tickers)), ("limit", str(self._config.page_limit_events))]
        return [row async for page in self._pages("/events", "events", parameters) for row in page]

    def settled_markets(self, since_us: int) -> AsyncIterator[Sequence[Row]]:
        """Markets settled since an instant, without combinations."""
        return self._pages(
            "/markets",
            "markets",
            [
                ("status", "settled"),
                ("mve_filter", "exclude"),
                ("min_settled_ts", seconds_text(since_us)),
                ("limit", str(self._config.page_limit_markets)),
            ],
        )

    async def markets(self, tickers: Sequence[str]) -> Sequence[Row]:
        """The named markets, in every state that live reads still show."""
        parameters = [("tickers", ",".join(tickers)), ("limit", str(self._config.page_limit_markets))]
        return [row async for page in self._pages("/markets", "markets", parameters) for row in page]

    async def historical_markets(self, tickers: Sequence[str]) -> Sequence[Row]:
        """The named markets that settled before the venue's cutoff; live reads leave those out without a word."""
        parameters = [("tickers", ",".join(tickers)), ("limit", str(self._config.page_limit_markets))]
        return [row async for page in self._pages("/historical/markets", "markets", parameters) for row in page]

    async def order_books(self, tickers: Sequence[str]) -> Sequence[Row]:
        """``{"ticker", "orderbook_fp"}`` of at most 100 markets in one request."""
        answer = await self._get("/markets/orderbooks", [("tickers", ticker) for ticker in tickers])
        return _rows(answer, "orderbooks")

    def trades(self, since_us: int, ticker: str | None = None) -> AsyncIterator[Sequence[Row]]:
        """Trades of all markets or of one since an instant, newest first."""
        parameters = [("min_ts", seconds_text(since_us)), ("limit", str(self._config.page_limit_trades))]
        if ticker is not None:
            parameters.append(("ticker", ticker))
        return self._pages("/markets/trades", "trades", parameters)

    async def _get(self, path: str, parameters: Sequence[tuple[str, str]] = ()) -> Any:
        return await self.reader.get(path, parameters, self._config.request_cost)

    async def _pages(self, path: str, key: str, parameters: Sequence[tuple[str, str]]) -> AsyncIterator[Sequence[Row]]:
        """All pages; each but the last names the cursor of the next.

        :raises CursorRepeated: the venue sends a cursor a second time, which would never end.
        """
        cursor, seen = "", set[str]()
        while True:
            answer = await self._get(path, [*parameters, *([("cursor", cursor)] if cursor else [])])
            yield _rows(answer, key)
            cursor = answer.get("cursor") or ""
            if not isinstance(cursor, str):
                raise VenueAway(f"GET {path} answered a cursor that is no text")
            if not cursor:
                return
            if cursor in seen:
                raise CursorRepeated(f"GET {path} answered the same cursor twice")
            seen.add(cursor)


def _rows(answer: Any, key: str) -> Sequence[Row]:
    try:
        return as_list(as_object(answer, "answer").get(key), key)
    except RowError as error:
        raise VenueAway(f"an answer without its list {key} ({error.reason})") from None
