"""Price levels against a plain model."""

from hypothesis import given
from hypothesis import strategies as st

from oddstream_server.venues.books import PriceLevels

_CHANGES = st.lists(
    st.tuples(st.booleans(), st.integers(1, 20).map(lambda p: p * 10_000), st.integers(0, 3).map(lambda s: s * 10_000)),
    max_size=60,
)


@given(_CHANGES)
def test_the_kept_top_is_the_best_of_all_levels_after_any_changes(changes: list[tuple[bool, int, int]]) -> None:
    book, bids, asks = PriceLevels(), dict[int, int](), dict[int, int]()
    for bid, price, size in changes:
        (book.set_bid if bid else book.set_ask)(price, size)
        side = bids if bid else asks
        side[price] = size
        bids = {p: s for p, s in bids.items() if s > 0}
        asks = {p: s for p, s in asks.items() if s > 0}
        best_bid, best_ask = max(bids, default=None), min(asks, default=None)
        assert book.top() == (
            best_bid,
            None if best_bid is None else bids[best_bid],
            best_ask,
            None if best_ask is None else asks[best_ask],
        )
        assert book.crossed == (best_bid is not None and best_ask is not None and best_bid >= best_ask)


def test_an_order_book_lists_the_best_first_and_leaves_empty_levels_out() -> None:
    book = PriceLevels([(400_000, 5), (410_000, 0), (390_000, 7)], [(430_000, 1), (420_000, 2)])
    listed = book.order_book("kalshi:A", epoch=3, receive_time_us=9, venue_time_us=8)
    assert [(level.price_micros, level.size_micros) for level in listed.bids] == [(400_000, 5), (390_000, 7)]
    assert [(level.price_micros, level.size_micros) for level in listed.asks] == [(420_000, 2), (430_000, 1)]
    assert (listed.epoch, listed.receive_time_us, listed.venue_time_us, listed.crossed) == (3, 9, 8, False)
