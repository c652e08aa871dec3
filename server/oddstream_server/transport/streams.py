"""The server-streaming rpcs: from a request to a subscription, and its messages to the wire until it ends.

Messages are written as bytes (the response serializer lets them pass). The error that ends a subscription becomes the
status in the errors interceptor; a client that leaves cancels the handler, and the cancellation is let through.
"""

from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from oddstream.v1 import market_service_pb2, signal_pb2, signal_service_pb2
from oddstream_server.application.access.venue_scope import narrowed, scoped_venues
from oddstream_server.application.calls.request import require_principal
from oddstream_server.application.ports import Clock, SignalFilter
from oddstream_server.feed.quotes import QuoteFeed, QuoteWatch
from oddstream_server.feed.signals.feed import SignalFeed, SignalWatch
from oddstream_server.feed.signals.filters import filter_digest
from oddstream_server.feed.signals.ring import View
from oddstream_server.feed.signals.starts import Start, StartAfter, StartAtTime, StartNow, StartWithActive
from oddstream_server.transport.converters.signals import signal_filter
from oddstream_server.transport.converters.streams import quote_stream_message, signal_stream_message
from oddstream_server.transport.converters.values import VENUES, chosen, instant_us
from oddstream_server.transport.tokens import resume_point

Context = grpc.aio.ServicerContext[Any, Any]

_DEFAULT_HEARTBEAT_S = 10.0


class SignalStreams:
    """SignalService.WatchSignals."""

    def __init__(self, feed: SignalFeed, now: Clock) -> None:
        self._feed = feed
        self._now = now

    async def watch(self, request: signal_service_pb2.WatchSignalsRequest, context: Context) -> None:
        subscription = await self._feed.subscribe(signal_watch(request), require_principal())
        try:
            while True:
                delivery = subscription.take()
                if delivery is None:
                    await subscription.woken()
                else:
                    await context.write(signal_stream_message(delivery, subscription, self._now()))
        finally:
            subscription.close()


class QuoteStreams:
    """MarketService.WatchQuotes."""

    def __init__(self, feed: QuoteFeed, now: Clock) -> None:
        self._feed = feed
        self._now = now

    async def watch(self, request: market_service_pb2.WatchQuotesRequest, context: Context) -> None:
        subscription = await self._feed.subscribe(quote_watch(request), require_principal())
        try:
            while True:
                delivery = subscription.take()
                if delivery is None:
                    await subscription.woken()
                else:
                    await context.write(quote_stream_message(delivery, subscription, self._now()))
        finally:
            subscription.close()


def signal_watch(request: signal_service_pb2.WatchSignalsRequest) -> SignalWatch:
    """:raises InvalidArgument: the resume token is not ours or belongs to another filter, or a value is unknown."""
    where = replace(
        signal_filter(
            request.filter, include_simulated=request.include_simulated, include_replay=request.include_replay
        ),
        within_venues=scoped_venues(),
    )
    return SignalWatch(
        where=where,
        start=_start(request.start, where),
        view=View.FULL if request.view == signal_pb2.SIGNAL_VIEW_FULL else View.BASIC,
        skip_expired=request.skip_expired,
        heartbeat_s=_heartbeat_s(request, request.heartbeat_interval),
    )


def _start(given: signal_service_pb2.WatchSignalsStart, where: SignalFilter) -> Start:
    match given.WhichOneof("point"):
        case "resume_token":
            point = resume_point(given.resume_token, filter_digest(where))
            return StartAfter(point.data_set_id, point.sequence)
        case "position":
            return StartAfter(given.position.data_set_id, given.position.sequence)
        case "start_time":
            return StartAtTime(instant_us(given.start_time, "start.start_time"))
        case "active_snapshot":
            return StartWithActive()
        case _:
            return StartNow()


def quote_watch(request: market_service_pb2.WatchQuotesRequest) -> QuoteWatch:
    """:raises InvalidArgument: a venue is unknown."""
    return QuoteWatch(
        venues=narrowed(chosen(VENUES, request.filter.venues, "filter.venues")),
        event_ids=tuple(request.filter.event_ids),
        market_ids=tuple(request.filter.market_ids),
        include_simulated=request.include_simulated,
        heartbeat_s=_heartbeat_s(request, request.heartbeat_interval),
    )


def _heartbeat_s(
    request: signal_service_pb2.WatchSignalsRequest | market_service_pb2.WatchQuotesRequest, given: Duration
) -> float:
    if not request.HasField("heartbeat_interval"):
        return _DEFAULT_HEARTBEAT_S
    return given.seconds + given.nanos / 1_000_000_000
