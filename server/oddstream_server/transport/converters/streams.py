"""Messages of streams, put together from pieces that were encoded once.

A protobuf message may be serialised in parts and joined in any order, so an event's bytes serve every subscriber, and
what only one subscriber gets is appended.
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from oddstream.v1 import error_reason_pb2, market_service_pb2, signal_pb2, signal_service_pb2, stream_pb2
from oddstream_server.domain.market import split_market_id
from oddstream_server.domain.quote import Quote
from oddstream_server.domain.signal import SignalEvent
from oddstream_server.feed.quotes import QuoteDelivery, QuoteSubscription, Reset
from oddstream_server.feed.signals.batches import Position, Stretch
from oddstream_server.feed.signals.deliveries import SignalDelivery
from oddstream_server.feed.signals.ring import View
from oddstream_server.feed.signals.subscriptions import SignalSubscription
from oddstream_server.feed.streams import Closing
from oddstream_server.transport.converters.signals import signal_event_message
from oddstream_server.transport.converters.ticks import feed_status_message, quote_message
from oddstream_server.transport.converters.values import VENUES, duration, stamp
from oddstream_server.transport.tokens import ResumePoint, resume_token

VIEWS = {View.BASIC: signal_pb2.SIGNAL_VIEW_BASIC, View.FULL: signal_pb2.SIGNAL_VIEW_FULL}
_LENGTH_DELIMITED = 2
_SHARED_FOR_US = 1_000
"""How exact the send time of a message that many are sent is."""


def entry(field_number: int, body: bytes) -> bytes:
    """One entry of a repeated message field, ready to be joined: tag, length, bytes."""
    return _varint(field_number << 3 | _LENGTH_DELIMITED) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class SignalWireCodec:
    """Fulfils the feed's SignalCodec."""

    def fragments(self, event: SignalEvent) -> tuple[bytes, bytes]:
        message = signal_event_message(event, full=True)
        full = entry(signal_service_pb2.WatchSignalsResponse.EVENTS_FIELD_NUMBER, message.SerializeToString())
        if not event.signal.evidence:
            return full, full
        message.signal.ClearField("evidence")
        basic = entry(signal_service_pb2.WatchSignalsResponse.EVENTS_FIELD_NUMBER, message.SerializeToString())
        return basic, full

    def batch(self, fragments: Sequence[bytes], stretch: Stretch, resume_at: Position | None) -> bytes:
        head = signal_service_pb2.WatchSignalsResponse(
            after_sequence=stretch.after,
            through_sequence=stretch.through,
            head_sequence=stretch.head,
            resume_token="" if resume_at is None else self.resume_token(resume_at),
        )
        return b"".join((*fragments, head.SerializeToString()))

    def resume_token(self, position: Position) -> str:
        return resume_token(ResumePoint(position.data_set_id, position.sequence), position.filter_digest)


class QuoteWireCodec:
    """Fulfils the feed's QuoteCodec."""

    def fragment(self, quote: Quote) -> bytes:
        body = quote_message(quote).SerializeToString()
        return entry(market_service_pb2.WatchQuotesResponse.QUOTES_FIELD_NUMBER, body)

    def batch(self, fragments: Sequence[bytes], conflated: int, resets: Sequence[Reset]) -> bytes:
        head = market_service_pb2.WatchQuotesResponse(
            conflated_count=conflated,
            resets=[
                market_service_pb2.QuoteReset(
                    venue=VENUES[split_market_id(reset.market_id)[0]],
                    market_ids=[reset.market_id],
                    epoch=reset.epoch,
                )
                for reset in resets
            ],
        )
        return b"".join((*fragments, head.SerializeToString()))


def signal_stream_message(delivery: SignalDelivery, subscription: SignalSubscription, now_us: int) -> bytes:
    """A serialised WatchSignalsResponse; within a millisecond the same one for all who share the delivery."""
    wire = delivery.wire
    if wire is not None and now_us < wire.until_us:
        return wire.body
    own = signal_service_pb2.WatchSignalsResponse(send_time=stamp(now_us))
    if wire is None:
        _add_own_part(own, delivery, subscription)
    body = delivery.batch + own.SerializeToString()
    if wire is not None:
        wire.body, wire.until_us = body, now_us + _SHARED_FOR_US
    return body


def _add_own_part(
    own: signal_service_pb2.WatchSignalsResponse, delivery: SignalDelivery, subscription: SignalSubscription
) -> None:
    started, snapshot = delivery.started, delivery.snapshot
    if started is not None:
        own.started.CopyFrom(
            signal_service_pb2.SignalWatchStarted(
                data_set_id=started.data_set_id,
                start_sequence=started.start_sequence,
                oldest_sequence=started.oldest_sequence,
                view=VIEWS[started.watch.view],
                heartbeat_interval=_seconds(started.watch.heartbeat_s),
                end_time=stamp(started.end_time_us),
            )
        )
    if snapshot is not None:
        own.snapshot.CopyFrom(
            signal_service_pb2.SignalSnapshot(as_of_sequence=snapshot.as_of_sequence, complete=snapshot.complete)
        )
    if delivery.caught_up_sequence is not None:
        own.caught_up.CopyFrom(signal_service_pb2.SignalCaughtUp(sequence=delivery.caught_up_sequence))
    _add_signs_of_life(own, delivery, subscription.next_within_us)


def quote_stream_message(delivery: QuoteDelivery, subscription: QuoteSubscription, now_us: int) -> bytes:
    """A serialised WatchQuotesResponse."""
    own = market_service_pb2.WatchQuotesResponse(send_time=stamp(now_us))
    if delivery.started_end_time_us is not None:
        own.started.CopyFrom(
            market_service_pb2.QuoteWatchStarted(
                heartbeat_interval=_seconds(subscription.watch.heartbeat_s),
                end_time=stamp(delivery.started_end_time_us),
            )
        )
    _add_signs_of_life(own, delivery, subscription.next_within_us)
    return delivery.batch + own.SerializeToString()


def _add_signs_of_life(own: Any, delivery: SignalDelivery | QuoteDelivery, next_within_us: int) -> None:
    add_signs_of_life(own, delivery.heartbeat, next_within_us, delivery.closing)
    own.feed_statuses.extend(map(feed_status_message, delivery.statuses))


def add_signs_of_life(own: Any, heartbeat: bool, next_within_us: int, closing: Closing | None) -> None:
    """What the messages of all streams may carry."""
    if heartbeat:
        own.heartbeat.CopyFrom(stream_pb2.StreamHeartbeat(next_within=duration(next_within_us)))
    if closing is not None:
        own.closing.CopyFrom(_closing(closing))


def _closing(closing: Closing) -> Message:
    return stream_pb2.StreamClosing(
        reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{closing.reason}"),
        retry_delay=duration(closing.retry_delay_us),
    )


def _seconds(value: float) -> Duration:
    made = Duration()
    made.FromMicroseconds(round(value * 1_000_000))
    return made
