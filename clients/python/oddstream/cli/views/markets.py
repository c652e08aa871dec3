"""Markets and books as tables."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from oddstream.cli import words
from oddstream.cli.views.feeds import feed_words
from oddstream.cli.views.tables import FOLD, MARK_STYLE, RIGHT, facts, heading, rows_table
from oddstream.fees import holds_at, schedule_at
from oddstream.v1 import (
    fee_schedule_pb2,
    feed_status_pb2,
    market_pb2,
    market_service_pb2,
    order_book_pb2,
    settlement_pb2,
)


def markets_table(markets: Sequence[market_pb2.Market], now_us: int, columns: int) -> Table:
    wide = columns >= 110
    table = rows_table(
        ("id", {**FOLD, "ratio": 2}),
        ("title", {**FOLD, "ratio": 3}),
        "state",
        ("closes", RIGHT),
        *([("outcomes", {**FOLD, "ratio": 1}), ("tick", RIGHT), ("minimum", RIGHT)] if wide else []),
    )
    table.expand = True
    for market in markets:
        closes = "-"
        if market.HasField("close_time"):
            closes = words.ago(now_us - market.close_time.ToMicroseconds())
        mark = words.origin_mark(market.data_origin)
        title = Text(f"{mark} ", MARK_STYLE) if mark else Text()
        title.append(market.title)
        cells: list[str | Text] = [Text(market.market_id), title, words.market_state(market.state), closes]
        if wide:
            cells += [
                Text(" / ".join(o.label for o in market.outcomes)),
                _ticks(market),
                words.decimal(market.minimum_size_micros),
            ]
        table.add_row(*cells)
    return table


def _ticks(market: market_pb2.Market) -> str:
    ticks = sorted({r.tick_size_micros for r in market.price_ranges})
    return " / ".join(words.decimal(t) for t in ticks) or "-"


def market_page(
    market: market_pb2.Market,
    book: market_service_pb2.GetOrderBookResponse | None,
    book_words: str,
    now_us: int,
    levels: int,
) -> RenderableType:
    """Everything about one market.

    :param book: None where there is none, and then ``book_words`` say why.
    """
    mark = words.origin_mark(market.data_origin)
    title = Text(market.title or market.market_id, style="bold")
    if mark:
        title.append(f"  {mark}", MARK_STYLE)
    return Group(
        title,
        _identity(market, now_us),
        heading("Outcomes"),
        _outcomes(market),
        heading("Orders"),
        _order_rules(market),
        heading("Fees"),
        *_fees(market, now_us),
        heading("Settlement"),
        _settlement(market, now_us),
        heading("Book"),
        *([Text(book_words, style="yellow")] if book is None else book_parts(book, market, now_us, levels)),
        heading("Rules"),
        Text(market.rules_text or "the venue published none", style="" if market.rules_text else "dim"),
        facts([("digest", market.rules_digest)]),
    )


def _identity(market: market_pb2.Market, now_us: int) -> Table:
    pairs: list[tuple[str, object]] = [
        ("id", market.market_id),
        ("venue", words.venue(market.venue)),
        ("venue's id", market.venue_market_id),
        *((name.replace("_", " "), market.venue_ids[name]) for name in sorted(market.venue_ids)),
        ("event", market.event_id if market.HasField("event_id") else None),
        ("series", market.series_id),
        ("category", market.category),
        ("state", words.market_state(market.state) + (", a placeholder" if market.placeholder else "")),
        ("strike", _strike(market, now_us)),
        ("opens", words.moment(market.open_time, now_us) if market.HasField("open_time") else None),
        ("closes", words.moment(market.close_time, now_us) if market.HasField("close_time") else None),
        ("volume", f"{words.decimal(market.volume_micros)} contracts" if market.HasField("volume_micros") else None),
        (
            "open interest",
            f"{words.decimal(market.open_interest_micros)} contracts"
            if market.HasField("open_interest_micros")
            else None,
        ),
    ]
    return facts(pairs)


def _strike(market: market_pb2.Market, now_us: int) -> str | None:
    if not market.HasField("strike"):
        return None
    strike = market.strike
    relation = words.word(market_pb2.StrikeRelation, strike.relation).replace("_", " ").lower()
    bounds = [
        words.decimal(getattr(strike, name))
        for name in ("floor_value_micros", "cap_value_micros")
        if strike.HasField(name)
    ]
    if strike.HasField("opening_time"):
        opening = f"the price of {words.moment(strike.opening_time, now_us)}"
        return f"{relation} {bounds[0]}, {opening}" if bounds else f"{relation} {opening}"
    return f"{relation} {' and '.join(bounds)}"


def _outcomes(market: market_pb2.Market) -> Table:
    table = rows_table(("#", RIGHT), "label", ("venue's instrument id", FOLD))
    for outcome in market.outcomes:
        table.add_row(str(outcome.index), Text(outcome.label), Text(outcome.venue_instrument_id))
    return table


def _order_rules(market: market_pb2.Market) -> Table:
    ranges = "\n".join(
        f"{words.decimal(r.start_price_micros)} to {words.decimal(r.end_price_micros)}"
        f" in steps of {words.decimal(r.tick_size_micros)}"
        for r in market.price_ranges
    )
    return facts(
        [
            ("prices of outcome 0", ranges or "not known: no order can be written"),
            ("minimum size", _contracts(market.minimum_size_micros)),
            ("size step", _contracts(market.size_step_micros)),
            ("payout", f"{words.decimal(market.payout_micros)} USD a winning contract"),
            ("neg risk", "yes: orders are signed for the neg-risk exchange" if market.neg_risk else None),
            (
                "taker delay",
                words.span(market.taker_delay.ToMicroseconds()) if market.taker_delay.ToMicroseconds() else "none",
            ),
        ]
    )


def _contracts(micros: int) -> str:
    return f"{words.decimal(micros)} contract{'' if micros == words.MICROS else 's'}"


def _fees(market: market_pb2.Market, now_us: int) -> list[RenderableType]:
    if not market.fee_schedules and not market.HasField("fee_schedule"):
        return [Text("no schedule is known, so no signal with an edge is published here", style="yellow")]
    rows = list(market.fee_schedules) or [market.fee_schedule]
    in_force = schedule_at(rows, now_us)
    table = rows_table(
        "", "from", "until", ("taker", FOLD), ("maker", FOLD), ("rounded up to", RIGHT), ("source", FOLD)
    )
    for row in rows:
        current = row == in_force
        table.add_row(
            "►" if current else "",
            f"{row.valid_from_time.ToDatetime():%Y-%m-%d}" if row.HasField("valid_from_time") else "always",
            f"{row.valid_to_time.ToDatetime():%Y-%m-%d}" if row.HasField("valid_to_time") else "further notice",
            fee_formula(row, row.taker_rate_ppm),
            fee_formula(row, row.maker_rate_ppm),
            _rounding(row),
            Text(row.source),
            style="" if current else "dim",
        )
    note = (
        "► is in force now; p is the price, C the contracts"
        if in_force
        else "none of them is in force now: no signal with an edge is published here"
    )
    return [table, Text(note, style="dim" if in_force else "yellow")]


def fee_formula(schedule: fee_schedule_pb2.FeeSchedule, rate_ppm: int) -> str:
    """The formula with its numbers: "0.07 × C × p × (1 - p)"."""
    if schedule.formula == fee_schedule_pb2.FEE_FORMULA_NONE or not rate_ppm or not schedule.multiplier_ppm:
        return "free"
    rate = words.decimal(rate_ppm)
    if schedule.multiplier_ppm != words.MICROS:
        rate += f" × {words.decimal(schedule.multiplier_ppm)}"
    if schedule.formula == fee_schedule_pb2.FEE_FORMULA_FLAT:
        return f"{rate} × C"
    if schedule.formula == fee_schedule_pb2.FEE_FORMULA_QUADRATIC:
        return f"{rate} × C × p × (1 - p)"
    if schedule.formula == fee_schedule_pb2.FEE_FORMULA_QUADRATIC_POWER:
        return f"{rate} × C × p × (p × (1 - p))^{schedule.exponent}"
    return words.word(fee_schedule_pb2.FeeFormula, schedule.formula)


def fee_in_force(market: market_pb2.Market, instant_us: int) -> fee_schedule_pb2.FeeSchedule | None:
    """Of a market in either view."""
    rows = list(market.fee_schedules)
    if rows:
        return schedule_at(rows, instant_us)
    known = market.HasField("fee_schedule") and holds_at(market.fee_schedule, instant_us)
    return market.fee_schedule if known else None


def _settlement(market: market_pb2.Market, now_us: int) -> Table:
    if not market.HasField("settlement"):
        expected = (
            words.moment(market.expected_settlement_time, now_us)
            if market.HasField("expected_settlement_time")
            else "the venue gives no ground for a time"
        )
        return facts([("expected", expected)])
    done = market.settlement
    label = market.outcomes[0].label if market.outcomes else "outcome 0"
    payout = (
        f'"{label}" pays {words.decimal(done.yes_payout_micros)}'
        if done.HasField("yes_payout_micros")
        else "stakes are returned"
    )
    return facts(
        [
            ("result", f"void: {payout}" if done.void else payout),
            ("firmness", words.word(settlement_pb2.SettlementState, done.state).lower()),
            ("revision", done.revision),
            ("determined", words.moment(done.determined_time, now_us) if done.HasField("determined_time") else None),
            ("known here", words.moment(done.known_time, now_us) if done.HasField("known_time") else None),
            ("paid", words.moment(done.paid_time, now_us) if done.HasField("paid_time") else None),
        ]
    )


def book_parts(
    answer: market_service_pb2.GetOrderBookResponse, market: market_pb2.Market, now_us: int, levels: int
) -> list[RenderableType]:
    """The levels of a book side by side, best first, with its age."""
    book = answer.order_book
    age_us = answer.age.ToMicroseconds()
    label = market.outcomes[0].label if market.outcomes else "outcome 0"
    old = age_us >= 60_000_000
    note = Text(f'prices of "{label}", {words.span(age_us)} old, epoch {book.epoch}', style="yellow" if old else "dim")
    if answer.top_only:
        note.append("; only the best level of each side, from the latest stored quote")
    parts: list[RenderableType] = [note]
    if answer.HasField("feed_status") and answer.feed_status.state != feed_status_pb2.FEED_STATE_LIVE:
        parts.append(Text(feed_words(market.venue, answer.feed_status, now_us), style="bold red"))
    table = rows_table(("bid size", RIGHT), ("bid", RIGHT), ("ask", RIGHT), ("ask size", RIGHT))
    for i in range(min(levels, max(len(book.bids), len(book.asks), 1))):
        table.add_row(*_level(book.bids, i)[::-1], *_level(book.asks, i))
    parts.append(table)
    hidden = max(len(book.bids), len(book.asks)) - levels
    if hidden > 0:
        parts.append(Text(f"and {hidden} more: --levels shows them", style="dim"))
    return parts


def _level(side: Sequence[order_book_pb2.BookLevel], i: int) -> tuple[str, str]:
    if i >= len(side):
        return "-", "-"
    return words.decimal(side[i].price_micros), words.decimal(side[i].size_micros)


def _rounding(row: fee_schedule_pb2.FeeSchedule) -> str:
    step = words.decimal(row.rounding_step_micros)
    return f"{step}, balance {words.decimal(row.balance_step_micros)}" if row.balance_step_micros else step
