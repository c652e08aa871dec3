"""The volatility of an underlying, estimated up to each price: pure integers, as a kernel's step.

Prices fall into buckets of ten seconds, each standing for its last price. r = ln(last price / last price of the bucket
before that had one), in billionths; volatility = square root of (sum of r^2 / seconds between those buckets) over the
last ten minutes of buckets, in billionths over the square root of a second. Nothing is estimated before minimum_buckets
returns, and the running bucket doesn't count: what is estimated at a row is known at that row.

Bounds: a return counts up to 5 %, so a square is below 2.5e15 and the sum over sixty buckets below 1.6e17.
"""

from typing import Any, Final

import numpy as np

from oddstream_server.strategies.arithmetic import integer_square_root, log_ratio_ppb

BUCKET_US: Final = 10_000_000
BUCKETS: Final = 60
MINIMUM_BUCKETS: Final = 12
LARGEST_RETURN_PPB: Final = 50_000_000

STATE: Final = np.dtype(
    [
        ("price_micros", np.int64),
        ("time_us", np.int64),
        ("bucket", np.int64),
        ("closed_bucket", np.int64),
        ("closed_price", np.int64),
        ("volatility_ppb", np.int64),
        ("bucket_square", np.int64, (BUCKETS,)),
        ("bucket_seconds", np.int64, (BUCKETS,)),
    ]
)


def price_step(state: Any, time_us: Any, price_micros: Any) -> None:
    """One price of the underlying, above 0, in the order of receive times."""
    bucket = time_us // BUCKET_US
    if state["time_us"] != 0 and bucket > state["bucket"]:
        _close(state)
        for passed in range(min(bucket - state["bucket"], BUCKETS)):
            slot = (bucket - passed) % BUCKETS
            state["bucket_square"][slot] = 0
            state["bucket_seconds"][slot] = 0
        state["volatility_ppb"] = _volatility_ppb(state)
    state["bucket"] = max(bucket, state["bucket"])
    state["price_micros"] = price_micros
    state["time_us"] = time_us


def _close(state: Any) -> None:
    if state["closed_price"] > 0:
        seconds = (state["bucket"] - state["closed_bucket"]) * (BUCKET_US // 1_000_000)
        change = log_ratio_ppb(state["price_micros"], state["closed_price"])
        change = min(max(change, -LARGEST_RETURN_PPB), LARGEST_RETURN_PPB)
        slot = state["bucket"] % BUCKETS
        state["bucket_square"][slot] = change * change
        state["bucket_seconds"][slot] = seconds
    state["closed_bucket"] = state["bucket"]
    state["closed_price"] = state["price_micros"]


def _volatility_ppb(state: Any) -> Any:
    """Billionths over the square root of a second; 0 before enough buckets."""
    count = 0
    squares = 0
    seconds = 0
    for slot in range(BUCKETS):
        if state["bucket_seconds"][slot] > 0:
            count += 1
            squares += state["bucket_square"][slot]
            seconds += state["bucket_seconds"][slot]
    if count < MINIMUM_BUCKETS:
        return 0
    return integer_square_root(squares // seconds)
