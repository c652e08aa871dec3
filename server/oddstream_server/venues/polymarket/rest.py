"""Polymarket's REST reads as pages of rows: Gamma, CLOB and Data API."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import aiohttp

from oddstream_server.venues.breaker import CircuitBreaker
from oddstream_server.venues.budget import TokenBucket
from oddstream_server.venues.http import HttpReader, VenueAway, VenueRefused
from oddstream_server.venues.polymarket.config import PolymarketConfig
from oddstream_server.venues.rows import RowError, as_list, as_object
from oddstream_server.venues.times import seconds_text

Row = Any


class PageRepeated(VenueAway):
    """A page came a second time, by its cursor or by its content: the pass can't go on."""


class PolymarketRest:
    def __init__(
        self, config: PolymarketConfig, session: Callable[[], aiohttp.ClientSession], breaker: CircuitBreaker
    ) -> None:
        self._config = config
        budget = TokenBucket(config.requests_per_s, config.request_burst)
        self._gamma, self._clob, self._data = (
            HttpReader(url, session, breaker, budget, config.http)
            for url in (config.gamma_url, config.clob_url, config.data_url)
        )

    @property
    def requests(self) -> int:
        return self._gamma.requests + self._clob.requests + self._data.requests

    async def reachable(self) -> bool:
        return await self._gamma.probe("/events/keyset", [("limit", "1")])

    def open_events(self) -> AsyncIterator[Sequence[Row]]:
        """Events that aren't closed, their markets nested."""
        parameters = [("closed", "false"), ("limit", str(self._config.page_limit_events))]
        return self._keyset("/events/keyset", "events", parameters)

    def markets(self, condition_ids: Sequence[str], closed: bool) -> AsyncIterator[Sequence[Row]]:
        """The named markets. Gamma hides closed ones unless they are asked for, and open ones if they are."""
        parameters = [
            *(("condition_ids", condition_id) for condition_id in condition_ids),
            ("closed", "true" if closed else "false"),
            ("limit", str(self._config.page_limit_markets)),
        ]
        return self._keyset("/markets/keyset", "markets", parameters)

    async def clob_market(self, condition_id: str) -> Row | None:
        """The CLOB's row of a market, None where it has none."""
        try:
            return await self._clob.get(f"/markets/{condition_id}")
        except VenueRefused as refused:
            if refused.status == 404:
                return None
            raise

    async def book(self, token_id: str) -> Row | None:
        """The book of a token, None where there is none (after the resolution)."""
        try:
            return await self._clob.get("/book", [("token_id", token_id)])
        except VenueRefused as refused:
            if refused.status == 404:
                return None
            raise

    async def resolutions(self, condition_id: str) -> Sequence[Row]:
        answer = await self._data.get("/v2/resolutions", [("condition_id", condition_id)])
        return _rows(answer, "data")

    async def trades(self, condition_id: str, since_us: int, until_us: int) -> AsyncIterator[Sequence[Row]]:
        """Takers' trades of a market in a span, newest first. Both ends are whole seconds and inclusive."""
        parameters = [
            ("condition_id", condition_id),
            ("taker_only", "true"),
            ("start", seconds_text(since_us)),
            ("end", seconds_text(until_us)),
            ("limit", str(self._config.page_limit_trades)),
        ]
        cursor, seen = "", set[str]()
        while True:
            answer = await self._data.get("/v2/trades", [*parameters, *([("cursor", cursor)] if cursor else [])])
            yield _rows(answer, "data")
            pagination = answer.get("pagination")
            if not isinstance(pagination, dict) or not pagination.get("has_more"):
                return
            cursor = pagination.get("next_cursor") or ""
            if not isinstance(cursor, str) or not cursor or cursor in seen:
                raise PageRepeated("GET /v2/trades answered no new cursor")
            seen.add(cursor)

    async def _keyset(self, path: str, key: str, parameters: Sequence[tuple[str, str]]) -> AsyncIterator[Sequence[Row]]:
        """All pages of a Gamma list; the last one has no ``next_cursor``.

        :raises PageRepeated: a cursor or the ids of a whole page came before.
        """
        cursor, cursors, pages = "", set[str](), set[tuple[object, ...]]()
        while True:
            answer = await self._gamma.get(path, [*parameters, *([("after_cursor", cursor)] if cursor else [])])
            rows = _rows(answer, key)
            ids = tuple(row.get("id") if isinstance(row, dict) else None for row in rows)
            if ids and ids in pages:
                raise PageRepeated(f"GET {path} answered the same page twice")
            pages.add(ids)
            yield rows
            cursor = answer.get("next_cursor") or ""
            if not isinstance(cursor, str):
                raise VenueAway(f"GET {path} answered a cursor that is no text")
            if not cursor:
                return
            if cursor in cursors:
                raise PageRepeated(f"GET {path} answered the same cursor twice")
            cursors.add(cursor)


def _rows(answer: Any, key: str) -> Sequence[Row]:
    try:
        return as_list(as_object(answer, "answer").get(key), key)
    except RowError as error:
        raise VenueAway(f"an answer without its list {key} ({error.reason})") from None
