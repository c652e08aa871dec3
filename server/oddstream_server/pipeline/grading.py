"""Grades: what one contract of each leg would have earned, once every market of a signal has settled."""

from collections.abc import Mapping, Sequence

from oddstream_server.application.ports import Catalog, Key, SignalFilter, SignalListFilter, SignalLog, StoredSignal
from oddstream_server.domain.grading import leg_edge_micros
from oddstream_server.domain.market import Market, Settlement, SettlementState
from oddstream_server.domain.signal import Grade, Leg, Signal, SignalEvent, SignalEventType

_PAGE = 500


def grade_of(signal: Signal, markets: Mapping[str, Market], revision: int, now_us: int) -> Grade | None:
    """Payout less limit less fee of one contract of each leg; None until every leg's market has settled for good.

    One void leg makes the grade a void: the basket was not what it was meant to be.
    """
    settlements: list[tuple[Leg, Market, Settlement]] = []
    for leg in signal.legs:
        market = markets.get(leg.market_id)
        settlement = market.settlement if market is not None else None
        if market is None or settlement is None or settlement.state is SettlementState.PROVISIONAL:
            return None
        settlements.append((leg, market, settlement))
    if any(s.void or s.yes_payout_micros is None for _, _, s in settlements):
        return Grade(revision, None, None, void=True, grade_time_us=now_us)
    edge = sum(
        leg_edge_micros(leg, leg.limit_price_micros, s.yes_payout_micros or 0, market, signal.input_time_us)
        for leg, market, s in settlements
    )
    return Grade(revision, edge, edge > 0, void=False, grade_time_us=now_us)


class Grader:
    """Finds the signals on settled markets and grades them, again when a settlement was amended."""

    def __init__(self, log: SignalLog, catalog: Catalog) -> None:
        self._log = log
        self._catalog = catalog

    async def graded(self, market_ids: Sequence[str], now_us: int) -> list[SignalEvent]:
        """GRADED events of signals with a leg in one of these markets whose grade is new or changed."""
        events: list[SignalEvent] = []
        after: Key | None = None
        where = SignalListFilter(
            match=SignalFilter(market_ids=tuple(market_ids), include_simulated=True, include_replay=True)
        )
        while True:
            page, _ = await self._log.list_signals(where, after, _PAGE)
            legs = {leg.market_id for stored in page.items for leg in stored.signal.legs}
            markets = await self._catalog.markets_by_id(sorted(legs)) if legs else {}
            for stored in page.items:
                event = _event(stored, markets, now_us)
                if event is not None:
                    events.append(event)
            if page.next_key is None:
                return events
            after = page.next_key


def _event(stored: StoredSignal, markets: Mapping[str, Market], now_us: int) -> SignalEvent | None:
    before: Grade | None = stored.grade
    grade = grade_of(stored.signal, markets, 1 if before is None else before.revision + 1, now_us)
    if grade is None:
        return None
    if before is not None and (before.realized_edge_micros, before.void) == (grade.realized_edge_micros, grade.void):
        return None
    return SignalEvent(
        type=SignalEventType.GRADED,
        signal=stored.signal,
        opening_strength_ppm=stored.opening_strength_ppm,
        opening_net_edge_micros=stored.opening_net_edge_micros,
        grade=grade,
        graded_state=stored.state,
        graded_end_time_us=stored.end_time_us,
    )
