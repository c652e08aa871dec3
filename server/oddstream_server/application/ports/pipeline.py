"""The leader's writes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from oddstream_server.application.ports.venues import QuarantinedRow
from oddstream_server.domain.grading import Touch
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedStatus, OrderBook, Quote, Trade
from oddstream_server.domain.signal import DataOrigin, SignalEvent


@dataclass(frozen=True, slots=True)
class StrategyState:
    """A checkpoint: the kernel's state bytes and the tracker's open opportunities of one strategy on one subject."""

    strategy_id: str
    subject_id: str
    kernel: bytes
    opportunities: bytes


@dataclass(frozen=True, slots=True)
class WaitingQuote:
    """A leg of a signal whose market hasn't had a usable quote since."""

    signal_id: str
    leg_number: int
    market_id: str
    after_us: int
    """Receive time of the row that triggered the signal."""


@dataclass(frozen=True, slots=True)
class NextQuote:
    """The touch one quote later of a signal's leg."""

    signal_id: str
    leg_number: int
    touch: Touch


@dataclass(frozen=True, slots=True)
class HitRate:
    """How often a strategy's graded signals had a positive realised edge."""

    strategy_id: str
    kind_version: int
    params_digest: str
    data_origin: DataOrigin
    graded_count: int
    rate_ppm: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What the strategies make of a stored batch."""

    events: tuple[SignalEvent, ...] = ()
    """In order, without sequence."""
    states: tuple[StrategyState, ...] = ()
    """Only those that changed."""
    next_quotes: tuple[NextQuote, ...] = ()
    """Of these signals and of earlier ones."""


@dataclass(frozen=True, slots=True)
class BatchResult:
    quotes_inserted: int
    trades_inserted: int
    duplicates: int
    ingest_sequence: int
    """Head of the lane after the batch."""
    events: tuple[SignalEvent, ...]
    """As the log took them: numbered, known ones dropped."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write, by number: a higher epoch fences every lower one off."""

    epoch: int
    holder: str
    expire_time_us: int


class Fenced(Exception):
    """Another leader holds a higher epoch: stop writing at once; nothing of the transaction was kept."""


class ControlsChanged(Exception):
    """Operators changed what the pipeline has to obey: read the controls again; nothing of the batch was kept."""


class PipelineStore(Protocol):
    """The leader's writes. Each method is one transaction."""

    async def acquire_lease(self, holder: str, ttl_us: int) -> Lease | None:
        """Take the leadership if it is free or run out, with a new epoch; None while another holds it."""
        ...

    async def renew_lease(self, lease: Lease, ttl_us: int, report: Mapping[str, Any] | None = None) -> Lease:
        """:param report: how the leader does, in its own words, for those who ask.
        :raises Fenced: another holder took over.
        """
        ...

    async def release_lease(self, lease: Lease) -> None: ...

    async def store_batch(
        self,
        lease: Lease,
        ticks: Sequence[Quote | Trade],
        decide: Callable[[Sequence[Quote | Trade]], Decision],
        controls_revision: int | None = None,
    ) -> BatchResult:
        """Store ticks once, let the strategies see the rows really inserted, keep what they decide, move the position.

        Without ticks ``decide`` is called all the same (a market closed while no tick comes); where all ticks were
        known already it is not.

        ``decide`` gets the inserted ticks in order with their ingest sequences and must not do I/O. Candles, states,
        events, head and position are in the same transaction.

        :param controls_revision: of the controls that ``decide`` obeys; None where it obeys none.
        :raises Fenced: the lease's epoch is no longer the head's; nothing was kept.
        :raises ControlsChanged: the controls have another revision by now; nothing was kept.
        """
        ...

    async def record_books(self, lease: Lease, books: Sequence[OrderBook], levels: int) -> int:
        """Keep books for backtests, each once by (market, receive time); answers how many were handed over.

        :param levels: how many of each side are kept, from the best on.
        :raises Fenced: another holder took over.
        """
        ...

    async def append_events(self, lease: Lease, events: Sequence[SignalEvent]) -> tuple[SignalEvent, ...]:
        """Append events outside of a batch (expiry, grading, halts); known ones are dropped."""
        ...

    async def load_states(self, strategy_ids: Sequence[str]) -> Sequence[StrategyState]: ...

    async def delete_states(self, lease: Lease, subject_ids: Sequence[str]) -> None:
        """Delete every strategy's checkpoints of these subjects.

        :raises Fenced: another holder took over.
        """
        ...

    async def active_signals(self) -> Sequence[SignalEvent]:
        """The last CREATED or REVISED event of every opportunity that is still ACTIVE."""
        ...

    async def waiting_quotes(self) -> Sequence[WaitingQuote]:
        """The legs of signals that aren't graded and still wait for a quote."""
        ...

    async def hit_rates(self, minimum_graded: int) -> Sequence[HitRate]:
        """Of strategies, as they were configured, with so many graded signals or more of one origin."""
        ...

    async def save_feed_status(self, status: FeedStatus) -> None: ...

    async def quarantine(self, rows: Sequence[QuarantinedRow]) -> None: ...

    async def begin_run(self, venue: Venue | None, stage: str, now_us: int) -> str:
        """Record a pipeline run; answers its id (``run_...``)."""
        ...

    async def end_run(self, run_id: str, now_us: int, counts: Mapping[str, int], error: str | None = None) -> None: ...

    async def prepare_partitions(self, now_us: int) -> Sequence[str]:
        """Make the partitions of this month and the next two; answers the names of new ones."""
        ...
