"""Events, markets, links and fee schedules, as messages; their filters, from messages."""

from oddstream.v1 import event_pb2, fee_schedule_pb2, market_link_pb2, market_pb2, market_service_pb2, settlement_pb2
from oddstream_server.application.link_review import LinkReview, link_etag
from oddstream_server.application.markets import FeeEstimate
from oddstream_server.application.ports import EventFilter, MarketFilter, MarketLinkFilter
from oddstream_server.domain.fees import FeeFormula, FeeSchedule, schedule_at
from oddstream_server.domain.market import (
    CollateralRule,
    Declared,
    Event,
    LinkRelation,
    LinkState,
    Market,
    MarketLink,
    MarketState,
    Settlement,
    SettlementState,
    Strike,
    Venue,
)
from oddstream_server.transport.converters.values import (
    VENUES,
    chosen,
    duration,
    enum_table,
    origin_of,
    span,
    timestamp,
    word,
    words,
)

MARKET_STATES = enum_table(MarketState, market_pb2.MarketState, "MARKET_STATE")
SETTLEMENT_STATES = enum_table(SettlementState, settlement_pb2.SettlementState, "SETTLEMENT_STATE")
DECLARATIONS = enum_table(Declared, event_pb2.Declaration, "DECLARATION")
COLLATERAL_RULES = enum_table(CollateralRule, event_pb2.CollateralRule, "COLLATERAL_RULE")
LINK_RELATIONS = enum_table(LinkRelation, market_link_pb2.LinkRelation, "LINK_RELATION")
LINK_STATES = enum_table(LinkState, market_link_pb2.LinkState, "LINK_STATE")
FEE_FORMULAS = enum_table(FeeFormula, fee_schedule_pb2.FeeFormula, "FEE_FORMULA")


def event_message(event: Event) -> event_pb2.Event:
    return event_pb2.Event(
        event_id=event.event_id,
        venue=VENUES[event.venue],
        venue_event_id=event.venue_event_id,
        series_id=event.series_id,
        title=event.title,
        category=event.category,
        market_ids=event.market_ids,
        exclusivity=_declared(event.exclusivity, event.exclusivity_source),
        exhaustiveness=_declared(event.exhaustiveness, event.exhaustiveness_source),
        collateral_rule=COLLATERAL_RULES[event.collateral_rule],
        neg_risk=event.collateral_rule is CollateralRule.NEG_RISK,
        neg_risk_augmented=event.neg_risk_augmented,
        venue_ids=dict(event.venue_ids),
        data_origin=origin_of(event.venue),
        update_time=timestamp(event.update_time_us),
    )


def _declared(value: Declared, source: str) -> event_pb2.DeclaredProperty:
    return event_pb2.DeclaredProperty(declaration=DECLARATIONS[value], source=source)


def market_message(market: Market, *, full: bool, now_us: int) -> market_pb2.Market:
    """:param full: with the rules text and all dated fee schedules.
    :param now_us: picks the fee schedule in force.
    """
    message = market_pb2.Market(
        market_id=market.market_id,
        venue=VENUES[market.venue],
        venue_market_id=market.venue_market_id,
        event_id=market.event_id,
        series_id=market.series_id,
        title=market.title,
        category=market.category,
        outcomes=[
            market_pb2.Outcome(index=o.index, label=o.label, venue_instrument_id=o.venue_instrument_id)
            for o in market.outcomes
        ],
        venue_ids=dict(market.venue_ids),
        state=MARKET_STATES[market.state],
        price_ranges=[
            market_pb2.PriceRange(
                start_price_micros=r.start_micros, end_price_micros=r.end_micros, tick_size_micros=r.tick_micros
            )
            for r in market.price_ranges
        ],
        minimum_size_micros=market.minimum_size_micros,
        size_step_micros=market.size_step_micros,
        payout_micros=market.payout_micros,
        neg_risk=market.neg_risk,
        taker_delay=duration(market.taker_delay_us),
        placeholder=market.placeholder,
        strike=_strike(market.strike),
        rules_digest=market.rules_digest,
        open_time=timestamp(market.open_time_us),
        close_time=timestamp(market.close_time_us),
        expected_settlement_time=timestamp(market.expected_settlement_time_us),
        settlement=_settlement(market.settlement),
        volume_micros=market.volume_micros,
        open_interest_micros=market.open_interest_micros,
        data_origin=origin_of(market.venue),
        update_time=timestamp(market.update_time_us),
    )
    in_force = schedule_at(market.fee_schedules, now_us)
    if in_force is not None:
        message.fee_schedule.CopyFrom(fee_schedule_message(in_force, market.venue))
    if full:
        message.rules_text = market.rules_text
        dated = sorted(market.fee_schedules, key=lambda s: -1 if s.valid_from_us is None else s.valid_from_us)
        message.fee_schedules.extend(fee_schedule_message(schedule, market.venue) for schedule in dated)
    return message


def _strike(strike: Strike | None) -> market_pb2.Strike | None:
    if strike is None:
        return None
    relation = market_pb2.StrikeRelation.Value(f"STRIKE_RELATION_{strike.kind.upper()}")
    return market_pb2.Strike(
        relation=relation,
        floor_value_micros=strike.floor_micros,
        cap_value_micros=strike.cap_micros,
        opening_time=timestamp(strike.opening_time_us),
    )


def _settlement(settlement: Settlement | None) -> settlement_pb2.Settlement | None:
    if settlement is None:
        return None
    return settlement_pb2.Settlement(
        state=SETTLEMENT_STATES[settlement.state],
        yes_payout_micros=settlement.yes_payout_micros,
        revision=settlement.revision,
        void=settlement.void,
        determined_time=timestamp(settlement.determined_time_us),
        known_time=timestamp(settlement.known_time_us),
        paid_time=timestamp(settlement.paid_time_us),
    )


def fee_schedule_message(schedule: FeeSchedule, venue: Venue) -> fee_schedule_pb2.FeeSchedule:
    return fee_schedule_pb2.FeeSchedule(
        venue=VENUES[venue],
        scope=fee_schedule_pb2.FEE_SCOPE_MARKET,
        formula=FEE_FORMULAS[schedule.formula],
        taker_rate_ppm=schedule.taker_rate_ppm,
        maker_rate_ppm=schedule.maker_rate_ppm,
        multiplier_ppm=schedule.multiplier_ppm,
        exponent=schedule.exponent,
        rounding_step_micros=schedule.rounding_step_micros,
        rounding_scope=fee_schedule_pb2.FEE_ROUNDING_SCOPE_ORDER
        if schedule.rounds_over_order
        else fee_schedule_pb2.FEE_ROUNDING_SCOPE_FILL,
        minimum_fee_micros=schedule.minimum_micros,
        valid_from_time=timestamp(schedule.valid_from_us),
        valid_to_time=timestamp(schedule.valid_to_us),
        known_from_time=timestamp(schedule.known_from_us),
        source=schedule.source,
        balance_step_micros=schedule.balance_step_micros,
    )


def fee_estimate_message(estimate: FeeEstimate, venue: Venue) -> market_service_pb2.EstimateFeesResponse:
    return market_service_pb2.EstimateFeesResponse(
        estimates=[
            market_service_pb2.FeeEstimate(
                fee_micros=fee,
                steps=[market_service_pb2.FeeStep(expression=s.expression, result=s.result) for s in working],
            )
            for fee, working in zip(estimate.fees_micros, estimate.workings, strict=True)
        ],
        total_fee_micros=sum(estimate.fees_micros),
        fee_schedule=fee_schedule_message(estimate.schedule, venue),
        disagreeing_fee_schedules=[fee_schedule_message(s, venue) for s in estimate.disagreeing],
    )


def market_link_message(link: MarketLink) -> market_link_pb2.MarketLink:
    return market_link_pb2.MarketLink(
        market_link_id=link.link_id,
        market_id=link.market_id,
        other_market_id=link.other_market_id,
        relation=LINK_RELATIONS[link.relation],
        outcome_map=[
            market_link_pb2.OutcomePair(outcome_index=own, other_outcome_index=other) for own, other in link.outcome_map
        ],
        rules_digest=link.rules_digest,
        other_rules_digest=link.other_rules_digest,
        state=LINK_STATES[link.state],
        reviewer=link.reviewer,
        note=link.note,
        evidence=[market_link_pb2.LinkEvidence(name=name, detail=detail) for name, detail in link.evidence],
        create_time=timestamp(link.create_time_us),
        review_time=timestamp(link.review_time_us),
        etag=link_etag(link),
    )


def link_review(request: market_service_pb2.ReviewMarketLinkRequest) -> LinkReview:
    (decision,) = chosen(LINK_STATES, [request.decision], "decision")
    return LinkReview(
        link_id=request.market_link_id,
        decision=decision,
        rules_digest=request.rules_digest,
        other_rules_digest=request.other_rules_digest,
        note=request.note,
        etag=request.etag,
    )


def event_filter(given: market_service_pb2.EventFilter) -> EventFilter:
    return EventFilter(
        venues=chosen(VENUES, given.venues, "filter.venues"),
        categories=words(given.categories, "filter.categories"),
        series_ids=words(given.series_ids, "filter.series_ids"),
        text=word(given.text, "filter.text"),
    )


def market_filter(given: market_service_pb2.MarketFilter) -> MarketFilter:
    closing = span(given.close_time_range, "filter.close_time_range")
    return MarketFilter(
        venues=chosen(VENUES, given.venues, "filter.venues"),
        event_ids=tuple(given.event_ids),
        states=chosen(MARKET_STATES, given.states, "filter.states"),
        categories=words(given.categories, "filter.categories"),
        series_ids=words(given.series_ids, "filter.series_ids"),
        close_time_from_us=closing.from_us,
        close_time_to_us=closing.to_us,
        text=word(given.text, "filter.text"),
    )


def market_link_filter(given: market_service_pb2.MarketLinkFilter) -> MarketLinkFilter:
    return MarketLinkFilter(
        market_ids=tuple(given.market_ids),
        states=chosen(LINK_STATES, given.states, "filter.states"),
        relations=chosen(LINK_RELATIONS, given.relations, "filter.relations"),
    )
