"""Signals as a list, and one signal with everything that it was made of."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from oddstream.cli import words
from oddstream.cli.checking import LegCheck, SignalCheck
from oddstream.cli.views.board import edge, what_to_do, why_ended
from oddstream.cli.views.markets import fee_formula
from oddstream.cli.views.tables import FOLD, KEEP, MARK_STYLE, RIGHT, disclosure, facts, heading, rows_table
from oddstream.recompute import strength_ppm
from oddstream.v1 import signal_pb2


def signals_table(signals: Sequence[signal_pb2.Signal], now_us: int, columns: int) -> Table:
    wide = columns >= 110
    table = rows_table(
        ("age", RIGHT),
        *(["venue", "kind"] if wide else []),
        ("what to do / signal id", {**KEEP, "ratio": 1}),
        ("edge", RIGHT),
        ("str", RIGHT),
        ("rev", RIGHT),
        "state",
    )
    table.expand = True
    for signal in signals:
        state = words.signal_state(signal.state)
        table.add_row(
            words.short_span(max(0, now_us - signal.create_time.ToMicroseconds())),
            *([words.venue(signal.legs[0].venue) if signal.legs else "-", signal.kind] if wide else []),
            what_to_do(signal).append(f"\n{signal.signal_id}", "dim"),
            edge(signal),
            f"{signal.strength:.2f}",
            str(signal.revision),
            Text(state, "green" if signal.state == signal_pb2.SIGNAL_STATE_ACTIVE else "dim"),
        )
    return table


def signal_page(checked: SignalCheck, subject_title: str, now_us: int, columns: int) -> RenderableType:
    """:param subject_title: empty where it isn't known."""
    signal = checked.signal
    return Group(
        Text(what_to_do(signal).plain, style="bold"),
        _origin(signal),
        _facts(checked, subject_title, now_us),
        heading("Legs"),
        *(_leg(leg, now_us) for leg in checked.legs),
        heading("Inputs"),
        _inputs(signal),
        heading("Book at the trigger and now"),
        _books(checked.legs, columns),
        heading("Fee"),
        *(part for leg in checked.legs for part in _fee(leg, many=len(checked.legs) > 1)),
        heading("Computed again"),
        *_computed_again(checked),
        disclosure(checked.disclaimer),
    )


def _origin(signal: signal_pb2.Signal) -> Text:
    mark = words.origin_mark(signal.data_origin)
    if not mark:
        return Text("from live data", style="dim")
    meaning = "simulated data" if mark == "SIM" else "replayed data"
    return Text(f"{mark}: {meaning}, not to be traded on", style=MARK_STYLE)


def _facts(checked: SignalCheck, subject_title: str, now_us: int) -> Table:
    signal = checked.signal
    state = words.signal_state(signal.state)
    if why := why_ended(signal):
        state += f": {why}"
    grade = None
    if signal.HasField("grade"):
        realized = signal.grade.realized_edge_micros if signal.grade.HasField("realized_edge_micros") else None
        grade = "void" if signal.grade.void else f"realised edge {words.absent(realized, signed=True)}"
        grade += f", revision {signal.grade.revision}"
    return facts(
        [
            ("signal", signal.signal_id),
            ("opportunity", f"{signal.opportunity_id}, revision {signal.revision}"),
            ("sequence", checked.sequence),
            ("kind", f"{signal.kind} version {signal.kind_version}, strategy {signal.strategy_id}"),
            ("subject", f"{subject_title} ({signal.subject_id})" if subject_title else signal.subject_id),
            ("direction", words.word(signal_pb2.SignalDirection, signal.direction).lower()),
            ("state", state),
            ("net edge", f"{edge(signal)} USD a contract of each leg after fees"),
            ("strength", words.decimal(strength_ppm(signal))),
            ("confidence", f"{signal.confidence:.3f}" if signal.HasField("confidence") else None),
            ("fair value", words.decimal(signal.fair_value_micros) if signal.HasField("fair_value_micros") else None),
            ("triggered", words.moment(signal.trigger_time, now_us)),
            (
                "published",
                f"{words.moment(signal.create_time, now_us)}, "
                f"{words.span(signal.create_time.ToMicroseconds() - signal.trigger_time.ToMicroseconds())} "
                "after the trigger",
            ),
            ("expires", words.moment(signal.expire_time, now_us)),
            ("ended", words.moment(signal.end_time, now_us) if signal.HasField("end_time") else None),
            ("locks money", words.span(signal.lock_up.ToMicroseconds()) if signal.HasField("lock_up") else None),
            ("legs belong together", "yes, though no venue promises it" if signal.all_or_none else None),
            ("supersedes", signal.supersedes_signal_id if signal.HasField("supersedes_signal_id") else None),
            ("grade", grade),
            ("inputs' digest", signal.input_digest),
            ("parameters' digest", signal.params_digest),
        ]
    )


def _leg(checked: LegCheck, now_us: int) -> Table:
    leg = checked.leg
    verb = words.word(signal_pb2.LegAction, leg.action)
    size = words.decimal(leg.available_size_micros) if leg.HasField("available_size_micros") else "unknown"
    delay_us = leg.taker_delay.ToMicroseconds()
    side = words.word(signal_pb2.BookSide, leg.book_side).lower()
    title = checked.market.title if checked.market is not None else ""
    return facts(
        [
            (f"{leg.leg_number}", f'{verb} "{leg.outcome_label}" (outcome {leg.outcome_index})'),
            ("market", f"{title} ({leg.market_id})" if title else leg.market_id),
            ("instrument", leg.venue_instrument_id),
            (
                "limit",
                f"{words.decimal(leg.limit_price_micros)}, on the {side}s at {words.decimal(leg.book_price_micros)}",
            ),
            (
                "size",
                f"{size} available; minimum {words.decimal(leg.minimum_size_micros)}, "
                f"step {words.decimal(leg.size_step_micros)}; tick {words.decimal(leg.tick_size_micros)}",
            ),
            ("neg risk", "yes" if leg.neg_risk else None),
            ("taker delay", words.span(delay_us) if delay_us else None),
            ("book", f"epoch {leg.book_epoch}, received {words.moment(leg.receive_time, now_us)}"),
        ]
    )


_UNITS: dict[int, str] = {
    signal_pb2.EVIDENCE_UNIT_MICROS: "micros",
    signal_pb2.EVIDENCE_UNIT_MICROSECONDS: "µs",
    signal_pb2.EVIDENCE_UNIT_PARTS_PER_MILLION: "ppm",
    signal_pb2.EVIDENCE_UNIT_BOOLEAN: "bool",
}


def _inputs(signal: signal_pb2.Signal) -> RenderableType:
    if not signal.evidence:
        return Text("none came with the answer", style="dim")
    table = rows_table(("name", FOLD), ("value", RIGHT), ("stored", RIGHT), ("from", FOLD))
    for item in signal.evidence:
        table.add_row(
            item.name,
            evidence_value(item),
            f"{item.value} {_UNITS.get(item.unit, '')}".rstrip(),
            Text(item.source, style="dim"),
        )
    return table


def evidence_value(item: signal_pb2.Evidence) -> str:
    if item.unit in (signal_pb2.EVIDENCE_UNIT_MICROS, signal_pb2.EVIDENCE_UNIT_PARTS_PER_MILLION):
        return words.decimal(item.value)
    if item.unit == signal_pb2.EVIDENCE_UNIT_MICROSECONDS:
        return words.span(item.value) if abs(item.value) < 10**15 else str(item.value)
    if item.unit == signal_pb2.EVIDENCE_UNIT_BOOLEAN:
        return "yes" if item.value else "no"
    return f"{item.value:,}"


def _books(legs: Sequence[LegCheck], columns: int) -> RenderableType:
    table = rows_table(
        ("leg", RIGHT),
        "side",
        ("at trigger", RIGHT),
        ("now", RIGHT),
        ("moved", RIGHT),
        *([("epoch", RIGHT), ("age now", RIGHT)] if columns >= 100 else [("age", RIGHT)]),
        ("still there", FOLD),
    )
    for checked in legs:
        leg = checked.leg
        best, inside = checked.now()
        then = words.decimal(leg.book_price_micros)
        if leg.HasField("available_size_micros"):
            then += f" × {words.decimal(leg.available_size_micros)}"
        verdict = Text(checked.book_words, "dim")
        if checked.book is not None:
            verdict = (
                Text(f"{words.decimal(inside)} at or inside the limit", "green")
                if inside
                else Text("nothing at or inside the limit", "yellow")
            )
        epoch = f"{leg.book_epoch} → {checked.book.order_book.epoch}" if checked.book else str(leg.book_epoch)
        table.add_row(
            str(leg.leg_number),
            words.word(signal_pb2.BookSide, leg.book_side).lower(),
            then,
            words.absent(best),
            "-" if best is None else words.decimal(best - leg.book_price_micros, signed=True),
            *([epoch] if columns >= 100 else []),
            words.span(checked.book.age.ToMicroseconds()) if checked.book else "-",
            verdict,
        )
    return table


def _fee(checked: LegCheck, *, many: bool) -> list[RenderableType]:
    leg = checked.leg
    parts: list[RenderableType] = []
    if many:
        parts.append(Text(f'leg {leg.leg_number}: "{leg.outcome_label}" of {leg.market_id}', style="dim"))
    schedule = checked.schedule
    if schedule is None:
        words_ = checked.market_words or "the market has no fee schedule for the time of the trigger"
        return [*parts, Text(words_, style="yellow")]
    steps = checked.fee_working()
    pairs: list[tuple[str, object]] = [
        ("rule", f"{fee_formula(schedule, schedule.taker_rate_ppm)}, taker; {schedule.source}".rstrip("; ")),
        *((" " if i else "working", f"{step.expression} = {step.result}") for i, step in enumerate(steps)),
    ]
    stated = words.decimal(leg.expected_fee_micros) if leg.HasField("expected_fee_micros") else "none"
    pairs.append(("stated", Text(stated).append("  ").append(_equal(checked.fee_equal))))
    return [*parts, facts(pairs)]


def _equal(equal: bool | None) -> Text:
    if equal is None:
        return Text("nothing to compare", "dim")
    return Text("equal", "bold green") if equal else Text("NOT EQUAL", "bold red")


def _computed_again(checked: SignalCheck) -> list[RenderableType]:
    again, signal = checked.recomputed, checked.signal
    if again is None:
        return [Text(f"not possible: {checked.words}", style="yellow")]
    pairs: list[tuple[str, object]] = [
        (term.name, words.decimal(term.value_micros, signed=True)) for term in again.terms
    ]
    edge_equal = again.net_edge_micros == (signal.net_edge_micros if signal.HasField("net_edge_micros") else None)
    pairs += [
        (
            "net edge",
            Text(f"{words.absent(again.net_edge_micros, signed=True)}, stated {edge(signal)}  ").append(
                _equal(edge_equal)
            ),
        ),
        (
            "strength",
            Text(f"{words.decimal(again.strength_ppm)}, stated {words.decimal(strength_ppm(signal))}  ").append(
                _equal(again.strength_ppm == strength_ppm(signal))
            ),
        ),
    ]
    verdict = Text("computed again: ").append(_equal(checked.equal))
    return [facts(pairs), verdict]
