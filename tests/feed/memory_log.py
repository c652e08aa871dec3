"""A signal log in memory, with the faults of a database, and a codec whose messages a test can read."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from oddstream_server.application.ports import (
    Key,
    LogBounds,
    Page,
    SignalListFilter,
    StoredSignal,
    WakeUps,
)
from oddstream_server.domain.errors import Unavailable
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import FeedStatus
from oddstream_server.domain.signal import (
    Action,
    BookSide,
    DataOrigin,
    Direction,
    Leg,
    Signal,
    SignalEvent,
    SignalEventType,
    content_id,
)
from oddstream_server.feed.signals.batches import Position, Stretch
from oddstream_server.feed.signals.starts import StartAfter

START_US = 1_750_000_000_000_000


def make_leg(market_id: str) -> Leg:
    return Leg(
        market_id=market_id,
        outcome_index=0,
        venue_instrument_id=market_id.partition(":")[2],
        action=Action.BUY,
        limit_price_micros=430_000,
        book_side=BookSide.ASK,
        book_price_micros=430_000,
        available_size_micros=120_000_000,
        tick_micros=10_000,
        minimum_size_micros=1_000_000,
        size_step_micros=1_000_000,
        neg_risk=False,
        taker_delay_us=0,
        expected_fee_micros=17_200,
        book_epoch=1,
        book_receive_time_us=START_US,
    )


def make_event(
    event_type: SignalEventType = SignalEventType.CREATED,
    *,
    markets: Sequence[str] = ("kalshi:KXA-1",),
    event_id: str | None = "kalshi:KXA",
    kind: str = "stat.mean_reversion",
    strategy_id: str = "stat.mean_reversion:1",
    direction: Direction = Direction.UP,
    opening_strength_ppm: int = 500_000,
    opening_net_edge_micros: int | None = 20_000,
    origin: DataOrigin = DataOrigin.LIVE,
    expire_time_us: int = START_US * 2,
    number: int = 0,
) -> SignalEvent:
    signal = Signal(
        opportunity_id=content_id("opp", markets, number),
        revision=1,
        kind=kind,
        version=1,
        strategy_id=strategy_id,
        params_digest="0" * 64,
        subject_id=markets[0],
        venue=Venue(markets[0].partition(":")[0]),
        event_id=event_id,
        direction=direction,
        legs=tuple(make_leg(m) for m in markets),
        all_or_none=False,
        strength_ppm=opening_strength_ppm,
        net_edge_micros=opening_net_edge_micros,
        fair_value_micros=None,
        input_time_us=START_US,
        input_digest="0" * 64,
        expire_time_us=expire_time_us,
        lockup_until_us=None,
        data_origin=origin,
        evidence=(),
    ).identified()
    return SignalEvent(event_type, signal, opening_strength_ppm, opening_net_edge_micros)


class MemorySignalLog:
    """Fulfils SignalLog. ``down`` makes it raise as a database that is away; ``hold`` makes reads wait."""

    def __init__(self, data_set_id: str = "ds_aaaaaaaaaaaaaaaa") -> None:
        self.data_set_id = data_set_id
        self.events: list[SignalEvent] = []
        self.oldest_sequence = 1
        self.statuses: list[FeedStatus] = []
        self.active: list[SignalEvent] = []
        self.reads = 0
        self.down = False
        self.failing_reads = 0
        self.open_for_reads = asyncio.Event()
        self.open_for_reads.set()
        self.hidden = 0
        """So many of the newest events are not shown yet, as by a replica that lags."""

    def append(self, *events: SignalEvent) -> list[SignalEvent]:
        made = []
        for event in events:
            sequence = len(self.events) + 1
            made.append(replace(event, sequence=sequence, create_time_us=START_US + sequence * 1_000_000))
            self.events.append(made[-1])
        return made

    def trim(self, oldest_sequence: int) -> None:
        self.oldest_sequence = oldest_sequence

    @property
    def head(self) -> int:
        return len(self.events) - self.hidden

    async def _ask(self) -> None:
        await asyncio.sleep(0)
        if self.failing_reads:
            self.failing_reads -= 1
            raise Unavailable("the database is away")
        if self.down:
            raise Unavailable("the database is away")

    async def bounds(self) -> LogBounds:
        await self._ask()
        oldest = self.oldest_sequence
        first = self.events[oldest - 1] if oldest <= self.head else None
        return LogBounds(self.data_set_id, self.head, oldest, first.create_time_us if first else None)

    async def read(self, after_sequence: int, limit: int) -> Sequence[SignalEvent]:
        self.reads += 1
        await self.open_for_reads.wait()
        await self._ask()
        first = max(after_sequence, self.oldest_sequence - 1)
        return self.events[first : min(first + limit, self.head)]

    async def sequence_at(self, create_time_us: int) -> int:
        await self._ask()
        before = [
            e.sequence for e in self.events[self.oldest_sequence - 1 : self.head] if e.create_time_us < create_time_us
        ]
        return before[-1] if before else self.oldest_sequence - 1

    async def active_snapshot(self) -> tuple[int, Sequence[SignalEvent]]:
        await self._ask()
        return self.head, list(self.active)

    async def feed_statuses(self) -> Sequence[FeedStatus]:
        await self._ask()
        return list(self.statuses)

    async def get_signal(self, signal_id: str) -> StoredSignal | None:
        raise NotImplementedError

    async def list_signals(
        self, where: SignalListFilter, after: Key | None, limit: int
    ) -> tuple[Page[StoredSignal], int]:
        raise NotImplementedError

    def wake_ups(self, on_wake: Callable[[str], None]) -> WakeUps:
        raise NotImplementedError


@dataclass(frozen=True)
class ReadMessage:
    """A message as the readable codec writes it."""

    sequences: list[int]
    view: str
    after: int
    through: int
    head: int
    token: str | None


class ReadableCodec:
    """Messages as JSON; an event's fragment is its view and sequence."""

    def fragments(self, event: SignalEvent) -> tuple[bytes, bytes]:
        return b"basic %d\n" % event.sequence, b"full %d\n" % event.sequence

    def batch(self, fragments: Sequence[bytes], stretch: Stretch, resume_at: Position | None) -> bytes:
        body: dict[str, Any] = {
            "events": b"".join(fragments).decode(),
            "after": stretch.after,
            "through": stretch.through,
            "head": stretch.head,
            "token": None if resume_at is None else self.resume_token(resume_at),
        }
        return json.dumps(body).encode()

    def resume_token(self, position: Position) -> str:
        return f"{position.data_set_id}/{position.sequence}/{position.filter_digest.hex()}"


def parse_token(token: str) -> Position:
    data_set_id, sequence, digest = token.split("/")
    return Position(data_set_id, int(sequence), bytes.fromhex(digest))


def resume(token: str) -> StartAfter:
    position = parse_token(token)
    return StartAfter(position.data_set_id, position.sequence)


def read_message(batch: bytes) -> ReadMessage:
    body = json.loads(batch)
    lines = body["events"].splitlines()
    views = {line.split()[0] for line in lines}
    return ReadMessage(
        sequences=[int(line.split()[1]) for line in lines],
        view=views.pop() if views else "",
        after=body["after"],
        through=body["through"],
        head=body["head"],
        token=body["token"],
    )
