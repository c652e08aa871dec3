"""What the socket printed before or after a gap and the Data API tells of it once more counts once."""

from oddstream_server.venues.polymarket.fills import ToldFills

MARKET, TX = "polymarket:0x1", "0xabc"


def test_a_transaction_that_the_socket_printed_is_not_fetched_again() -> None:
    told = ToldFills()
    assert told.printed(MARKET, TX, 3) == 3
    assert told.printed(MARKET, TX, 4) == 4, "two matches of one transaction"
    rest = told.fetch()
    assert rest(MARKET, TX, 7) == 0, "the Data API has one row of both"
    assert rest(MARKET, TX, 2) == 2, "another row of the transaction that nobody printed"
    assert rest("polymarket:0x2", TX, 5) == 5, "the same transaction traded another market"


def test_of_a_transaction_that_the_socket_lost_halfway_the_rest_is_fetched() -> None:
    told = ToldFills()
    assert told.printed(MARKET, TX, 3) == 3
    assert told.fetch()(MARKET, TX, 10) == 7
    assert told.fetch()(MARKET, TX, 10) == 7, "read again in the next span it is the same fill"


def test_what_was_fetched_and_is_printed_afterwards_counts_once() -> None:
    told = ToldFills()
    assert told.fetch()(MARKET, TX, 5) == 5
    assert told.printed(MARKET, TX, 2) == 0
    assert told.printed(MARKET, TX, 4) == 1
    assert told.fetch()(MARKET, TX, 6) == 0


def test_equal_fills_of_different_transactions_and_those_without_one_all_count() -> None:
    told = ToldFills()
    assert [told.printed(MARKET, tx, 5) for tx in ("0x1", "0x2", "", "")] == [5, 5, 5, 5]
    rest = told.fetch()
    assert [rest(MARKET, tx, 5) for tx in ("0x3", "", "")] == [5, 5, 5]


def test_only_the_newest_transactions_are_remembered() -> None:
    told = ToldFills(capacity=2)
    for tx in ("0x1", "0x2", "0x3"):
        told.printed(MARKET, tx, 5)
    rest = told.fetch()
    assert [rest(MARKET, tx, 5) for tx in ("0x1", "0x3")] == [5, 0]
