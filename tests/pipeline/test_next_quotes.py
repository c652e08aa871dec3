"""The touch one quote later, whatever batches the ticks come in."""

import random
from dataclasses import replace

from oddstream_server.application.ports import NextQuote, WaitingQuote
from oddstream_server.domain.grading import Touch
from oddstream_server.domain.quote import Quote
from oddstream_server.domain.signal import DataOrigin, SignalEvent, SignalEventType
from oddstream_server.pipeline.deciding.next_quotes import NextQuotes, waiting_of
from oddstream_server.pipeline.deciding.runner import StrategyRunner
from tests.pipeline.test_leadership import strategies
from tests.strategies.worlds import a_quote, a_world

NOW = 1_780_000_000_000_000
A, B = "kalshi:A", "kalshi:B"
WAITING = [WaitingQuote("sig_a", 0, A, NOW), WaitingQuote("sig_a", 1, B, NOW)]


def quote(market_id: str, after_us: int, bid: int | None = 400_000, ask: int | None = 420_000) -> Quote:
    return a_quote(market_id, NOW + after_us, bid, ask)


def waiting() -> NextQuotes:
    quotes = NextQuotes()
    quotes.restore(WAITING)
    return quotes


def test_each_leg_takes_the_first_two_sided_quote_after_its_trigger() -> None:
    quotes = waiting()
    found = quotes.see(
        [
            quote(A, 0),  # what triggered it
            quote(A, 1, bid=None),
            quote(A, 2, bid=420_000),  # locked
            quote(A, 3, bid=430_000),  # crossed
            quote(A, 4, bid=410_000),
            quote(A, 5),
        ],
        [],
    )
    assert found == (NextQuote("sig_a", 0, Touch(410_000, 420_000, NOW + 4)),)
    quotes.commit()
    assert len(quotes) == 1
    assert quotes.see([quote(A, 6)], []) == ()
    assert [f.leg_number for f in quotes.see([quote(B, 7)], [])] == [1]


def test_what_a_failed_transaction_saw_is_seen_again() -> None:
    quotes = waiting()
    first = quotes.see([quote(A, 1)], [])
    quotes.rollback()
    assert quotes.see([quote(A, 1)], []) == first != ()


def test_a_replayed_signal_waits_for_nothing() -> None:
    world = a_world(41)
    runner = StrategyRunner(strategies())
    runner.offer_catalog([world.event], world.markets)
    events = runner.decide(world.quotes).events
    assert waiting_of(events)
    replayed = [replace(e, signal=replace(e.signal, data_origin=DataOrigin.REPLAY)) for e in events]
    assert waiting_of(replayed) == []


def test_any_cut_into_batches_finds_the_same_quotes() -> None:
    world = a_world(41)
    rng = random.Random(7)

    def found(cuts: set[int]) -> tuple[list[NextQuote], list[SignalEvent], int]:
        runner, quotes = StrategyRunner(strategies()), NextQuotes()
        runner.offer_catalog([world.event], world.markets)
        answer: list[NextQuote] = []
        events: list[SignalEvent] = []
        begin = 0
        for end in sorted({*cuts, len(world.quotes)}):
            # whole instants, as the pipeline hands them over
            while (
                end < len(world.quotes) and world.quotes[end].receive_time_us == world.quotes[end - 1].receive_time_us
            ):
                end += 1
            batch = world.quotes[begin:end]
            begin = max(begin, end)
            decision = runner.decide(batch)
            seen = quotes.see(batch, decision.events)
            if rng.random() < 0.3:  # the transaction failed and is tried again
                runner.rollback()
                quotes.rollback()
                decision = runner.decide(batch)
                assert quotes.see(batch, decision.events) == seen
            runner.commit()
            quotes.commit()
            answer += seen
            events += decision.events
        return sorted(answer, key=lambda f: (f.signal_id, f.leg_number)), events, len(quotes)

    whole, events, left = found(set())
    legs = sum(len(e.signal.legs) for e in events if e.type in (SignalEventType.CREATED, SignalEventType.REVISED))
    assert len(whole) > 50
    assert len(whole) + left == legs
    for _ in range(3):
        cuts = {rng.randrange(1, len(world.quotes)) for _ in range(60)}
        assert found(cuts) == (whole, events, left)
