"""An exit is one fill at each price level, however many lots it closes: the venue sees one, and charges one."""

from typing import Any

import pytest

from oddstream_server.backtesting.accounts.lots import SOLD
from oddstream_server.backtesting.config import FillModel
from oddstream_server.domain.fees import FeeFormula, FeeSchedule
from oddstream_server.domain.quote import BookLevel, OrderBook
from tests.backtesting.scenes import CENT, SECOND, Scene, a_recorded, cheap_market
from tests.strategies.worlds import START_US

pytestmark = pytest.mark.no_cover  # tracing would take most of the time; shorter tests run the same lines

CONTRACT = 1_000_000


def sold(fee: FeeSchedule, *bids: tuple[int, int], **market: Any) -> Any:
    """The blotter of lots bought through a book for 10 USD, at 42, 43 and 44 cents and a micro, and sold to some bids.

    The book shows 5 contracts at each of the first two prices and 13 at the third.

    :param bids: (cents, contracts), best first.
    """
    scene = Scene([a_recorded(cheap_market(fee_schedules=(fee,), **market))])
    scene.quote(1, 40, 41, cue=1).quote(2, 40, 42, cue=1, ask_size=5)
    scene.quote(3, 48, 49).quote(4, bids[0][0], 80, bid_size=bids[0][1])
    asks = tuple(BookLevel((42 + k) * CENT + 1, size * CONTRACT) for k, size in enumerate((5, 5, 13)))
    scene.books.append(OrderBook("kalshi:M0", (), asks, 1, START_US + 2 * SECOND))
    shown = tuple(BookLevel(price * CENT, size * CONTRACT) for price, size in bids)
    scene.books.append(OrderBook("kalshi:M0", shown, (), 1, START_US + 4 * SECOND))
    outcome = scene.run(fill_model=FillModel.BOOK_WALK)
    account = outcome.account
    assert account.entries["exit"].tolist() == [SOLD] * len(account.entries)
    assert account.fees_micros == account.entries["fee_micros"].sum() + account.entries["exit_fee_micros"].sum()
    assert account.final_equity_micros == outcome.config.starting_bankroll_micros + account.profit_micros
    return account.entries


def test_lots_that_one_fill_sells_share_a_fee_that_is_rounded_once() -> None:
    # 0.07 x 22 x 0.71 x 0.29 = 0.3171; lot by lot it would be 0.08 + 0.08 + 0.18
    rows = sold(FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=CENT), (71, 100))
    assert (rows["size_micros"] // CONTRACT).tolist() == [5, 5, 12]
    # pro rata by the contracts sold so far, in the order of purchase: what one lot's share loses, a later one pays
    assert rows["exit_fee_micros"].tolist() == [72_727, 72_727, 174_546]


def test_a_minimum_is_charged_once_for_the_fill_and_not_for_each_lot() -> None:
    rows = sold(FeeSchedule(FeeFormula.QUADRATIC, 70, 0, minimum_micros=300_000), (50, 100))
    assert rows["exit_fee_micros"].sum() == 300_000


def test_each_level_of_a_walked_exit_is_a_fill_with_a_fee_of_its_own() -> None:
    fee = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=20 * CENT)
    rows = sold(fee, (50, 7), (49, 100))
    better, worse = (rows[rows["exit_price_micros"] == cents * CENT] for cents in (50, 49))
    assert (better["size_micros"] // CONTRACT).tolist() == [5, 2]
    assert (worse["size_micros"] // CONTRACT).tolist() == [3, 11]
    assert better["exit_fee_micros"].sum() == 200_000  # 0.1225 up to 20 cents, once and not for 5 and for 2
    assert worse["exit_fee_micros"].sum() == 400_000  # 0.2449


def test_the_balance_change_that_is_rounded_is_the_whole_fills() -> None:
    # a fee to a hundredth of a cent, and the change of the balance down to 10 cents
    fee = FeeSchedule(FeeFormula.QUADRATIC, 70_000, 0, rounding_step_micros=100, balance_step_micros=10 * CENT)
    rows = sold(fee, (60, 100))
    # 22 x 0.60 - 0.3696 = 12.8304, so 0.0304 more is paid, of which the order gets a cent back; lot by lot 0.1004
    assert (rows["proceeds_micros"].sum(), rows["exit_fee_micros"].sum()) == (13_200_000, 390_000)


def test_what_a_fill_brings_is_rounded_once_too() -> None:
    fee = FeeSchedule(FeeFormula.FLAT, 12_347, 0)
    rows = sold(fee, (53, 100), size_step_micros=7, minimum_size_micros=7)
    size = int(rows["size_micros"].sum())
    assert any(rows["size_micros"] * 53 % 100)
    assert rows["proceeds_micros"].sum() == size * 53 // 100
    assert rows["exit_fee_micros"].sum() == -(-size * 12_347 // CONTRACT)
