"""Our engine beside nautilus_trader on one fixture: the same intents, the same fills, cash and profit to 0.01 cents."""

from dataclasses import replace
from types import ModuleType

import pytest

from oddstream_server.backtesting.accounts.lots import SETTLED, SOLD, VOIDED
from oddstream_server.backtesting.engine import Outcome
from tests.backtesting.oracle.shared_fixture import (
    BANKROLL_MICROS,
    CENT,
    SharedWorld,
    a_shared_world,
    intents_of,
    our_run,
)

TOLERANCE_MICROS = 100  # 0.01 cents

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]  # another project's warnings are its business

Traded = dict[tuple[int, int, int, str, int], tuple[int, int]]
"""(size, fee) by (time, market, outcome, side, price)."""


@pytest.fixture(scope="module")
def nautilus() -> ModuleType:
    pytest.importorskip(
        "nautilus_trader",
        reason="nautilus_trader is not installed; `make test-public-oracle` installs it and runs this",
    )
    from tests.backtesting.oracle import nautilus as player

    return player


def ours(outcome: Outcome) -> Traded:
    """What our blotter bought and sold; payouts are no trades."""
    found: Traded = {}

    def add(key: tuple[int, int, int, str, int], size: int, fee: int) -> None:
        before = found.get(key, (0, 0))
        found[key] = (before[0] + size, before[1] + fee)

    for row in outcome.account.entries:
        intent = outcome.log.intents[row["intent"]]
        market, side = int(intent["market"]), int(intent["outcome"])
        bought = (int(row["entry_us"]), market, side, "buy", int(row["price_micros"]))
        add(bought, int(row["size_micros"]), int(row["fee_micros"]))
        if row["exit"] == SOLD:
            sold = (int(row["exit_us"]), market, side, "sell", int(row["exit_price_micros"]))
            add(sold, int(row["size_micros"]), int(row["exit_fee_micros"]))
    return found


def differences(outcome: Outcome, nautilus: ModuleType, world: SharedWorld) -> list[str]:
    """In what the two engines differ by more than the tolerance; empty where they agree."""
    played = nautilus.play(world, intents_of(outcome))
    theirs = {
        (f.time_us, f.market, f.outcome, f.side, f.price_micros): (f.size_micros, f.fee_micros)
        for f in played.fills
        if f.side != "paid"
    }
    mine, found = ours(outcome), []
    for key in sorted(mine.keys() | theirs.keys()):
        (size, fee), (other_size, other_fee) = mine.get(key, (0, 0)), theirs.get(key, (0, 0))
        if size != other_size or abs(fee - other_fee) > TOLERANCE_MICROS:
            found.append(f"fill {key}: {size} for a fee of {fee}, nautilus {other_size} for {other_fee}")
    for instant in outcome.account.equity:
        cash, other = int(instant["cash_micros"]), played.cash_at(int(instant["time_us"]))
        if abs(cash - other) > TOLERANCE_MICROS:
            found.append(f"cash at {instant['time_us']}: {cash}, nautilus {other}")
    profit, other = outcome.account.profit_micros, played.cash[-1][1] - BANKROLL_MICROS
    if abs(profit - other) > TOLERANCE_MICROS:
        found.append(f"profit: {profit}, nautilus {other}")
    return found


@pytest.mark.parametrize("walks", [False, True], ids=["touch", "book walk"])
@pytest.mark.parametrize("seed", range(5))
def test_fills_cash_and_profit_are_those_of_nautilus(seed: int, walks: bool, nautilus: ModuleType) -> None:
    world = a_shared_world(seed, walks=walks)
    outcome = our_run(world)
    assert len(outcome.account.entries) > 20
    assert differences(outcome, nautilus, world) == []


def test_the_shared_worlds_sell_are_paid_and_are_refunded() -> None:
    exits = {exit_ for seed in range(5) for exit_ in our_run(a_shared_world(seed, walks=True)).account.entries["exit"]}
    assert exits == {SOLD, SETTLED, VOIDED}


@pytest.mark.parametrize("planted", ["fee", "payout", "price", "size", "late"])
def test_a_planted_error_is_found(planted: str, nautilus: ModuleType) -> None:
    world = a_shared_world(0, walks=False)
    first = world.markets[0]
    if planted == "fee":
        fees = tuple(replace(f, taker_rate_ppm=f.taker_rate_ppm + 200) for f in first.fees)
        wrong = replace(world, markets=(replace(first, fees=fees), *world.markets[1:]))
    elif planted == "payout":
        wrong = replace(
            world,
            markets=tuple(replace(m, payout_micros=m.payout_micros and m.payout_micros - 10) for m in world.markets),
        )
    elif planted == "late":
        wrong = replace(world, markets=tuple(replace(m, paid_us=m.paid_us + 600_000_000) for m in world.markets))
    else:
        by = (CENT, 0) if planted == "price" else (0, 1_000_000)
        wrong = replace(
            world,
            books=tuple(
                replace(b, asks=tuple((price + by[0], size + by[1]) for price, size in b.asks)) for b in world.books
            ),
        )
    assert differences(our_run(wrong), nautilus, world) != []
