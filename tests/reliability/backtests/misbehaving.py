"""Strategies that nobody would wish for, found by their entry points as those of installed packages are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.kernel import Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

STATE: Final = np.dtype([("count", np.int64), ("ring", np.int64, (4,))])
_ROOT: Final = Path(__file__).parents[3]


@dataclass(frozen=True)
class NoParams(Params):
    rows: int = param(10, 0, 1_000_000, "count", "rows of a market that pass before it misbehaves")


def endless(state: Any, params: Any, row: Any, out: Any) -> None:
    state["count"] += 1
    while state["count"] > params["rows"]:
        state["count"] += 1


def hungry(state: Any, params: Any, row: Any, out: Any) -> None:
    state["count"] += 1
    kept = [row["receive_time_us"]]
    while state["count"] > params["rows"]:
        kept.append(len(kept))


def raising(state: Any, params: Any, row: Any, out: Any) -> None:
    state["count"] += 1
    if state["count"] > params["rows"]:
        raise ValueError("a word that no caller may read")


def dividing(state: Any, params: Any, row: Any, out: Any) -> None:
    state["count"] += 1
    out["strength_ppm"] = 1 // max(params["rows"] - state["count"], 0)


def crashing(state: Any, params: Any, row: Any, out: Any) -> None:
    """Writes where no memory is; compiled code doesn't look."""
    state["count"] += 1
    if state["count"] > params["rows"]:
        state["ring"][row["receive_time_us"]] = 1


def _recompute(signal: Signal) -> Recomputed:
    return Recomputed(None, signal.strength_ppm)


def _kind(step: Callable[[Any, Any, Any, Any], None]) -> StrategyKind:
    return StrategyKind(
        kind=f"test.{step.__name__}",
        version=1,
        display_name=step.__name__,
        description="It misbehaves after a few rows.",
        formula_source="None.",
        strength_map="none",
        columns=("receive_time_us", "bid_price_micros", "ask_price_micros"),
        params_type=NoParams,
        state_dtype=STATE,
        warm_up_us=0,
        recompute=_recompute,
        step=step,
        has_net_edge=False,
        enabled_by_default=False,
    )


KINDS: Final = {step.__name__: _kind(step) for step in (endless, hungry, raising, dividing, crashing)}
ENDLESS, HUNGRY, RAISING, DIVIDING, CRASHING = KINDS.values()


def installed(folder: Path) -> str:
    """A folder with the metadata that an installer leaves; answers the PYTHONPATH on which the kinds are found."""
    metadata = folder / "oddstream_misbehaving-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: oddstream-misbehaving\nVersion: 1\n")
    points = "".join(f"{name} = {__name__}:{name.upper()}\n" for name in KINDS)
    (metadata / "entry_points.txt").write_text(f"[oddstream.strategies]\n{points}")
    return f"{folder}:{_ROOT}"
