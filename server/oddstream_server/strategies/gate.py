"""The gate: what has to hold of a market before any strategy looks at it.

Evaluated on every quote before the kernels. While it is shut nothing is said of the market, open opportunities on it
are withdrawn with the gate's reason, and the row stays out of every window:

- crossed or locked book (bid >= ask);
- placeholder book: bid at or below 1 % and ask at or above 99 % of the payout, which venues show for markets without a
  real quote (reason STALE);
- stale: the market's last quote is older than ``stale_gaps`` times the median of its last 15 gaps, and older than
  ``stale_floor_us``. It shuts for groups, where other members move on; a market alone is judged on fresh rows only;
- gap: the book's epoch changed, so data was missed: windows are void, the row itself is fresh;
- the market is not open (MARKET_CLOSED), disputed or a placeholder outcome (RESOLUTION_RISK), as known at that time.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np

from oddstream_server.domain.market import Market, MarketState
from oddstream_server.strategies.kernel import MISSING
from oddstream_server.strategies.params import Params, param

VERSION: Final = 1
GAPS: Final = 15
NEVER: Final = 2**62

STATE: Final = np.dtype(
    [
        ("last_time_us", np.int64),
        ("last_epoch", np.int64),
        ("gap_count", np.int64),
        ("cursor", np.int64),
        ("gaps_us", np.int64, (GAPS,)),
    ]
)


class Shut(IntEnum):
    """Why the gate is shut; OPEN is 0."""

    OPEN = 0
    CROSSED = 1
    STALE = 2
    GAP = 3
    MARKET_CLOSED = 4
    RESOLUTION_RISK = 5

    @property
    def reason(self) -> str:
        """The word on a WITHDRAWN event."""
        return "MARKET_CLOSED" if self is Shut.MARKET_CLOSED else f"GATE_{self.name}"


@dataclass(frozen=True)
class GateParams(Params):
    stale_gaps: int = param(20, 2, 10_000, "count", "median gaps after which a quote is stale")
    stale_floor_us: int = param(300_000_000, 0, 86_400_000_000, "us", "age below which no quote is stale")
    minimum_gaps: int = param(3, 1, GAPS, "count", "gaps seen before staleness is judged")


def gate_step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote of one market.

    :param row: ``receive_time_us, epoch, bid_price_micros, ask_price_micros, payout_micros``.
    :param out: ``shut`` (a :class:`Shut`) and ``void`` (1 where windows across this row are void).
    """
    now = row["receive_time_us"]
    if state["last_time_us"] != 0:
        if row["epoch"] != state["last_epoch"]:
            out["void"] = 1
        gap = now - state["last_time_us"]
        if gap > 0:
            state["gaps_us"][state["cursor"]] = gap
            state["cursor"] = (state["cursor"] + 1) % GAPS
            if state["gap_count"] < GAPS:
                state["gap_count"] += 1
    state["last_time_us"] = now
    state["last_epoch"] = row["epoch"]
    bid = row["bid_price_micros"]
    ask = row["ask_price_micros"]
    if bid != MISSING and ask != MISSING:
        if bid >= ask:
            out["shut"] = 1
        elif bid * 100 <= row["payout_micros"] and ask * 100 >= row["payout_micros"] * 99:
            out["shut"] = 2


def stale_after_us(state: Any, params: Any) -> Any:
    """From which age on the market's last quote is stale; :data:`NEVER` until enough gaps were seen."""
    count = state["gap_count"]
    if count < params["minimum_gaps"]:
        return NEVER
    median = min(np.sort(state["gaps_us"][:count])[count // 2], NEVER // 10_000)
    return max(params["stale_gaps"] * median, params["stale_floor_us"])


def shut_by_state(market: Market) -> Shut:
    """What the market's state, as known at that time, says."""
    if market.state is MarketState.DISPUTED or market.placeholder:
        return Shut.RESOLUTION_RISK
    return Shut.OPEN if market.state is MarketState.OPEN else Shut.MARKET_CLOSED


class Gate:
    """The gate's step bound to its parameters; a market's state is passed in."""

    def __init__(self, params: GateParams) -> None:
        params.validate(path="gate")
        self.params = params
        self._params = params.record()

    def new_state(self) -> Any:
        return np.zeros(1, dtype=STATE)

    def load_state(self, stored: bytes) -> Any:
        return np.frombuffer(stored, dtype=STATE).copy()

    def step(self, state: Any, receive_time_us: int, epoch: int, bid: int, ask: int, payout: int) -> tuple[Shut, bool]:
        """:returns: why it is shut, and whether windows across this row are void."""
        row = {
            "receive_time_us": receive_time_us,
            "epoch": epoch,
            "bid_price_micros": bid,
            "ask_price_micros": ask,
            "payout_micros": payout,
        }
        out = {"shut": 0, "void": 0}
        gate_step(state[0], self._params, row, out)
        return _SHUTS[out["shut"]], bool(out["void"])

    def stale_after_us(self, state: Any) -> int:
        """:func:`stale_after_us` on plain numbers: an array of fifteen is sorted faster without numpy."""
        params, record = self.params, state[0]
        count = int(record["gap_count"])
        if count < params.minimum_gaps:
            return NEVER
        gaps_us: list[int] = record["gaps_us"].tolist()
        median = min(sorted(gaps_us[:count])[count // 2], NEVER // 10_000)
        return max(params.stale_gaps * median, params.stale_floor_us)

    def digest(self) -> str:
        return f"{VERSION}:{self.params.digest()}"


_SHUTS: Final = tuple(Shut)
