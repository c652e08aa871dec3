"""The same rules by others: a loop written by hand, vectorbt, hftbacktest."""

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from loadtests.backtest.strategy import WINDOW
from loadtests.backtest.world import CENT, MARKETS, ROWS, World


def hand_made_loop() -> Callable[..., Any]:
    import numba

    @numba.njit(nogil=True, error_model="numpy")
    def loop(market: Any, bid: Any, ask: Any, ring: Any, cells: Any, blotter: Any) -> Any:
        written = 0
        for i in range(len(market)):
            m = market[i]
            x = (bid[i] + ask[i]) // 5_000
            cursor, total, squares = cells[m, 0], cells[m, 1], cells[m, 2]
            if cells[m, 3] >= WINDOW:
                d = WINDOW * x - total
                if d > 0:
                    if cells[m, 4] > 0:
                        price = bid[i] // CENT
                        fee = (7 * 100 * price * (100 - price) + 9_999) // 10_000
                        blotter[written, 0] = i
                        blotter[written, 1] = 100 * (price - cells[m, 4]) - fee - cells[m, 5]
                        written += 1
                        cells[m, 4] = 0
                elif cells[m, 4] == 0 and d * d * (WINDOW - 1) > 4 * WINDOW * (WINDOW * squares - total * total):
                    price = ask[i] // CENT
                    cells[m, 4] = price
                    cells[m, 5] = (7 * 100 * price * (100 - price) + 9_999) // 10_000
                old = ring[m, cursor]
                cells[m, 1] = total + x - old
                cells[m, 2] = squares + x * x - old * old
            else:
                cells[m, 1] = total + x
                cells[m, 2] = squares + x * x
                cells[m, 3] += 1
            ring[m, cursor] = x
            cursor += 1
            cells[m, 0] = 0 if cursor == WINDOW else cursor
        return written

    made: Callable[..., Any] = loop
    return made


def vectorbt_run(world: World) -> Callable[[], int] | None:
    if importlib.util.find_spec("vectorbt") is None:
        print("vectorbt is not installed, so it isn't measured: uv sync --group bench")
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vectorbt as vbt

    bid, ask = world.bid_cents / 100, world.ask_cents / 100

    def run() -> int:
        mid = (bid + ask) / 2
        sums, squares = np.cumsum(mid, axis=0), np.cumsum(mid * mid, axis=0)
        nothing = np.zeros((1, MARKETS))
        total = sums[WINDOW - 1 : -1] - np.vstack([nothing, sums[: -WINDOW - 1]])
        of_squares = squares[WINDOW - 1 : -1] - np.vstack([nothing, squares[: -WINDOW - 1]])
        mean = total / WINDOW
        z = np.full_like(mid, np.nan)
        z[WINDOW:] = (mid[WINDOW:] - mean) / np.sqrt((of_squares - WINDOW * mean * mean) / (WINDOW - 1))
        entries, exits = z < -2, z > 0
        portfolio = vbt.Portfolio.from_signals(
            mid, entries, exits, price=np.where(entries, ask, bid), size=100.0, init_cash=1e9, accumulate=False
        )
        return int(portfolio.orders.count().sum())

    return run


def hftbacktest_run(world: World) -> Callable[[], int] | None:
    if importlib.util.find_spec("hftbacktest") is None:
        print("hftbacktest is not installed, so it isn't measured: uv sync --group bench")
        return None
    import numba
    from hftbacktest import BUY_EVENT, DEPTH_EVENT, EXCH_EVENT, GTC, LOCAL_EVENT, SELL_EVENT, BacktestAsset
    from hftbacktest import LIMIT as LIMIT_ORDER
    from hftbacktest import HashMapMarketDepthBacktest as Backtest
    from hftbacktest.types import event_dtype

    flags = DEPTH_EVENT | EXCH_EVENT | LOCAL_EVENT

    def feed(market: int) -> Any:
        bid, ask = world.bid_cents[:, market] / 100, world.ask_cents[:, market] / 100
        rows = []
        before = (None, None)
        for r in range(ROWS):
            at = (r + 1) * 60_000_000_000
            for side, price, last in ((BUY_EVENT, bid[r], before[0]), (SELL_EVENT, ask[r], before[1])):
                if last is not None and last != price:
                    rows.append((flags | side, at, at, last, 0.0, 0, 0, 0.0))
                rows.append((flags | side, at, at, price, 1_000.0, 0, 0, 0.0))
            before = (bid[r], ask[r])
        return np.array(rows, dtype=event_dtype)

    @numba.njit
    def play(hbt: Any) -> Any:
        ring = np.zeros(WINDOW)
        seen, orders, held = 0, 0, False
        while hbt.elapse(60_000_000_000) == 0:
            depth = hbt.depth(0)
            x = (depth.best_bid + depth.best_ask) / 2
            if seen >= WINDOW:
                deviation = np.sqrt(np.sum((ring - ring.mean()) ** 2) / (WINDOW - 1))
                z = (x - ring.mean()) / deviation if deviation > 0 else 0.0
                if z < -2 and not held:
                    hbt.submit_buy_order(0, seen, depth.best_ask, 100, GTC, LIMIT_ORDER, False)
                    held, orders = True, orders + 1
                elif z > 0 and held:
                    hbt.submit_sell_order(0, seen, depth.best_bid, 100, GTC, LIMIT_ORDER, False)
                    held, orders = False, orders + 1
            ring[seen % WINDOW] = x
            seen += 1
            hbt.clear_inactive_orders(0)
        return orders

    feeds = [feed(market) for market in range(MARKETS)]

    def run() -> int:
        orders = 0
        for data in feeds:
            asset = (
                BacktestAsset()
                .data(data)
                .linear_asset(1.0)
                .constant_order_latency(0, 0)
                .risk_adverse_queue_model()
                .no_partial_fill_exchange()
                .trading_value_fee_model(0.0, 0.0)
                .tick_size(0.01)
                .lot_size(1.0)
            )
            hbt = Backtest([asset])
            orders += play(hbt)
            hbt.close()
        return orders

    return run
