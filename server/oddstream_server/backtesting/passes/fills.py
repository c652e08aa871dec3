"""Second pass over a shard: intents meet the book, and become a log of offers in one order of time.

How much of an offer is taken is the bankroll's business (:mod:`portfolio`); what was on offer is a matter of the data
alone, so that it can be found shard by shard. Each intent is offered a fill at three moments at once, so that one pass
serves every rung of the fill ladder:

- ``AT_SIGNAL``: at the touch that the signal was made from, or for an exit the first usable one from there on;
- ``NEXT_QUOTE``: at the touch of the first usable row after it;
- ``CONFIGURED``: by the run's own model, at the first usable row at or after signal + latency.

A row is usable where the market is open and the gate is, and the side is there. An entry that meets no usable row
before its signal expires lapses; an exit waits on. A book that has deeper levels is walked when its best price is the
touch's. A maker's entry joins the queue behind the size shown; prints at its price move it on, a print through its
price fills it, a cancelled size ahead moves it on as well, and a decrease that a print of the same instant explains
counts once. Books come before prints of the same instant.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from oddstream_server.backtesting.acceleration import compiled
from oddstream_server.backtesting.passes.intents import compact, joined
from oddstream_server.backtesting.passes.offers import (
    AT_SIGNAL,
    CONFIGURED,
    DECIDE,
    MAXIMUM_LEVELS,
    NEXT_QUOTE,
    OFFER,
    PENDING,
    gate_open,
    offer_touch,
    rest_on_print,
    rest_on_quote,
    write_offer,
)
from oddstream_server.backtesting.records.columns import MISSING, Shard, TradeRows
from oddstream_server.backtesting.records.universe import Universe


def walk(
    begin: Any,
    end: Any,
    market: Any,
    receive_time_us: Any,
    ingest_sequence: Any,
    bid_price: Any,
    bid_size: Any,
    ask_price: Any,
    ask_size: Any,
    print_market: Any,
    print_time_us: Any,
    print_sequence: Any,
    print_price: Any,
    print_size: Any,
    print_taker: Any,
    book_market: Any,
    book_time_us: Any,
    book_number: Any,
    book_side: Any,
    book_price: Any,
    book_size: Any,
    terms: Any,
    changes: Any,
    status: Any,
    cursors: Any,
    pendings: Any,
    waiting: Any,
    last_row: Any,
    book_bounds: Any,
    levels: Any,
    intents: Any,
    offers: Any,
    options: Any,
) -> Any:
    """Rows ``begin`` to ``end``; returns the row to go on with, before ``end`` where ``offers`` is full.

    :param cursors: [change, intent, print, book row, offers written, most offers of one turn, row seen, number of the
        first intent].
    :param pendings: PENDING by (strategy, market, 0 entry, 1 exit of outcome 0, 2 exit of outcome 1).
    :param waiting: pendings with something left, by market, and of all markets behind them.
    :param last_row: by market; not kept where all intents are of their rows' own markets.
    :param options: [latency, fills on the trigger, walks books, makes, moments, intents are of their rows' markets].
    """
    latency, on_trigger, walks, makes = options[0], options[1] != 0, options[2] != 0, options[3] != 0
    asked, own_rows, total = options[4], options[5] != 0, len(waiting) - 1
    change, intent, printed, book, written = cursors[0], cursors[1], cursors[2], cursors[3], cursors[4]
    change_count, intent_count, print_count, book_count = (
        len(changes),
        len(intents),
        len(print_market),
        len(book_market),
    )
    strategies = pendings.shape[0]
    next_change_us = changes[change]["time_us"] if change < change_count else 2**62
    next_row = intents[intent]["row"] if intent < intent_count else 2**62
    i = begin
    seen = cursors[6] != 0
    while i < end and written + cursors[5] <= len(offers):
        if not seen:
            # rows of markets where nothing waits: prints, books and changes are caught up with at the next stop
            stop = min(end, next_row)
            if own_rows:
                if waiting[total] == 0:
                    i = stop
                while i < stop and waiting[market[i]] == 0:
                    i += 1
            else:
                while i < stop and waiting[market[i]] == 0:
                    last_row[market[i]] = i
                    i += 1
            if i == end:
                break
        # one thing a turn, so that the room in offers is asked for each time: a print that is due, the row, an intent
        now = receive_time_us[i]
        due = printed < print_count
        if due and seen:
            wanted = intents[intent]
            due = print_time_us[printed] < wanted["time_us"] or (
                wanted["phase"] == 1
                and print_time_us[printed] == wanted["time_us"]
                and print_sequence[printed] <= wanted["sequence"]
            )
        elif due:
            due = print_time_us[printed] < now
        if due:
            at, m = print_time_us[printed], print_market[printed]
            while next_change_us <= at:
                status[changes[change]["market"]] = changes[change]["status"]
                change += 1
                next_change_us = changes[change]["time_us"] if change < change_count else 2**62
            if waiting[m] > 0 and status[m] == 2:
                for s in range(strategies):
                    pending = pendings[s, m, 0]
                    if pending["resting"] != 0 and at < pending["expire_us"]:
                        written = rest_on_print(
                            offers,
                            written,
                            pending,
                            at,
                            print_sequence[printed],
                            print_price[printed],
                            print_size[printed],
                            print_taker[printed],
                            terms[m]["payout_micros"],
                        )
            printed += 1
            continue
        if seen:
            at = intents[intent]["time_us"]
            while next_change_us <= at:
                status[changes[change]["market"]] = changes[change]["status"]
                change += 1
                next_change_us = changes[change]["time_us"] if change < change_count else 2**62
            m = intents[intent]["market"]
            r = i if own_rows else last_row[m]
            level_count = 0
            if walks and on_trigger:
                level_count = load_levels(
                    levels, book_bounds[m, 0], book_bounds[m, 1], book_side, book_price, book_size
                )
            written = decide(
                offers, written, intents[intent], cursors[7] + intent, i, latency, on_trigger, makes, asked,
                bid_price[r], bid_size[r], ask_price[r], ask_size[r], terms[m], status[m], pendings, waiting, levels,
                level_count,
            )  # fmt: skip
            intent += 1
            next_row = intents[intent]["row"] if intent < intent_count else 2**62
            if next_row != i:
                seen = False
                i += 1
            continue
        while next_change_us <= now:
            status[changes[change]["market"]] = changes[change]["status"]
            change += 1
            next_change_us = changes[change]["time_us"] if change < change_count else 2**62
        m = market[i]
        if walks:
            while book < book_count and book_time_us[book] <= now:
                b = book_market[book]
                if book == 0 or book_number[book] != book_number[book - 1]:
                    book_bounds[b, 0] = book
                book_bounds[b, 1] = book + 1
                book += 1
        last_row[m] = i
        if waiting[m] > 0 and status[m] == 2:
            payout = terms[m]["payout_micros"]
            bid, ask = bid_price[i], ask_price[i]
            if gate_open(bid, ask, payout):
                level_count = 0
                if walks:
                    level_count = load_levels(
                        levels, book_bounds[m, 0], book_bounds[m, 1], book_side, book_price, book_size
                    )
                for s in range(strategies):
                    # exits first: a strategy that turns sells before it buys
                    for k in (1, 2, 0):
                        pending = pendings[s, m, k]
                        if pending["moments"] == 0 and pending["resting"] == 0:
                            continue
                        if k == 0 and now >= pending["expire_us"]:
                            pending["moments"] = 0
                            pending["resting"] = 0
                            waiting[m] -= 1
                            waiting[total] -= 1
                            continue
                        if pending["resting"] != 0:
                            written = rest_on_quote(
                                offers,
                                written,
                                pending,
                                now,
                                ingest_sequence[i],
                                bid,
                                bid_size[i],
                                ask,
                                ask_size[i],
                                payout,
                            )
                        later = i > pending["row"]
                        arrived = (later or on_trigger) and now >= pending["arrival_us"]
                        moments = pending["moments"] & (
                            (1 if k > 0 else 0) | (2 if later else 0) | (4 if arrived else 0)
                        )
                        if makes and k == 0 and (moments & 4) != 0:
                            own = bid if pending["outcome"] == 0 else ask
                            if own != MISSING:
                                pending["resting"] = 1
                                pending["rest_price"] = own
                                pending["queue_micros"] = bid_size[i] if pending["outcome"] == 0 else ask_size[i]
                                pending["credited_us"] = now
                                pending["credited_micros"] = 0
                                pending["moments"] = pending["moments"] & ~4
                            moments = moments & ~4
                        written = offer_touch(
                            offers,
                            written,
                            pending,
                            1 if k > 0 else 0,
                            now,
                            ingest_sequence[i],
                            bid,
                            bid_size[i],
                            ask,
                            ask_size[i],
                            payout,
                            moments,
                            levels,
                            level_count,
                        )
                        if pending["moments"] == 0 and pending["resting"] == 0:
                            waiting[m] -= 1
                            waiting[total] -= 1
        if next_row == i:
            seen = True
        else:
            i += 1
    cursors[0], cursors[1], cursors[2], cursors[3], cursors[4] = change, intent, printed, book, written
    cursors[6] = 1 if seen else 0
    return i


def decide(
    offers: Any, written: Any, wanted: Any, number: Any, row: Any, latency: Any, on_trigger: Any, makes: Any,
    asked: Any, bid: Any, bid_size: Any, ask: Any, ask_size: Any, terms: Any, status: Any, pendings: Any,
    waiting: Any, levels: Any, level_count: Any,
) -> Any:  # fmt: skip
    """An intent begins to wait; what the book offers at once is written. Returns the offers written in all."""
    m, s = wanted["market"], wanted["strategy"]
    now, phase, sequence = wanted["time_us"], wanted["phase"], wanted["sequence"]
    payout, total = terms["payout_micros"], len(waiting) - 1
    entry = pendings[s, m, 0]
    if entry["moments"] != 0 or entry["resting"] != 0:
        # a new intent takes the place of an entry that waits
        entry["moments"] = 0
        entry["resting"] = 0
        waiting[m] -= 1
        waiting[total] -= 1
    k = 0 if wanted["kind"] == 1 else 1 + wanted["outcome"]
    pending = pendings[s, m, k]
    if pending["moments"] == 0:
        waiting[m] += 1
        waiting[total] += 1
    pending["moments"] = asked
    pending["intent"] = number
    pending["row"] = row
    pending["outcome"] = wanted["outcome"]
    pending["expire_us"] = wanted["expire_us"]
    pending["arrival_us"] = now if on_trigger else now + max(latency, terms["taker_delay_us"])
    if k == 0:
        write_offer(
            offers,
            written,
            DECIDE,
            7,
            number,
            now,
            phase,
            sequence,
            wanted["price_micros"],
            wanted["price_micros"],
            wanted["size_micros"],
            0,
            1 - wanted["outcome"],
            0,
        )
        written += 1
    if status == 2 and gate_open(bid, ask, payout):
        moments = asked & (1 | (4 if on_trigger and not (makes and k == 0) else 0))
        first = written
        written = offer_touch(
            offers,
            written,
            pending,
            1 if k > 0 else 0,
            now,
            sequence,
            bid,
            bid_size,
            ask,
            ask_size,
            payout,
            moments,
            levels,
            level_count,
        )
        for place in range(first, written):
            offers[place]["phase"] = phase
    if k == 0:
        pending["moments"] = pending["moments"] & ~1
    if pending["moments"] == 0:
        waiting[m] -= 1
        waiting[total] -= 1
    return written


def load_levels(levels: Any, begin: Any, end: Any, side: Any, price: Any, size: Any) -> Any:
    """Copy a recorded book's levels; returns how many there are."""
    count = min(end - begin, len(levels))
    for j in range(count):
        levels[j, 0] = side[begin + j]
        levels[j, 1] = price[begin + j]
        levels[j, 2] = size[begin + j]
    return count


def finish_prints(
    print_market: Any,
    print_time_us: Any,
    print_sequence: Any,
    print_price: Any,
    print_size: Any,
    print_taker: Any,
    terms: Any,
    changes: Any,
    status: Any,
    cursors: Any,
    pendings: Any,
    waiting: Any,
    offers: Any,
) -> Any:
    """The prints after the last quote; returns False where ``offers`` is full and it wants to be called again."""
    change, printed, written = cursors[0], cursors[2], cursors[4]
    while printed < len(print_market):
        if written + cursors[5] > len(offers):
            break
        at, m = print_time_us[printed], print_market[printed]
        while change < len(changes) and changes[change]["time_us"] <= at:
            status[changes[change]["market"]] = changes[change]["status"]
            change += 1
        if waiting[m] > 0 and status[m] == 2:
            for s in range(pendings.shape[0]):
                pending = pendings[s, m, 0]
                if pending["resting"] != 0 and at < pending["expire_us"]:
                    written = rest_on_print(
                        offers,
                        written,
                        pending,
                        at,
                        print_sequence[printed],
                        print_price[printed],
                        print_size[printed],
                        print_taker[printed],
                        terms[m]["payout_micros"],
                    )
        printed += 1
    cursors[0], cursors[2], cursors[4] = change, printed, written
    return printed == len(print_market)


@dataclass(frozen=True, slots=True)
class FillRules:
    """How offers are found.

    :param latency_us: from the signal to the venue; the venue's taker delay holds where it is longer.
    """

    latency_us: int = 500_000
    on_trigger: bool = False
    walks_books: bool = True
    makes: bool = False
    moments: int = AT_SIGNAL | NEXT_QUOTE | CONFIGURED
    """Which moments are wanted; the fill ladder needs all."""


class OfferPass:
    """The book on its way past the intents of a shard, in the order of rows.

    :param strategy_count: strategies that the intents are of.
    :param own_rows: every intent is of its row's own market, so that no other market's last row is asked for.
    """

    def __init__(
        self,
        shard: Shard,
        universe: Universe,
        strategy_count: int,
        rules: FillRules,
        *,
        own_rows: bool = False,
        plain: bool = False,
    ) -> None:
        self._walk: Callable[..., Any] = compiled(walk, plain=plain)
        self._finish: Callable[..., Any] = compiled(finish_prints, plain=plain)
        self._quotes, self._universe, self._rules = shard.quotes, universe, rules
        prints, books = shard.trades if rules.makes else TradeRows.none(), shard.books
        self._prints = (
            prints.market,
            prints.receive_time_us,
            prints.ingest_sequence,
            prints.price_micros,
            prints.size_micros,
            prints.taker_outcome,
        )
        self._books = (
            books.market,
            books.receive_time_us,
            books.book,
            books.side,
            books.price_micros,
            books.size_micros,
        )
        count = max(len(universe), 1)
        walks = rules.walks_books and len(books) > 0
        level_room = MAXIMUM_LEVELS if walks else 0
        self._reserve = (3 * strategy_count + 2) * (1 + level_room) + strategy_count
        self._status = np.zeros(count, dtype=np.int64)
        self._cursors = np.zeros(8, dtype=np.int64)
        self._cursors[5] = self._reserve
        self._pendings = np.zeros((strategy_count, count, 3), dtype=PENDING)
        self._waiting = np.zeros(count + 1, dtype=np.int64)
        self._last_row = np.zeros(count, dtype=np.int64)
        self._book_bounds = np.zeros((count if walks else 1, 2), dtype=np.int64)
        self._levels = np.zeros((max(level_room, 1), 3), dtype=np.int64)
        options = (rules.latency_us, rules.on_trigger, walks, rules.makes, rules.moments, own_rows)
        self._options = np.array(options, dtype=np.int64)

    def run(self, intents: Any, begin: int, end: int) -> list[Any]:
        """Offers of rows ``begin`` to ``end``; calls go on where the one before ended.

        :param intents: INTENT of these rows in order; they are numbered from where those of the call before ended.
        """
        q, chunks = self._quotes, []
        self._cursors[1] = 0
        while begin < end:
            offers = np.empty(max(4 * len(intents), 2 * self._reserve) + 64, dtype=OFFER)
            self._cursors[4] = 0
            begin = self._walk(
                begin,
                end,
                q.market,
                q.receive_time_us,
                q.ingest_sequence,
                q.bid_price_micros,
                q.bid_size_micros,
                q.ask_price_micros,
                q.ask_size_micros,
                *self._prints,
                *self._books,
                self._universe.terms,
                self._universe.changes,
                self._status,
                self._cursors,
                self._pendings,
                self._waiting,
                self._last_row,
                self._book_bounds,
                self._levels,
                intents,
                offers,
                self._options,
            )
            chunks.append(offers[: self._cursors[4]])
        self._cursors[7] += len(intents)
        return chunks

    def finish(self) -> list[Any]:
        """Offers of the prints after the last quote."""
        chunks = []
        done = not self._rules.makes
        while not done:
            offers = np.empty(64 + 2 * self._reserve, dtype=OFFER)
            self._cursors[4] = 0
            done = self._finish(
                *self._prints,
                self._universe.terms,
                self._universe.changes,
                self._status,
                self._cursors,
                self._pendings,
                self._waiting,
                offers,
            )
            chunks.append(offers[: self._cursors[4]])
        return chunks


def find_offers(
    shard: Shard, universe: Universe, intents: Any, strategy_count: int, rules: FillRules, *, plain: bool = False
) -> Any:
    """The log of a shard's intents: an array of OFFER by (time, phase, sequence).

    :param intents: array of INTENT by (row, time, sequence, strategy).
    """
    own_rows = bool((shard.quotes.market[intents["row"]] == intents["market"]).all())
    book = OfferPass(shard, universe, strategy_count, rules, own_rows=own_rows, plain=plain)
    chunks = [*book.run(intents, 0, len(shard.quotes)), *book.finish()]
    offers = joined(chunks, OFFER)
    return compact(offers) if len(chunks) == 1 else offers
