"""Signals on recorded data: imported, run through the kernels, appended, and the same again byte for byte.

The recordings are private and not part of the project: ODDSTREAM_REAL_DATA names their folder, and without it these
tests are skipped.
"""

import gzip
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from oddstream_server.application.as_of import Journal
from oddstream_server.application.ports import EventFilter, TimeRange
from oddstream_server.domain.market import MarketState, Venue
from oddstream_server.domain.signal import DataOrigin, SignalEvent, SignalEventType
from oddstream_server.pipeline.deciding.replay import replay, replayed_events
from oddstream_server.pipeline.declarations import Declaration, Declarations
from oddstream_server.pipeline.imports.command import import_quotes
from oddstream_server.pipeline.imports.forms import form_named
from oddstream_server.storage.tick_store.imports import QuoteImports
from oddstream_server.strategies.registry import ConfiguredStrategy, Registry
from tests.pipeline.conftest import Stores

DATA = Path(os.environ.get("ODDSTREAM_REAL_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))

LONG = os.environ.get("ODDSTREAM_DRILL") == "long"
"""All ladders and all markets (`make drill-real-data`), not every tenth."""

pytestmark = [
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no recorded data at {DATA}; set ODDSTREAM_REAL_DATA"),
    pytest.mark.timeout(3_000 if LONG else 400),
    pytest.mark.no_cover,  # tracing would take most of the time, and shorter tests run the same lines
]

NOW_US = 1_795_000_000_000_000

LADDERS = Declarations(
    Declaration(
        venue=Venue.KALSHI,
        series_id=series,
        source="contract terms of the hourly ladders: adjoining ranges with open ends, one of which holds the price",
        reviewer="tests",
        exclusive=True,
        exhaustive=True,
    )
    for series in ("KXBTC", "KXETH")
)


TENTH_OF_A_DAY = {"created": 132, "revised": 271, "withdrawn": 89, "superseded": 2}
WHOLE_DAY = {"created": 1_525, "revised": 3_413, "withdrawn": 990, "superseded": 24}


async def load(path: Path, form: str, stores: Stores) -> int:
    report = await import_quotes(
        path,
        form_named(form),
        target=QuoteImports(stores.database, stores.ticks),
        catalog=stores.catalog,
        clock=lambda: NOW_US,
        candles=False,
    )
    assert report.rejected == 0
    return report.rows


async def signalled(
    stores: Stores, strategies: Sequence[ConfiguredStrategy], market_ids: Sequence[str] | None = None
) -> list[SignalEvent]:
    """Append what the strategies say of the stored ticks, and check that saying it again gives the same bytes."""
    lease = await stores.store.acquire_lease("replayer", 600_000_000)
    assert lease is not None
    result = await replay(
        reader=stores.ticks,
        catalog=stores.catalog,
        store=stores.store,
        lease=lambda: lease,
        strategies=strategies,
        span=TimeRange(),
        market_ids=market_ids,
    )
    logged = await stores.logged()
    assert result.appended == len(logged) == result.events
    again = [
        event
        async for events in replayed_events(
            stores.ticks, stores.catalog, Journal(), strategies, TimeRange(), market_ids
        )
        for event in events
    ]
    assert [e.canonical_bytes() for e in again] == [e.canonical_bytes() for e in logged]
    for event in logged:
        kind = next(s.kind for s in strategies if s.kind.kind == event.signal.kind)
        recomputed = kind.recompute(event.signal)
        assert recomputed.net_edge_micros == event.signal.net_edge_micros
        assert recomputed.strength_ppm == event.signal.strength_ppm
        assert event.signal.data_origin is DataOrigin.REPLAY
    return logged


def tenth_of_the_ladders(source: Path, target: Path, speaking: set[str]) -> Path:
    """A file with the ladders that speak and every tenth of the others."""
    with gzip.open(source, "rt") as whole:
        header, *rows = whole.readlines()
    ladder_of = [row.split(",", 3)[2] for row in rows]
    kept = speaking | set(sorted(set(ladder_of))[::10])
    with gzip.open(target, "wt") as part:
        part.writelines([header, *(row for row, ladder in zip(rows, ladder_of, strict=True) if ladder in kept)])
    return target


async def test_event_sums_over_the_hourly_crypto_ladders_once_they_are_declared(stores: Stores, tmp_path: Path) -> None:
    path = DATA / "kalshi/history/crypto_hourly_flat.csv.gz"
    speaking = {"KXBTC-26JUL0401", "KXETH-26JUL0602", "KXBTC-26JUL1120"}
    if not LONG:
        path = tenth_of_the_ladders(path, tmp_path / "part.csv.gz", speaking)
    assert await load(path, "kalshi_ladder", stores) == (161_116 if LONG else 16_943)
    strategies = [Registry().configure("arb.event_sum")]
    undeclared = replayed_events(stores.ticks, stores.catalog, Journal(), strategies, TimeRange())
    assert [event async for events in undeclared for event in events] == []
    page = await stores.catalog.list_events(EventFilter(), None, 1_000)
    assert len(page.items) == (666 if LONG else 70)
    await stores.catalog.upsert([LADDERS.apply(event) for event in page.items], [], NOW_US)
    events = await signalled(stores, strategies)
    assert {e.type for e in events} == {SignalEventType.CREATED}
    assert {e.signal.subject_id: (len(e.signal.legs), e.signal.net_edge_micros) for e in events} == {
        "kalshi:KXBTC-26JUL0401": (3, 9_900),
        "kalshi:KXETH-26JUL0602": (2, 23_900),
        "kalshi:KXBTC-26JUL1120": (2, 38_400),
    }
    assert all(leg.outcome_index == 1 for e in events for leg in e.signal.legs), "all three sell an overpriced event"


async def test_mean_reversion_over_a_day_of_polymarket_us(stores: Stores) -> None:
    path = DATA / "polymarket_us/quotes/dt=2026-07-10/data_0.parquet"
    assert await load(path, "polymarket_us", stores) == 783_350
    market_ids = sorted([m.market_id async for m in stores.catalog.all_markets((MarketState.CLOSED,), ())])
    assert len(market_ids) == 9_266
    events = await signalled(stores, [Registry().configure("stat.mean_reversion")], None if LONG else market_ids[::10])
    assert Counter(e.type.value for e in events) == (WHOLE_DAY if LONG else TENTH_OF_A_DAY)
