"""Reading signals and the strategies that make them."""

from dataclasses import dataclass, replace

from oddstream_server.application.access.venue_scope import require_markets, require_venues, scoped_venues
from oddstream_server.application.calls.paging import PageRequest, page_of
from oddstream_server.application.ports import (
    Page,
    SignalListFilter,
    SignalLog,
    StoredSignal,
    StrategyCatalog,
)
from oddstream_server.domain.errors import NotFound
from oddstream_server.domain.strategy import StrategyDescription


@dataclass(frozen=True, slots=True)
class SignalPage:
    page: Page[StoredSignal]
    as_of_sequence: int
    """Head of the log when the page was read: a stream that starts here misses nothing after the page."""
    data_set_id: str


@dataclass(frozen=True, slots=True)
class StrategyFilter:
    kinds: tuple[str, ...] = ()
    enabled: bool | None = None

    def matches(self, strategy: StrategyDescription) -> bool:
        return (not self.kinds or strategy.kind in self.kinds) and (
            self.enabled is None or strategy.enabled is self.enabled
        )


class Signals:
    """The reading use cases of SignalService."""

    def __init__(self, signal_log: SignalLog, strategies: StrategyCatalog) -> None:
        self._signal_log = signal_log
        self._strategies = strategies

    async def list_signals(self, where: SignalListFilter, page: PageRequest) -> SignalPage:
        """Newest first. A signal with a leg on a venue that the caller may not see is left out."""
        where = replace(where, match=replace(where.match, within_venues=scoped_venues()))
        # The data set first: should it change in between, the caller's stream is refused and not silently wrong.
        bounds = await self._signal_log.bounds()
        found, head = await self._signal_log.list_signals(where, page.after, page.size)
        return SignalPage(found, head, bounds.data_set_id)

    async def get_signal(self, signal_id: str) -> StoredSignal:
        """:raises NotFound: SIGNAL_NOT_FOUND.
        :raises PermissionDenied: SCOPE_DENIED: a leg is on a venue that the caller may not see.
        """
        signal = await self._signal_log.get_signal(signal_id)
        if signal is None:
            raise NotFound("Signal", signal_id)
        require_venues([signal.signal.venue.value])
        require_markets(leg.market_id for leg in signal.signal.legs)
        return signal

    async def list_strategies(self, where: StrategyFilter, page: PageRequest) -> Page[StrategyDescription]:
        strategies = await self._strategies.list_strategies()
        return page_of([((s.strategy_id,), s) for s in strategies if where.matches(s)], page)

    async def get_strategy(self, strategy_id: str) -> StrategyDescription:
        """:raises NotFound: STRATEGY_NOT_FOUND."""
        for strategy in await self._strategies.list_strategies():
            if strategy.strategy_id == strategy_id:
                return strategy
        raise NotFound("Strategy", strategy_id)
