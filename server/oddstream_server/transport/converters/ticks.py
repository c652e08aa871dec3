"""Quotes, trades, candles, order books and the state of feeds, as messages."""

from oddstream.v1 import candle_pb2, feed_status_pb2, order_book_pb2, quote_pb2, trade_pb2
from oddstream_server.domain.market import Venue
from oddstream_server.domain.quote import (
    BookLevel,
    Candle,
    CandleInterval,
    FeedState,
    FeedStatus,
    Ohlc,
    OrderBook,
    Quote,
    SourceKind,
    TickSource,
    Trade,
)
from oddstream_server.domain.signal import DataOrigin
from oddstream_server.transport.converters.values import DATA_ORIGINS, VENUES, enum_table, origin_of, timestamp

SOURCES = enum_table(SourceKind, quote_pb2.QuoteSource, "QUOTE_SOURCE")
INTERVALS = enum_table(CandleInterval, candle_pb2.CandleInterval, "CANDLE_INTERVAL")
FEED_STATES = enum_table(FeedState, feed_status_pb2.FeedState, "FEED_STATE")


def data_origin(source: TickSource) -> DataOrigin:
    """What a tick's source says of it: imported data is a recording, whatever its venue."""
    if source.venue is Venue.SIMULATED:
        return DataOrigin.SIMULATED
    return DataOrigin.REPLAY if source.kind is SourceKind.IMPORT else DataOrigin.LIVE


def quote_message(quote: Quote) -> quote_pb2.Quote:
    return quote_pb2.Quote(
        market_id=quote.market_id,
        bid_price_micros=quote.bid_price_micros,
        bid_size_micros=quote.bid_size_micros,
        ask_price_micros=quote.ask_price_micros,
        ask_size_micros=quote.ask_size_micros,
        epoch=quote.epoch,
        venue_time=timestamp(quote.venue_time_us),
        receive_time=timestamp(quote.receive_time_us),
        ingest_sequence=quote.ingest_sequence,
        source=SOURCES[quote.source.kind],
        data_origin=DATA_ORIGINS[data_origin(quote.source)],
    )


def trade_message(trade: Trade) -> trade_pb2.Trade:
    return trade_pb2.Trade(
        market_id=trade.market_id,
        trade_id=trade.source_key,
        price_micros=trade.price_micros,
        size_micros=trade.size_micros,
        taker_outcome_index=trade.taker_outcome_index,
        block=trade.block,
        venue_time=timestamp(trade.venue_time_us),
        receive_time=timestamp(trade.receive_time_us),
        ingest_sequence=trade.ingest_sequence,
        source=SOURCES[trade.source.kind],
        data_origin=DATA_ORIGINS[data_origin(trade.source)],
    )


def candle_message(candle: Candle) -> candle_pb2.Candle:
    return candle_pb2.Candle(
        market_id=candle.market_id,
        interval=INTERVALS[candle.interval],
        start_time=timestamp(candle.start_time_us),
        end_time=timestamp(candle.start_time_us + candle.interval.duration_us),
        trade=_ohlc(candle.trade),
        bid=_ohlc(candle.bid),
        ask=_ohlc(candle.ask),
        volume_micros=candle.volume_micros,
        trade_count=candle.trade_count,
        revision=candle.revision,
    )


def _ohlc(prices: Ohlc | None) -> candle_pb2.Ohlc | None:
    if prices is None:
        return None
    return candle_pb2.Ohlc(
        open_price_micros=prices.open_micros,
        high_price_micros=prices.high_micros,
        low_price_micros=prices.low_micros,
        close_price_micros=prices.close_micros,
    )


def order_book_message(book: OrderBook, venue: Venue) -> order_book_pb2.OrderBook:
    return order_book_pb2.OrderBook(
        market_id=book.market_id,
        bids=_levels(book.bids),
        asks=_levels(book.asks),
        epoch=book.epoch,
        venue_time=timestamp(book.venue_time_us),
        receive_time=timestamp(book.receive_time_us),
        data_origin=origin_of(venue),
    )


def _levels(levels: tuple[BookLevel, ...]) -> list[order_book_pb2.BookLevel]:
    return [
        order_book_pb2.BookLevel(price_micros=level.price_micros, size_micros=level.size_micros) for level in levels
    ]


def feed_status_message(status: FeedStatus) -> feed_status_pb2.FeedStatus:
    return feed_status_pb2.FeedStatus(
        venue=VENUES[status.venue],
        state=FEED_STATES[status.state],
        last_receive_time=timestamp(status.last_receive_time_us),
        epoch=status.epoch,
        change_time=timestamp(status.change_time_us),
        detail=status.detail,
        market_ids=status.market_ids,
    )
