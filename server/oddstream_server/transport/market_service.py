"""MarketService: from a request to a use case and back."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from oddstream.v1 import execution_pb2, market_pb2, market_service_pb2, market_service_pb2_grpc
from oddstream_server.application.calls.mutations import Mutation, Mutations
from oddstream_server.application.link_review import review_link
from oddstream_server.application.markets import FeeFill, Markets
from oddstream_server.application.ports import Clock
from oddstream_server.domain.errors import Unimplemented
from oddstream_server.domain.fees import Liquidity
from oddstream_server.domain.market import Market, split_market_id
from oddstream_server.transport.administration.answers import Answers
from oddstream_server.transport.converters import markets as as_market
from oddstream_server.transport.converters import ticks as as_tick
from oddstream_server.transport.converters.market_messages import MarketMessages
from oddstream_server.transport.converters.values import chosen, duration, instant_us, span
from oddstream_server.transport.tokens import next_page_token, page_request

Context = grpc.aio.ServicerContext[Any, Any]
WatchQuotes = Callable[[market_service_pb2.WatchQuotesRequest, Context], Awaitable[None]]

SERVICE = "oddstream.v1.MarketService"


class MarketService(market_service_pb2_grpc.MarketServiceServicer):
    """
    :param watch_quotes: serves one stream of quotes until it ends, writing to the context.
    :param mutations: None where links can't be reviewed.
    """

    def __init__(
        self, markets: Markets, watch_quotes: WatchQuotes, now: Clock, mutations: Mutations | None = None
    ) -> None:
        self._answers = None if mutations is None else Answers(mutations)
        self._markets = markets
        self._watch_quotes = watch_quotes
        self._messages = MarketMessages(now)

    async def ListEvents(
        self, request: market_service_pb2.ListEventsRequest, context: Context
    ) -> market_service_pb2.ListEventsResponse:
        page = page_request(request, str)
        found = await self._markets.list_events(as_market.event_filter(request.filter), page)
        return market_service_pb2.ListEventsResponse(
            events=map(as_market.event_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def GetEvent(
        self, request: market_service_pb2.GetEventRequest, context: Context
    ) -> market_service_pb2.GetEventResponse:
        event = await self._markets.get_event(request.event_id)
        return market_service_pb2.GetEventResponse(event=as_market.event_message(event))

    async def ListMarkets(
        self, request: market_service_pb2.ListMarketsRequest, context: Context
    ) -> market_service_pb2.ListMarketsResponse:
        page = page_request(request, str)
        found = await self._markets.list_markets(as_market.market_filter(request.filter), page)
        return market_service_pb2.ListMarketsResponse(
            markets=[self._message(market, request.view) for market in found.items],
            next_page_token=next_page_token(request, found.next_key),
        )

    async def GetMarket(
        self, request: market_service_pb2.GetMarketRequest, context: Context
    ) -> market_service_pb2.GetMarketResponse:
        market = await self._markets.get_market(request.market_id)
        view = request.view or market_pb2.MARKET_VIEW_FULL
        return self._messages.answer(market, full=view == market_pb2.MARKET_VIEW_FULL)

    async def BatchGetMarkets(
        self, request: market_service_pb2.BatchGetMarketsRequest, context: Context
    ) -> market_service_pb2.BatchGetMarketsResponse:
        found = await self._markets.batch_get(request.market_ids)
        return market_service_pb2.BatchGetMarketsResponse(
            markets=[self._message(market, request.view) for market in found]
        )

    async def GetOrderBook(
        self, request: market_service_pb2.GetOrderBookRequest, context: Context
    ) -> market_service_pb2.GetOrderBookResponse:
        view = await self._markets.get_order_book(request.market_id, request.depth)
        return market_service_pb2.GetOrderBookResponse(
            order_book=as_tick.order_book_message(view.book, split_market_id(request.market_id)[0]),
            age=duration(view.age_us),
            feed_status=as_tick.feed_status_message(view.feed) if view.feed else None,
            top_only=view.top_only,
        )

    async def ListQuotes(
        self, request: market_service_pb2.ListQuotesRequest, context: Context
    ) -> market_service_pb2.ListQuotesResponse:
        page = page_request(request, int, int)
        when = span(request.filter.receive_time_range, "filter.receive_time_range")
        found = await self._markets.list_quotes(request.filter.market_id, when, page)
        return market_service_pb2.ListQuotesResponse(
            quotes=map(as_tick.quote_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def ListCandles(
        self, request: market_service_pb2.ListCandlesRequest, context: Context
    ) -> market_service_pb2.ListCandlesResponse:
        page = page_request(request, int)
        when = span(request.filter.start_time_range, "filter.start_time_range")
        (interval,) = chosen(as_tick.INTERVALS, [request.filter.interval], "filter.interval")
        found = await self._markets.list_candles(request.filter.market_id, interval, when, page)
        return market_service_pb2.ListCandlesResponse(
            candles=map(as_tick.candle_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def ListTrades(
        self, request: market_service_pb2.ListTradesRequest, context: Context
    ) -> market_service_pb2.ListTradesResponse:
        page = page_request(request, int, int)
        when = span(request.filter.receive_time_range, "filter.receive_time_range")
        found = await self._markets.list_trades(
            request.filter.market_id, when, page, exclude_block=request.filter.exclude_block
        )
        return market_service_pb2.ListTradesResponse(
            trades=map(as_tick.trade_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def ListMarketLinks(
        self, request: market_service_pb2.ListMarketLinksRequest, context: Context
    ) -> market_service_pb2.ListMarketLinksResponse:
        page = page_request(request, str)
        found = await self._markets.list_links(as_market.market_link_filter(request.filter), page)
        return market_service_pb2.ListMarketLinksResponse(
            market_links=map(as_market.market_link_message, found.items),
            next_page_token=next_page_token(request, found.next_key),
        )

    async def ReviewMarketLink(
        self, request: market_service_pb2.ReviewMarketLinkRequest, context: Context
    ) -> market_service_pb2.ReviewMarketLinkResponse:
        if self._answers is None:
            raise Unimplemented("links can't be reviewed here: this server runs without mutations")

        async def work(mutation: Mutation) -> market_service_pb2.ReviewMarketLinkResponse:
            link = await review_link(mutation, as_market.link_review(request))
            return market_service_pb2.ReviewMarketLinkResponse(market_link=as_market.market_link_message(link))

        return await self._answers.once(request, market_service_pb2.ReviewMarketLinkResponse, work)

    async def EstimateFees(
        self, request: market_service_pb2.EstimateFeesRequest, context: Context
    ) -> market_service_pb2.EstimateFeesResponse:
        as_of_us = instant_us(request.as_of_time, "as_of_time") if request.HasField("as_of_time") else None
        fills = [
            FeeFill(
                fill.price_micros,
                fill.size_micros,
                Liquidity.MAKER if fill.liquidity == execution_pb2.FILL_LIQUIDITY_MAKER else Liquidity.TAKER,
            )
            for fill in request.fills
        ]
        estimate = await self._markets.estimate_fees(request.market_id, request.outcome_index, fills, as_of_us)
        return as_market.fee_estimate_message(estimate, split_market_id(request.market_id)[0])

    async def WatchQuotes(  # type: ignore[override]  # it writes to the context, and the stubs know generators alone
        self, request: market_service_pb2.WatchQuotesRequest, context: Context
    ) -> None:
        await self._watch_quotes(request, context)

    def _message(self, market: Market, view: int) -> market_pb2.Market:
        return self._messages.message(market, full=view == market_pb2.MARKET_VIEW_FULL)
