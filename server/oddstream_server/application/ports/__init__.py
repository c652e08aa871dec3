"""What the use cases need from the outside, as protocols: storage, shared state, venues, strategies. One noun a file.

Conventions: every method may raise :class:`~oddstream_server.domain.errors.Unavailable` when its dependency is away;
lists are keyset pages in the documented order of each method; instants are microseconds since the epoch in UTC.
"""

from oddstream_server.application.ports.catalog import (
    Catalog,
    CatalogChange,
    EventFilter,
    MarketFilter,
    MarketLinkFilter,
)
from oddstream_server.application.ports.clock import Clock, HealthProbe
from oddstream_server.application.ports.keys import KeyStore, StoredKey
from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.application.ports.pipeline import (
    BatchResult,
    Decision,
    Fenced,
    Lease,
    PipelineStore,
    StrategyState,
)
from oddstream_server.application.ports.shared_state import BookCache, LimitDecision, RateLimiter
from oddstream_server.application.ports.signal_log import (
    LogBounds,
    SignalFilter,
    SignalListFilter,
    SignalLog,
    StoredSignal,
    WakeUps,
)
from oddstream_server.application.ports.strategies import StrategyCatalog
from oddstream_server.application.ports.ticks import TickReader, TimeRange
from oddstream_server.application.ports.venues import (
    CatalogPage,
    DiscoveryReport,
    QuarantinedRow,
    SettlementUpdate,
    VenueAdapter,
    VenueItem,
    VenueSink,
)

__all__ = [
    "BatchResult",
    "BookCache",
    "Catalog",
    "CatalogChange",
    "CatalogPage",
    "Clock",
    "Decision",
    "DiscoveryReport",
    "EventFilter",
    "Fenced",
    "HealthProbe",
    "Key",
    "KeyStore",
    "Lease",
    "LimitDecision",
    "LogBounds",
    "MarketFilter",
    "MarketLinkFilter",
    "Page",
    "PipelineStore",
    "QuarantinedRow",
    "RateLimiter",
    "SettlementUpdate",
    "SignalFilter",
    "SignalListFilter",
    "SignalLog",
    "StoredKey",
    "StoredSignal",
    "StrategyCatalog",
    "StrategyState",
    "TickReader",
    "TimeRange",
    "VenueAdapter",
    "VenueItem",
    "VenueSink",
    "WakeUps",
]
