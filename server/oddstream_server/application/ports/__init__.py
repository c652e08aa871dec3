"""What the use cases need from the outside, as protocols: storage, shared state, venues, strategies. One noun a file.

Conventions: every method may raise :class:`~oddstream_server.domain.errors.Unavailable` when its dependency is away;
lists are keyset pages in the documented order of each method; instants are microseconds since the epoch in UTC.
"""

from oddstream_server.application.ports.audit import Anchor, AnchorFile, AuditAppender, AuditFilter, AuditHead, AuditLog
from oddstream_server.application.ports.catalog import (
    Catalog,
    CatalogChange,
    EventFilter,
    MarketFilter,
    MarketLinkFilter,
)
from oddstream_server.application.ports.changes import (
    AnsweredRequests,
    ApiKeyFilter,
    Change,
    Changes,
    Controls,
    ControlsReader,
    FirstAnswer,
    KeyChange,
    KeyDirectory,
    KeyRecords,
    PipelineRunFilter,
    PipelineRunRecords,
    PipelineRunStore,
    RequestName,
    SealedSubject,
    SignalControls,
    SubjectRecords,
)
from oddstream_server.application.ports.clock import Clock, HealthProbe
from oddstream_server.application.ports.keys import KeyStore, StoredKey
from oddstream_server.application.ports.pages import Key, Page
from oddstream_server.application.ports.pipeline import (
    BatchResult,
    ControlsChanged,
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
from oddstream_server.application.ports.strategies import StrategyCatalog, StrategyRules
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
    "Anchor",
    "AnchorFile",
    "AnsweredRequests",
    "ApiKeyFilter",
    "AuditAppender",
    "AuditFilter",
    "AuditHead",
    "AuditLog",
    "BatchResult",
    "BookCache",
    "Catalog",
    "CatalogChange",
    "CatalogPage",
    "Change",
    "Changes",
    "Clock",
    "Controls",
    "ControlsChanged",
    "ControlsReader",
    "Decision",
    "DiscoveryReport",
    "EventFilter",
    "Fenced",
    "FirstAnswer",
    "HealthProbe",
    "Key",
    "KeyChange",
    "KeyDirectory",
    "KeyRecords",
    "KeyStore",
    "Lease",
    "LimitDecision",
    "LogBounds",
    "MarketFilter",
    "MarketLinkFilter",
    "Page",
    "PipelineRunFilter",
    "PipelineRunRecords",
    "PipelineRunStore",
    "PipelineStore",
    "QuarantinedRow",
    "RateLimiter",
    "RequestName",
    "SealedSubject",
    "SettlementUpdate",
    "SignalControls",
    "SignalFilter",
    "SignalListFilter",
    "SignalLog",
    "StoredKey",
    "StoredSignal",
    "StrategyCatalog",
    "StrategyRules",
    "StrategyState",
    "SubjectRecords",
    "TickReader",
    "TimeRange",
    "VenueAdapter",
    "VenueItem",
    "VenueSink",
    "WakeUps",
]
