"""A simulated world with the memory that a venue's REST side needs: books as last told, trades, results."""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from oddstream_server.domain.market import Event, Market
from oddstream_server.venues.simulated import SimulatedConfig, World
from oddstream_server.venues.simulated.maker import LevelChange
from oddstream_server.venues.simulated.world import BookChanged, Listed, Printed, Resolved, WorldItem

TRADES_KEPT = 200_000


@dataclass(frozen=True, slots=True)
class LevelMove:
    """One level's size before and after."""

    bid: bool
    price_micros: int
    before_micros: int
    after_micros: int


@dataclass(frozen=True, slots=True)
class BookMoved:
    """All moves of one market's book at one instant."""

    time_us: int
    market_id: str
    moves: tuple[LevelMove, ...]


StageItem = Listed | BookMoved | Printed | Resolved


class MirrorBook:
    """Sizes by price of one market, as the venue has told them."""

    def __init__(self) -> None:
        self.bids: dict[int, int] = {}
        self.asks: dict[int, int] = {}

    def apply(self, change: LevelChange) -> LevelMove:
        side = self.bids if change.bid else self.asks
        before = side.pop(change.price_micros, 0)
        if change.size_micros:
            side[change.price_micros] = change.size_micros
        return LevelMove(change.bid, change.price_micros, before, change.size_micros)

    @property
    def best_bid(self) -> int | None:
        return max(self.bids, default=None)

    @property
    def best_ask(self) -> int | None:
        return min(self.asks, default=None)


class Stage:
    """The world that the emulators play; several may play one stage."""

    def __init__(self, config: SimulatedConfig, start_time_us: int) -> None:
        self.world = World(config, start_time_us)
        self.books: dict[str, MirrorBook] = {}
        self.trades: deque[Printed] = deque(maxlen=TRADES_KEPT)
        self.last_prices: dict[str, int] = {}
        self._listeners: list[Callable[[StageItem], None]] = []
        self.play(0)

    @property
    def now_us(self) -> int:
        return self.world.now_us

    def listen(self, listener: Callable[[StageItem], None]) -> None:
        """Call for each item, after the stage's own memory has it."""
        self._listeners.append(listener)

    def entries(self) -> list[tuple[Event, tuple[Market, ...]]]:
        return list(self.world.catalog())

    def markets(self) -> Iterable[Market]:
        for _, markets in self.world.catalog():
            yield from markets

    def book(self, market_id: str) -> MirrorBook:
        return self.books.setdefault(market_id, MirrorBook())

    def play(self, span_us: int) -> list[WorldItem]:
        """Advance the world and tell the listeners, without waiting for their sockets."""
        items = self.world.advance(self.world.now_us + span_us)
        for item in items:
            self._tell(item)
        return items

    def _tell(self, item: WorldItem) -> None:
        told: StageItem
        if isinstance(item, BookChanged):
            book = self.book(item.market_id)
            told = BookMoved(item.time_us, item.market_id, tuple(book.apply(change) for change in item.changes))
        else:
            told = item
            if isinstance(item, Printed):
                self.trades.append(item)
                self.last_prices[item.market_id] = item.fill.price_micros
        for listener in self._listeners:
            listener(told)
