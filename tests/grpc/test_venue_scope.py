"""A key that is narrowed to venues: nothing of another venue reaches it, by no method."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from oddstream.v1 import admin_service_pb2, backtest_service_pb2, market_service_pb2, signal_service_pb2, venue_pb2
from oddstream_server.application.backtests import within_scopes
from oddstream_server.application.ports import SignalFilter
from oddstream_server.domain.backtest import BacktestSpec, StrategySelection
from oddstream_server.domain.errors import PermissionDenied
from oddstream_server.domain.market import Venue
from oddstream_server.domain.principal import Principal, Role, Scopes
from oddstream_server.domain.signal import DataOrigin
from oddstream_server.feed.signals.filters import CompiledFilter, EventFacts, filter_digest
from oddstream_server.interceptors.access.venue_scope import named_venues
from tests.grpc.running_server import CONTRACT, bearer, failure_of
from tests.grpc.stored_world import EVENT, MARKET, OTHER, QUIET, StoredWorld, stored_world

OUTSIDE = "polymarket:0x" + "b" * 64
MODULES = {
    "MarketService": market_service_pb2,
    "SignalService": signal_service_pb2,
    "AdminService": admin_service_pb2,
    "BacktestService": backtest_service_pb2,
}
_IDS = ("market_id", "market_ids", "event_id", "event_ids")


@pytest.fixture
async def stored(database_url: str, redis_url: str) -> AsyncIterator[StoredWorld]:
    async with stored_world(database_url, redis_url) as stored:
        yield stored


def scoped(stored: StoredWorld, *venues: Venue, role: Role = Role.VIEWER) -> tuple[tuple[str, str], ...]:
    return bearer(stored.server.world.issue(role, scopes=Scopes(venues=venues)).key.text)


def paths(descriptor: Descriptor, above: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """Every way from a request down to a field that names a venue."""
    for field in descriptor.fields:
        here = (*above, field)
        if (field.enum_type is not None and field.enum_type.name == "Venue") or field.name in _IDS:
            yield here
        elif field.message_type is not None and field.message_type.file.package == "oddstream.v1":
            yield from paths(field.message_type, here)


def naming(descriptor: Descriptor, path: tuple[FieldDescriptor, ...]) -> Message:
    """A request that names a venue outside at the end of a path and is empty but for that."""
    request: Message = message_factory.GetMessageClass(descriptor)()
    here: Any = request
    for field in path[:-1]:
        here = getattr(here, field.name).add() if field.is_repeated else getattr(here, field.name)
    last = path[-1]
    value = OUTSIDE if last.enum_type is None else venue_pb2.VENUE_POLYMARKET
    if last.is_repeated:
        getattr(here, last.name).append(value)
    else:
        setattr(here, last.name, value)
    return request


def request_of(method: Any) -> Descriptor:
    service = MODULES[method.service].DESCRIPTOR.services_by_name[method.service]
    found: Descriptor = service.methods_by_name[method.name].input_type
    return found


async def test_no_method_takes_the_name_of_a_venue_outside(stored: StoredWorld) -> None:
    auth = scoped(stored, Venue.KALSHI, role=Role.ADMIN)
    denied = set()
    for name, method in CONTRACT.methods.items():
        descriptor = request_of(method)
        for path in paths(descriptor):
            request = naming(descriptor, path)
            assert "polymarket" in list(named_venues(request)), (name, path)
            call: Any = stored.server.channel.unary_stream(name)(request.SerializeToString(), metadata=auth)
            failure = await failure_of(call)
            if failure.code is grpc.StatusCode.INVALID_ARGUMENT:
                continue  # the rules of the message come first, and this one is empty but for the venue
            assert (failure.code, failure.reason) == (grpc.StatusCode.PERMISSION_DENIED, "SCOPE_DENIED"), (name, path)
            assert failure.metadata == {"venue": "polymarket"}
            denied.add(method.name)
    assert denied >= {
        "ListEvents", "GetEvent", "ListMarkets", "GetMarket", "BatchGetMarkets", "GetOrderBook", "ListQuotes",
        "ListTrades", "ListMarketLinks", "WatchQuotes", "ListSignals", "WatchSignals", "ListExecutions",
        "ListPipelineRuns",
    }  # fmt: skip


async def test_lists_without_a_filter_show_what_the_scopes_leave(stored: StoredWorld) -> None:
    pb, markets = market_service_pb2, stored.server.markets
    seen = {}
    for venue in (Venue.KALSHI, Venue.POLYMARKET):
        auth = scoped(stored, venue)
        listed = (await markets.ListMarkets(pb.ListMarketsRequest(), metadata=auth)).markets
        seen[venue] = {market.market_id for market in listed}
        events = (await markets.ListEvents(pb.ListEventsRequest(), metadata=auth)).events
        assert {event.event_id for event in events} == ({EVENT} if venue is Venue.KALSHI else set())
        links = (await markets.ListMarketLinks(pb.ListMarketLinksRequest(), metadata=auth)).market_links
        assert not links, "one of the link's markets is elsewhere"
    assert seen == {Venue.KALSHI: {MARKET, QUIET}, Venue.POLYMARKET: {OTHER}}
    both = scoped(stored, Venue.KALSHI, Venue.POLYMARKET)
    assert len((await markets.ListMarketLinks(pb.ListMarketLinksRequest(), metadata=both)).market_links) == 1
    page = await markets.ListMarkets(pb.ListMarketsRequest(page_size=2), metadata=both)
    rest = pb.ListMarketsRequest(page_size=2, page_token=page.next_page_token)
    assert [m.market_id for m in (await markets.ListMarkets(rest, metadata=both)).markets] == [OTHER]


async def test_signals_with_a_leg_elsewhere_are_neither_listed_nor_told(stored: StoredWorld) -> None:
    pb, signals = signal_service_pb2, stored.server.signals
    inside, outside = scoped(stored, Venue.KALSHI), scoped(stored, Venue.POLYMARKET)
    assert len((await signals.ListSignals(pb.ListSignalsRequest(), metadata=inside)).signals) == 3
    assert not (await signals.ListSignals(pb.ListSignalsRequest(), metadata=outside)).signals
    get = pb.GetSignalRequest(signal_id=stored.signal_ids[0])
    await signals.GetSignal(get, metadata=inside)
    assert (await failure_of(signals.GetSignal(get, metadata=outside))).reason == "SCOPE_DENIED"


def test_a_stream_of_signals_within_venues_leaves_out_what_reaches_beyond_them() -> None:
    facts = EventFacts(
        venues=frozenset({"kalshi", "polymarket"}), event_id=None, market_ids=frozenset(), kind="arb.cross_venue",
        strategy_id="s", direction="up", opening_strength_ppm=1, opening_net_edge_micros=None,
        data_origin=DataOrigin.LIVE, offers=True, expire_time_us=0,
    )  # fmt: skip
    anything = SignalFilter(include_simulated=True, include_replay=True)
    one = SignalFilter(include_simulated=True, include_replay=True, within_venues=(Venue.KALSHI,))
    both = SignalFilter(include_simulated=True, include_replay=True, within_venues=(Venue.POLYMARKET, Venue.KALSHI))
    assert [CompiledFilter(where).matches(facts) for where in (anything, one, both)] == [True, False, True]
    assert len({filter_digest(where) for where in (anything, one, both)}) == 3


def test_a_backtest_that_names_no_venue_is_on_those_of_the_scopes() -> None:
    caller = Principal("key_a", Role.ANALYST, Scopes(venues=(Venue.KALSHI,)))
    spec = BacktestSpec((StrategySelection("stat.mean_reversion"),), 0, 1, 1_000_000)
    assert within_scopes(caller, spec).markets.venues == (Venue.KALSHI,)
    with pytest.raises(PermissionDenied, match="leave out the simulated venue"):
        within_scopes(caller, replace(spec, simulated=True))
