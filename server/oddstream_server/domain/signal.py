"""Opportunities, signals and the events of the signal log.

An opportunity is a condition that holds on a subject; a signal is one revision of it. A signal's id is a hash of its
content, so that a replay of the same input makes the same ids and the log refuses to hold them twice.
"""

import base64
import hashlib
import json
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self

from oddstream_server.domain import disclosures
from oddstream_server.domain.market import Venue

"""Code of the text in ``docs``: a signal is information, not advice; past edges need not come again."""


class DataOrigin(StrEnum):
    LIVE = "live"
    REPLAY = "replay"
    SIMULATED = "simulated"


class Action(StrEnum):
    BUY = "buy"
    SELL = "sell"


class BookSide(StrEnum):
    """Side of the venue's one book, in outcome-0 prices, that the order takes from."""

    BID = "bid"
    ASK = "ask"


class Direction(StrEnum):
    """Outcome 0 of the subject is too cheap (UP) or too dear (DOWN), or the signal is a basket of several legs."""

    UP = "up"
    DOWN = "down"
    BASKET = "basket"
    NONE = "none"
    """Points nowhere, as a gate does."""


class SignalState(StrEnum):
    ACTIVE = "active"
    SUPERSEDED = "superseded"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"


class SignalEventType(StrEnum):
    CREATED = "created"
    """The opportunity's first revision."""
    REVISED = "revised"
    """A further revision; the signal that it supersedes becomes SUPERSEDED."""
    SUPERSEDED = "superseded"
    """The opportunity ended because another one of the same kind on the same subject took its place."""
    WITHDRAWN = "withdrawn"
    """The condition no longer holds, a gate fired, or an operator withdrew or halted it."""
    EXPIRED = "expired"
    GRADED = "graded"

    @property
    def from_kernel(self) -> bool:
        """True where replaying the same input must give the same event, byte for byte."""
        return self in (
            SignalEventType.CREATED,
            SignalEventType.REVISED,
            SignalEventType.SUPERSEDED,
            SignalEventType.WITHDRAWN,
        )


_STATE_AFTER: Final = {
    SignalEventType.CREATED: SignalState.ACTIVE,
    SignalEventType.REVISED: SignalState.ACTIVE,
    SignalEventType.SUPERSEDED: SignalState.SUPERSEDED,
    SignalEventType.WITHDRAWN: SignalState.WITHDRAWN,
    SignalEventType.EXPIRED: SignalState.EXPIRED,
}


@dataclass(frozen=True, slots=True)
class Leg:
    """What one order needs; prices in the named outcome's terms and as the venue's book shows them."""

    market_id: str
    outcome_index: int
    venue_instrument_id: str
    action: Action
    limit_price_micros: int
    """In the price of ``outcome_index``."""
    book_side: BookSide
    book_price_micros: int
    """The same limit in outcome-0 prices."""
    available_size_micros: int | None
    """Size at or inside the limit when the signal was made; None where the venue doesn't tell."""
    tick_micros: int
    minimum_size_micros: int
    size_step_micros: int
    neg_risk: bool
    taker_delay_us: int
    expected_fee_micros: int | None
    """Fee of one fill at the limit for the available size (for one contract where that is unknown)."""
    book_epoch: int
    book_receive_time_us: int
    book_venue_time_us: int | None = None
    outcome_label: str = ""
    """The venue's label of the outcome, for people."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One input or intermediate of the signal's formula, enough to compute it again."""

    name: str
    value: int
    unit: str
    """micros, us, count, ppm (parts per million), bool."""
    source: str
    """The market id, the id of an underlying's price, ``params`` or ``derived``."""


@dataclass(frozen=True, slots=True)
class Grade:
    """How a signal did once its markets settled; a higher revision replaces it when a settlement is amended."""

    revision: int
    realized_edge_micros: int | None
    """Payout less limit cost less fee, for one contract of each leg; None for a void."""
    correct: bool | None
    void: bool
    grade_time_us: int


@dataclass(frozen=True, slots=True)
class Signal:
    """One revision of an opportunity."""

    opportunity_id: str
    revision: int
    kind: str
    version: int
    strategy_id: str
    """The configured instance: kind plus a short digest of its params."""
    params_digest: str
    subject_id: str
    """The market id or event id that the condition holds on."""
    venue: Venue
    """Venue of the first leg; the filter looks at every leg."""
    event_id: str | None
    direction: Direction
    legs: tuple[Leg, ...]
    all_or_none: bool
    strength_ppm: int
    """0 to 1_000_000: strength x 10^6, quantised before hashing."""
    net_edge_micros: int | None
    """Edge a contract (or a basket of one each) after fees; None for a kind without a price edge."""
    fair_value_micros: int | None
    input_time_us: int
    """Receive time of the row that triggered it."""
    input_digest: str
    """Hash of the normalised rows that it was computed from."""
    expire_time_us: int
    lockup_until_us: int | None
    data_origin: DataOrigin
    evidence: tuple[Evidence, ...]
    confidence_ppm: int | None = None
    supersedes_signal_id: str | None = None
    disclaimer_code: str = disclosures.SIGNAL
    signal_id: str = field(default="")
    """Set by :meth:`identified`."""

    def identified(self) -> Self:
        """The same signal with its content id: ``sig_`` and 32 characters of lower-case base32."""
        content = (
            self.kind,
            self.version,
            self.params_digest,
            self.subject_id,
            self.opportunity_id,
            self.revision,
            self.input_digest,
        )
        return replace(self, signal_id=content_id("sig", *content))


@dataclass(frozen=True, slots=True)
class SignalEvent:
    """One entry of the signal log. ``sequence`` and ``create_time_us`` are set by the log when it commits."""

    type: SignalEventType
    signal: Signal
    """The revision that the event makes or ends."""
    opening_strength_ppm: int
    """Of the opportunity's first revision: what a filter's minimum compares with, on each of its events."""
    opening_net_edge_micros: int | None
    reason: str = ""
    """For WITHDRAWN: CONDITION_ENDED, GATE_STALE, GATE_CROSSED, GATE_GAP, MARKET_CLOSED, HALTED, OPERATOR."""
    superseded_by_opportunity_id: str | None = None
    grade: Grade | None = None
    graded_state: SignalState | None = None
    """For GRADED: the state that the signal has, which a grade leaves as it is."""
    graded_end_time_us: int | None = None
    """For GRADED: when the signal stopped being ACTIVE; None while it is."""
    sequence: int = 0
    create_time_us: int = 0

    @property
    def state_after(self) -> SignalState:
        """The signal's state once the event happened."""
        if self.type is SignalEventType.GRADED:
            return SignalState.EXPIRED if self.graded_state is None else self.graded_state
        return _STATE_AFTER[self.type]

    @property
    def end_time_us(self) -> int | None:
        """When the signal stopped being ACTIVE; None while it is."""
        if self.type is SignalEventType.GRADED:
            return self.graded_end_time_us
        return None if self.state_after is SignalState.ACTIVE else self.create_time_us

    @property
    def event_key(self) -> str:
        """Identity of the event in the log: appending the same key again is ignored."""
        revision = self.grade.revision if self.grade else 0
        return f"{self.signal.signal_id}/{self.type.value}/{revision}"

    def canonical_bytes(self) -> bytes:
        """The kernel's part of the event: equal for live, replay and batch of the same input.

        Sequence, create time and data origin stand outside, and so does the confidence: it comes from the record of
        signals graded by then, which is no input of the kernel.
        """
        body = plain(self)
        for name in ("sequence", "create_time_us", "graded_state", "graded_end_time_us"):
            del body[name]
        for name in ("data_origin", "confidence_ppm"):
            del body["signal"][name]
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def content_id(prefix: str, *parts: object) -> str:
    """``<prefix>_`` and 160 bits of SHA-256 over the parts in lower-case base32."""
    body = json.dumps(parts, separators=(",", ":"), ensure_ascii=True, default=str).encode()
    digest = hashlib.sha256(body).digest()[:20]
    return f"{prefix}_{base64.b32encode(digest).decode().lower()}"


def plain(value: object) -> Any:  # JSON has no narrower static type
    """A dataclass as JSON values: dicts, lists, strings, integers, booleans, None."""
    kind = type(value)
    names = _FIELDS.get(kind)
    if names is None:
        names = _FIELDS[kind] = _field_names(kind)
    if names:
        return {name: plain(getattr(value, name)) for name in names}
    if isinstance(value, (list, tuple)):  # a union type takes three times as long to ask
        return [plain(v) for v in value]
    return value.value if isinstance(value, StrEnum) else value


def _field_names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind)) if is_dataclass(kind) else ()


_FIELDS: dict[type, tuple[str, ...]] = {}
"""By type, looked up once: every event is written out several times."""


def signal_event_from_plain(body: dict[str, Any]) -> SignalEvent:
    """The inverse of :func:`plain` for a stored event."""
    raw = body["signal"]
    signal = Signal(
        **{
            **raw,
            "venue": Venue(raw["venue"]),
            "direction": Direction(raw["direction"]),
            "data_origin": DataOrigin(raw["data_origin"]),
            "legs": tuple(
                Leg(**{**leg, "action": Action(leg["action"]), "book_side": BookSide(leg["book_side"])})
                for leg in raw["legs"]
            ),
            "evidence": tuple(Evidence(**e) for e in raw["evidence"]),
        }
    )
    return SignalEvent(
        **{
            **body,
            "type": SignalEventType(body["type"]),
            "signal": signal,
            "grade": Grade(**body["grade"]) if body["grade"] else None,
            "graded_state": SignalState(state) if (state := body.get("graded_state")) else None,
        }
    )
