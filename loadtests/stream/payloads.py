"""What is sent: a pool of real signals that repeats, in entries of 101 bytes or as they are, and filters on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from loadtests.stream.signals import EVENTS, event_id, made_event, market_ids
from oddstream.v1 import signal_pb2, signal_service_pb2
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.transport.converters.streams import SignalWireCodec, entry

ENTRY_BYTES = 101
POOL = 1_000
"""Signal of sequence n is number n modulo this, so that a client can tell what a filter must have let pass."""
FILTERS = 200
_THIRD = FILTERS // 4


class SmallCodec(SignalWireCodec):
    """Entries of 101 bytes, whatever the event, for comparison with other designs."""

    def fragments(self, event: SignalEvent) -> tuple[bytes, bytes]:
        message = signal_pb2.SignalEvent(sequence=event.sequence)
        message.create_time.FromMicroseconds(event.create_time_us)
        room = ENTRY_BYTES - message.ByteSize() - 8
        message.signal.signal_id = "s" * room
        while message.ByteSize() < ENTRY_BYTES:
            room += 1
            message.signal.signal_id = "s" * room
        fragment = entry(1, message.SerializeToString())
        return fragment, fragment


@dataclass(frozen=True, slots=True)
class Payload:
    """How a signal goes over the wire.

    :param view: index of the fragment that subscribers ask for.
    """

    words: str
    codec: Callable[[], SignalWireCodec]
    view: int


PAYLOADS = {
    "small": Payload(f"{ENTRY_BYTES} B", SmallCodec, 0),
    "basic": Payload("two legs, BASIC", SignalWireCodec, 0),
    "full": Payload("two legs, FULL", SignalWireCodec, 1),
}


class Pool:
    """Signals by sequence."""

    def __init__(self, now_us: int) -> None:
        self._events = [made_event(number, now_us) for number in range(POOL)]

    def event(self, sequence: int, now_us: int) -> SignalEvent:
        return replace(self._events[sequence % POOL], sequence=sequence, create_time_us=now_us)


def request(payload: str, number: int | None = None) -> bytes:
    """A WatchSignalsRequest, without a filter or with the one of that number."""
    made = signal_service_pb2.WatchSignalsRequest(
        view=signal_pb2.SIGNAL_VIEW_FULL if PAYLOADS[payload].view else signal_pb2.SIGNAL_VIEW_BASIC
    )
    if number is not None:
        shape, place = divmod(number, _THIRD)
        if shape in (0, 1):
            made.filter.event_ids.append(event_id(place))
        if shape == 2:
            made.filter.market_ids.append(market_ids(place)[0])
        if shape in (1, 3):
            made.filter.minimum_strength = _least_strength(shape, place) / 1_000_000
    return made.SerializeToString()


def lets_pass(number: int, signal_number: int) -> bool:
    """Whether a filter lets a signal of the pool pass; told from how both are made, not from the product's code."""
    shape, place = divmod(number, _THIRD)
    strength = 100_000 + signal_number * 7_919 % 900_000
    about = signal_number % EVENTS == place % EVENTS
    return (about or shape == 3) and (shape not in (1, 3) or strength >= _least_strength(shape, place))


def _least_strength(shape: int, place: int) -> int:
    return 400_000 if shape == 1 else 100_000 + place * 18_000
