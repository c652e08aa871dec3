"""The simulated world: books, trades and settlements on its own clock, without I/O.

``World.advance(to_us)`` answers everything that happens up to an instant, in order; how a span is cut into calls makes
no difference. What it answers is the venue's truth; losses, duplicates and delays are the feed's.
"""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from oddstream_server.application.ports import SettlementUpdate
from oddstream_server.domain.fees import schedule_at
from oddstream_server.domain.market import Event, Market, MarketState, Settlement, SettlementState, Venue, underlying_id
from oddstream_server.domain.money import MICROS
from oddstream_server.domain.quote import BookLevel, OrderBook
from oddstream_server.venues.simulated.config import SimulatedConfig
from oddstream_server.venues.simulated.draws import Draws
from oddstream_server.venues.simulated.maker import LevelChange, Maker, Print, price_grid
from oddstream_server.venues.simulated.path import Path, probability_above
from oddstream_server.venues.simulated.series import Listing, Series, all_series, listing

REMEMBER_US = 3_600_000_000
"""How long a settled event stays in the catalogue."""


@dataclass(frozen=True, slots=True)
class Listed:
    """An event opened."""

    time_us: int
    event: Event
    markets: tuple[Market, ...]


@dataclass(frozen=True, slots=True)
class BookChanged:
    """Everything that changed in one market's book at one instant, and its top afterwards."""

    time_us: int
    market_id: str
    changes: tuple[LevelChange, ...]
    bid: BookLevel | None
    ask: BookLevel | None


@dataclass(frozen=True, slots=True)
class Printed:
    """One fill of a taker's order; the book's change follows with the same instant."""

    time_us: int
    market_id: str
    trade_number: int
    """Counts the market's trades in this session, from 1."""
    fill: Print


@dataclass(frozen=True, slots=True)
class Resolved:
    """A market closed, was determined, settled or amended."""

    time_us: int
    update: SettlementUpdate


WorldItem = Listed | BookChanged | Printed | Resolved


class _Action(IntEnum):
    OPEN = 0
    CHANGE = 1
    TRADE = 2
    CLOSE = 3
    DETERMINE = 4
    SETTLE = 5
    AMEND = 6
    FORGET = 7
    MISPRICE = 8
    RECOVER = 9


_SETTLEMENT_STATE = {
    _Action.DETERMINE: SettlementState.PROVISIONAL,
    _Action.SETTLE: SettlementState.FINAL,
    _Action.AMEND: SettlementState.AMENDED,
}


class _LiveMarket:
    __slots__ = ("draws", "last_us", "leg", "maker", "market", "open_interest_micros", "owner", "trades", "volume")

    def __init__(self, owner: "_LiveEvent", leg: int, market: Market, maker: Maker, draws: Draws) -> None:
        self.owner, self.leg, self.market, self.maker, self.draws = owner, leg, market, maker, draws
        self.trades = self.volume = self.open_interest_micros = 0
        self.last_us = -1


class _LiveEvent:
    __slots__ = ("listing", "markets", "path")

    def __init__(self, item: Listing, path: Path | None) -> None:
        self.listing, self.path = item, path
        self.markets: list[_LiveMarket] = []


class World:
    """All series of a config from a start instant on.

    :param start_time_us: first instant; events that are open then are in the catalogue at once.
    """

    def __init__(self, config: SimulatedConfig, start_time_us: int) -> None:
        self.config = config
        self.start_time_us = start_time_us
        self.now_us = start_time_us
        self._series = all_series(config)
        self._by_series = {s.series_id: s for s in self._series}
        self._heap: list[tuple[int, int, _Action, Series | _LiveEvent | _LiveMarket | None]] = []
        self._order = 0
        self._events: dict[str, _LiveEvent] = {}
        self._markets: dict[str, _LiveMarket] = {}
        self._mispricing = Draws(config.seed, "mispricing", start_time_us)
        self._single_next = True
        self._first: list[WorldItem] = []
        for series in self._series:
            number = series.number_at(start_time_us)
            self._readmit(series, number - 1)
            self._open(series, number, start_time_us, self._first)
            self._at(series.open_us(number + 1), _Action.OPEN, series)
        self._first.sort(key=lambda item: not isinstance(item, Listed))
        self._await_mispricing(start_time_us)

    # --- reading --------------------------------------------------------------------------------------------------

    def next_time_us(self) -> int:
        """When something happens next."""
        return self._first[0].time_us if self._first else self._heap[0][0]

    def catalog(self) -> Iterator[tuple[Event, tuple[Market, ...]]]:
        """Open events and those of the last hour, with their markets as they are now."""
        for live in self._events.values():
            yield live.listing.event, tuple(self._shown(m) for m in live.markets)

    def market_ids(self) -> tuple[str, ...]:
        return tuple(self._markets)

    def market(self, market_id: str) -> Market | None:
        live = self._markets.get(market_id)
        return self._shown(live) if live else None

    def order_book(self, market_id: str, epoch: int = 0) -> OrderBook | None:
        """The book now; None for a market that is not in the catalogue."""
        live = self._markets.get(market_id)
        if live is None:
            return None
        bids, asks = live.maker.levels()
        return OrderBook(market_id, bids, asks, epoch, self.now_us, max(live.last_us, self.start_time_us))

    def prices(self) -> Iterator[tuple[str, int]]:
        """(id, price in micros) of what open events are about, where it has a price, as of now."""
        for live in self._events.values():
            if live.path is not None and live.listing.price is not None:
                price = live.listing.price_micros(live.path.at(self.now_us)[0])
                if price is not None:
                    yield underlying_id(Venue.SIMULATED, live.listing.event.venue_event_id), price

    def settlement_of(self, market_id: str) -> SettlementUpdate | None:
        """State and settlement as of now of any market that was ever listed, remembered or not; None for no such one.

        The result of an event follows from its number, so that a market which settled while no one looked is found.
        """
        live = self._markets.get(market_id)
        if live is not None:
            return SettlementUpdate(market_id, live.market.state, live.market.settlement)
        series_id, _, rest = market_id.partition(":")[2].partition("-")
        number, _, suffix = rest.partition("-")
        series = self._by_series.get(series_id)
        if series is None or not number.lstrip("-").isdigit() or int(number) > series.number_at(self.now_us):
            return None
        item, _path = listing(self.config, series, int(number))
        suffixes = [leg.suffix for leg in item.legs]
        if suffix not in suffixes:
            return None
        return self._update(item, suffixes.index(suffix), self.now_us)

    # --- time -----------------------------------------------------------------------------------------------------

    def advance(self, to_us: int) -> list[WorldItem]:
        """Everything after the last call up to and including ``to_us``, in order of time."""
        items, self._first = self._first, []
        heap = self._heap
        while heap and heap[0][0] <= to_us:
            time_us, _, action, subject = heapq.heappop(heap)
            self.now_us = time_us
            if isinstance(subject, _LiveMarket):
                self._market_action(time_us, action, subject, items)
            elif isinstance(subject, _LiveEvent):
                self._event_action(time_us, action, subject, items)
            elif isinstance(subject, Series):
                number = subject.number_at(time_us)
                self._open(subject, number, time_us, items)
                self._at(subject.open_us(number + 1), _Action.OPEN, subject)
            else:
                self._misprice(time_us, items)
        self.now_us = max(self.now_us, to_us)
        return items

    def _at(self, time_us: int, action: _Action, subject: "Series | _LiveEvent | _LiveMarket | None") -> None:
        self._order += 1
        heapq.heappush(self._heap, (time_us, self._order, action, subject))

    # --- events ---------------------------------------------------------------------------------------------------

    def _admit(self, item: Listing, path: Path | None) -> _LiveEvent:
        event = _LiveEvent(item, path)
        profile, grid = item.series.kind.profile, price_grid(item.series.kind.price_ranges)
        for leg, market in enumerate(item.markets):
            draws = Draws(self.config.seed, "book", market.market_id, self.start_time_us)
            live = _LiveMarket(event, leg, market, Maker(profile, grid, self.config.depth_levels, draws), draws)
            event.markets.append(live)
            self._markets[market.market_id] = live
        self._events[item.event.event_id] = event
        return event

    def _open(self, series: Series, number: int, now_us: int, items: list[WorldItem]) -> None:
        item, path = listing(self.config, series, number)
        event = self._admit(item, path)
        items.append(Listed(now_us, item.event, item.markets))
        for live in event.markets:
            changes = live.maker.requote(self._fair(live, now_us))
            self._changed(now_us, live, changes, items)
            self._at(now_us + live.maker.wait_us(self.config.activity_ppm), _Action.CHANGE, live)
            self._at(now_us + live.maker.trade_wait_us(self.config.activity_ppm), _Action.TRADE, live)
        self._at(item.close_us, _Action.CLOSE, event)

    def _readmit(self, series: Series, number: int) -> None:
        """Take in an event that closed before the start and may still have settlements ahead."""
        item, _path = listing(self.config, series, number)
        event = self._admit(item, None)
        for live in event.markets:
            update = self._update(item, live.leg, self.start_time_us)
            live.market = replace(live.market, state=update.state, settlement=update.settlement)
        for time_us, action in self._life(item):
            if time_us > self.start_time_us:
                self._at(time_us, action, event)
        self._at(max(self.start_time_us, self._life(item)[-1][0]) + REMEMBER_US, _Action.FORGET, event)

    def _life(self, item: Listing) -> list[tuple[int, _Action]]:
        """What comes after the close, in order."""
        config = self.config
        determined = item.close_us + config.determination_delay_us
        settled = determined + config.settlement_delay_us
        life = [(determined, _Action.DETERMINE), (settled, _Action.SETTLE)]
        if item.amended and not item.void:
            life.append((settled + config.amendment_delay_us, _Action.AMEND))
        return life

    def _update(self, item: Listing, leg: int, now_us: int) -> SettlementUpdate:
        """State and settlement of one leg at an instant."""
        market_id = item.markets[leg].market_id
        done = [(time_us, action) for time_us, action in self._life(item) if time_us <= now_us]
        if not done:
            state = MarketState.OPEN if now_us < item.close_us else MarketState.CLOSED
            return SettlementUpdate(market_id, state, None)
        actions = [action for _, action in done]
        wrong = item.amended and not item.void and _Action.AMEND not in actions
        wins = item.payouts(item.wrong_end() if wrong else item.end)[leg]
        settlement = Settlement(
            state=_SETTLEMENT_STATE[actions[-1]],
            yes_payout_micros=None if item.void else (MICROS if wins else 0),
            revision=len(done),
            determined_time_us=done[0][0],
            known_time_us=done[-1][0],
            paid_time_us=done[1][0] if len(done) > 1 else None,
            void=item.void,
        )
        market_state = MarketState.DETERMINED if len(done) == 1 else MarketState.SETTLED
        return SettlementUpdate(market_id, market_state, settlement)

    def _event_action(self, time_us: int, action: _Action, event: _LiveEvent, items: list[WorldItem]) -> None:
        item = event.listing
        if action is _Action.FORGET:
            del self._events[item.event.event_id]
            for live in event.markets:
                del self._markets[live.market.market_id]
            return
        if action is _Action.CLOSE:
            event.path = None
            life = self._life(item)
            for due_us, next_action in life:
                self._at(due_us, next_action, event)
            self._at(life[-1][0] + REMEMBER_US, _Action.FORGET, event)
        for live in event.markets:
            if action is _Action.CLOSE:
                self._changed(time_us, live, live.maker.clear(), items)
            update = self._update(item, live.leg, time_us)
            live.market = replace(live.market, state=update.state, settlement=update.settlement)
            items.append(Resolved(time_us, update))

    # --- markets --------------------------------------------------------------------------------------------------

    def _market_action(self, time_us: int, action: _Action, live: _LiveMarket, items: list[WorldItem]) -> None:
        if time_us >= live.owner.listing.close_us:
            return
        if live.last_us == time_us:  # one change of a book an instant
            self._at(time_us + 1, action, live)
            return
        activity = self.config.activity_ppm
        if action is _Action.TRADE:
            fair = self._fair(live, time_us)
            prints, changes = live.maker.take(live.draws.chance(fair // 2 + 250_000))
            for fill in prints:
                live.trades += 1
                live.volume += fill.size_micros
                live.open_interest_micros += fill.size_micros // 2
                items.append(Printed(time_us, live.market.market_id, live.trades, fill))
            self._changed(time_us, live, changes, items)
            self._at(time_us + live.maker.trade_wait_us(activity), _Action.TRADE, live)
            return
        if action is _Action.RECOVER:
            live.maker.offset_micros = 0
        self._changed(time_us, live, live.maker.requote(self._fair(live, time_us)), items)
        if action is _Action.CHANGE:
            self._at(time_us + live.maker.wait_us(activity), _Action.CHANGE, live)

    def _changed(self, time_us: int, live: _LiveMarket, changes: list[LevelChange], items: list[WorldItem]) -> None:
        if changes:
            live.last_us = time_us
            maker = live.maker
            items.append(BookChanged(time_us, live.market.market_id, tuple(changes), maker.best_bid, maker.best_ask))

    def _fair(self, live: _LiveMarket, now_us: int) -> int:
        path = live.owner.path
        if path is None:
            raise RuntimeError(f"{live.market.market_id} is closed and has no fair value")
        level, deviation = path.at(now_us)
        leg = live.owner.listing.legs[live.leg]
        above_floor = MICROS if leg.floor is None else probability_above(level, leg.floor, deviation)
        above_cap = 0 if leg.cap is None else probability_above(level, leg.cap, deviation)
        return max(0, above_floor - above_cap)

    def _shown(self, live: _LiveMarket) -> Market:
        return replace(live.market, volume_micros=live.volume, open_interest_micros=live.open_interest_micros)

    # --- mispricings ----------------------------------------------------------------------------------------------

    def _await_mispricing(self, now_us: int) -> None:
        mean = self.config.mispricing_interval_us
        if mean is not None:
            self._at(now_us + self._mispricing.between(mean // 2, mean * 3 // 2), _Action.MISPRICE, None)

    def _misprice(self, time_us: int, items: list[WorldItem]) -> None:
        """Let the maker of one market stand off its fair value for a few seconds."""
        self._await_mispricing(time_us)
        draws = self._mispricing
        hold_us = draws.between(3_000_000, 8_000_000)
        edge = draws.between(10_000, 40_000)
        chosen = draws.word()
        candidates = [
            (live, offset)
            for event in self._events.values()
            if event.listing.series.kind.mispriced and event.listing.close_us > time_us + hold_us
            for live, offset in self._mistake(event, time_us, edge)
            if live.maker.offset_micros == 0 and live.last_us != time_us
        ]
        # Single markets and baskets take turns, so that either kind is never far.
        self._single_next = not self._single_next
        turn = [c for c in candidates if (len(c[0].owner.markets) == 1) is self._single_next] or candidates
        if not turn:
            return
        live, offset = turn[chosen % len(turn)]
        live.maker.offset_micros = offset
        self._changed(time_us, live, live.maker.requote(self._fair(live, time_us)), items)
        self._at(time_us + hold_us, _Action.RECOVER, live)

    def _mistake(self, event: _LiveEvent, time_us: int, edge: int) -> list[tuple[_LiveMarket, int]]:
        """The market of an event that can be mispriced, and by how much: enough to pay for the fees of the basket."""
        if event.path is None:
            return []
        if len(event.markets) == 1:
            live = event.markets[0]
            fair = self._fair(live, time_us)
            if not 50_000 < fair < 950_000:
                return []
            return [(live, (150_000 + edge) * (1 if fair < MICROS // 2 else -1))]
        schedule = schedule_at(event.markets[0].market.fee_schedules, time_us)
        total = 0
        for live in event.markets:
            ask = live.maker.best_ask
            if ask is None:
                return []
            total += ask.price_micros + (schedule.fill_fee_micros(ask.price_micros, MICROS) if schedule else 0)
        dearest = max(event.markets, key=lambda m: self._fair(m, time_us))
        needed = total - MICROS + edge
        return [(dearest, -needed)] if self._fair(dearest, time_us) > needed + 50_000 else []
