"""Markets by id: rows that are what they were the last time are not decoded again."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg
import orjson

from oddstream_server.application.calls.request import correlation_id
from oddstream_server.domain.market import Market
from oddstream_server.storage.markets.documents import Document, market_of

_KEPT = 4_096
_QUERY = (
    "SELECT market_id, state, volume_micros, open_interest_micros, update_time, body::text, settlement::text "
    "FROM markets WHERE market_id = ANY($1::text[]) AND $2::text IS NOT NULL"
)
"""The second parameter is the correlation id of the call that made the query necessary, for PostgreSQL's log of slow
statements: in the text it would make another statement of each call's."""


class _Row(NamedTuple):
    state: str
    volume_micros: int | None
    open_interest_micros: int | None
    update_time: int
    body: Document
    settlement: Document | None


class HeldMarkets:
    """Each read asks the database; what is saved is the work on what it answers. So nothing here can be stale."""

    def __init__(self) -> None:
        self._held: OrderedDict[str, tuple[asyncpg.Record, Market]] = OrderedDict()

    async def read(self, driver: "asyncpg.Connection[Any]", market_ids: Sequence[str]) -> Mapping[str, Market]:
        """Those of the markets that there are. The same object as before where the row is the same."""
        return {row[0]: self._market(row) for row in await driver.fetch(_QUERY, market_ids, correlation_id())}

    def _market(self, row: asyncpg.Record) -> Market:
        market_id: str = row[0]
        held = self._held.get(market_id)
        if held is not None and held[0] == row:
            self._held.move_to_end(market_id)
            return held[1]
        state, volume, interest, update_time, body, settlement = tuple(row)[1:]
        parsed = None if settlement is None else orjson.loads(settlement)
        market = market_of(_Row(state, volume, interest, update_time, orjson.loads(body), parsed))
        self._held[market_id] = (row, market)
        if len(self._held) > _KEPT:
            self._held.popitem(last=False)
        return market
