"""The touch one quote later: of each leg of a signal the first usable quote of its market after the triggering row.

What a bot gets that orders when it sees the signal. Usable is a book with two sides that don't cross.
"""

from collections.abc import Iterable, Sequence

from oddstream_server.application.ports import NextQuote, WaitingQuote
from oddstream_server.domain.grading import Touch
from oddstream_server.domain.quote import Quote, Trade
from oddstream_server.domain.signal import DataOrigin, SignalEvent, SignalEventType

_MADE = (SignalEventType.CREATED, SignalEventType.REVISED)


class NextQuotes:
    """Who waits, by market. What :meth:`see` changed is kept by :meth:`commit` or undone by :meth:`rollback`."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[WaitingQuote]] = {}
        self._staged: dict[str, list[WaitingQuote]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def restore(self, waiting: Iterable[WaitingQuote]) -> None:
        """Forget everything and go on with these."""
        self._waiting, self._staged = {}, {}
        for one in waiting:
            self._waiting.setdefault(one.market_id, []).append(one)

    def see(self, ticks: Sequence[Quote | Trade], events: Sequence[SignalEvent]) -> tuple[NextQuote, ...]:
        """The quotes among ticks in order that somebody waited for, the signals of this batch included."""
        staged: dict[str, list[WaitingQuote]] = {}
        for one in waiting_of(events):
            staged.setdefault(one.market_id, list(self._waiting.get(one.market_id, ()))).append(one)
        found: list[NextQuote] = []
        for tick in ticks:
            held = staged.get(tick.market_id) or self._held(tick.market_id, staged)
            if not held or not isinstance(tick, Quote) or (touch := _touch(tick)) is None:
                continue
            found += [NextQuote(w.signal_id, w.leg_number, touch) for w in held if w.after_us < touch.receive_time_us]
            staged[tick.market_id] = [w for w in held if w.after_us >= touch.receive_time_us]
        self._staged = staged
        return tuple(found)

    def _held(self, market_id: str, staged: dict[str, list[WaitingQuote]]) -> list[WaitingQuote] | None:
        return None if market_id in staged else self._waiting.get(market_id)

    def commit(self) -> None:
        for market_id, rest in self._staged.items():
            if rest:
                self._waiting[market_id] = rest
            else:
                self._waiting.pop(market_id, None)
        self._staged = {}

    def rollback(self) -> None:
        self._staged = {}


def waiting_of(events: Iterable[SignalEvent]) -> list[WaitingQuote]:
    """The legs of new signals. What a replay says is of long ago: the next quote to come is not its next."""
    return [
        WaitingQuote(event.signal.signal_id, number, leg.market_id, event.signal.input_time_us)
        for event in events
        if event.type in _MADE and event.signal.data_origin is not DataOrigin.REPLAY
        for number, leg in enumerate(event.signal.legs)
    ]


def _touch(quote: Quote) -> Touch | None:
    bid, ask = quote.bid_price_micros, quote.ask_price_micros
    if bid is None or ask is None or bid >= ask:
        return None
    return Touch(bid, ask, quote.receive_time_us)
