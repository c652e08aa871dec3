"""How followed markets are spread over the CLOB's connections."""

import json

from oddstream_server.domain.market import Market
from oddstream_server.venues.polymarket import PolymarketAdapter, PolymarketConfig
from tests.venues.bodies import clob_book, polymarket_market


def markets(*numbers: int) -> list[Market]:
    return [polymarket_market(f"0x{n:064x}", (f"{n}1", f"{n}2")) for n in numbers]


async def test_markets_fill_connections_and_keep_theirs() -> None:
    adapter = PolymarketAdapter(PolymarketConfig(markets_per_connection=2, first_epoch=0))

    def spread() -> list[list[str]]:
        return [[m.outcomes[0].venue_instrument_id for m in feed.markets] for feed in adapter._feeds]

    await adapter.subscribe(markets(1, 2, 3))
    assert spread() == [["11", "21"], ["31"]]
    await adapter.subscribe(markets(3, 4, 2))
    assert spread() == [["21", "41"], ["31"]] or spread() == [["21"], ["31", "41"]]
    await adapter.subscribe(markets(5, 6, 7, 2, 3))
    flat = [token for share in spread() for token in share]
    assert sorted(flat) == ["21", "31", "51", "61", "71"]
    assert "21" in spread()[0]
    assert "31" in spread()[1]
    assert all(len(share) <= 2 for share in spread())
    await adapter.subscribe([])
    assert all(share == [] for share in spread())
    await adapter.close()


async def test_a_book_is_found_on_whichever_connection_brings_it() -> None:
    adapter = PolymarketAdapter(PolymarketConfig(markets_per_connection=1, first_epoch=0))
    first, second = markets(1, 2)
    await adapter.subscribe([first, second])
    assert adapter.order_book(second.market_id) is None
    feed = adapter._feeds[1]
    feed.opened("s", 0)
    feed.receive(json.dumps(clob_book([("0.4", "1")], [("0.5", "1")], "21")), 1)
    book = adapter.order_book(second.market_id)
    assert book is not None
    assert book.bids[0].price_micros == 400_000
    assert adapter.order_book(first.market_id) is None
    assert adapter.breaker_state() == "closed"
    await adapter.close()
