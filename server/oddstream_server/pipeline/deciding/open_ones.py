"""Open opportunities as seen from outside of the ticks: by halts, and by what the log holds."""

from collections.abc import Iterable
from dataclasses import replace

from oddstream_server.domain.halt import HaltScope
from oddstream_server.domain.market import split_market_id
from oddstream_server.domain.signal import DataOrigin, Leg, SignalEvent
from oddstream_server.pipeline.deciding.memory import Memory
from oddstream_server.strategies import tracker


def covered(halts: Iterable[HaltScope], kind: str, legs: Iterable[Leg]) -> bool:
    """Whether a halt covers what would be signalled."""
    venues = {split_market_id(leg.market_id)[0] for leg in legs}
    return any(halt.covers(kind, venues) for halt in halts)


def farewells(memory: Memory, active: Iterable[SignalEvent]) -> list[SignalEvent]:
    """Make what is open here agree with the log; answers the ends of what is active there and open nowhere here."""
    rest = {e.signal.opportunity_id: e for e in active if e.signal.data_origin is not DataOrigin.REPLAY}
    for _, _, run in memory.runs():
        if run.opened is not None and rest.pop(run.opened.signal.opportunity_id, None) is None:
            run.opened = None
    return [
        replace(tracker.withdrawn(event, tracker.STRATEGY_CHANGED), sequence=0, create_time_us=0)
        for event in rest.values()
    ]
