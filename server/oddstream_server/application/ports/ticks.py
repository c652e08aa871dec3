"""Quotes, trades and candles."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.domain.quote import Candle, CandleInterval, Quote, Trade


@dataclass(frozen=True, slots=True)
class TimeRange:
    """[from, to) by receive time; None is open."""

    from_us: int | None = None
    to_us: int | None = None


class TickReader(Protocol):
    """Quotes, trades, candles. Ticks are listed by (receive_time, ingest_sequence), candles by start."""

    async def list_quotes(self, market_id: str, span: TimeRange, after: Key | None, limit: int) -> Page[Quote]: ...

    async def list_trades(self, market_id: str, span: TimeRange, after: Key | None, limit: int) -> Page[Trade]: ...

    async def list_candles(
        self, market_id: str, interval: CandleInterval, span: TimeRange, after: Key | None, limit: int
    ) -> Page[Candle]: ...

    async def latest_quotes(self, market_ids: Sequence[str]) -> Mapping[str, Quote]: ...

    async def quotes_after(self, ingest_sequence: int, limit: int) -> Sequence[Quote]:
        """Live quotes in commit order after a sequence; what WatchQuotes reads when it is woken."""
        ...

    async def live_head(self) -> int:
        """The last committed ingest sequence of the live lane."""
        ...

    def replay(
        self, span: TimeRange, market_ids: Sequence[str] | None = None
    ) -> AsyncIterator[Sequence[Quote | Trade]]:
        """Stored ticks of every lane in (receive_time, ingest_sequence) order, in batches, with bounded memory."""
        ...
