"""flow.volume_spike: far more is traded than at this hour of the week, and most of it on one side.

volume = contracts printed in the last hour, in twelve buckets of five minutes; y = ln(1 + volume); z = (y - median) /
(1.4826 x deviation), where median and deviation (the median distance from the median) are those of the hours of the
same hour of the week in markets of the same venue and category, fitted before the row. signed = contracts with
outcome 0 bought less those with outcome 1 bought. An opportunity opens on a print where z >= z_enter and |signed| is
at least minimum_share of the volume, and stays open while z >= z_exit. Direction: the sign of the signed volume.
Strength = clip((z - z_enter) / (z_full - z_enter)). No net edge. Nothing is said without a baseline of enough hours.

Computed again from the evidence: z = (log_volume - median) x 10^10 / (14,826 x deviation) in millionths; strength as
above.

Bounds: a print counts up to ten million contracts and a bucket up to 10^12, so no sum leaves 64 bits.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from oddstream_server.domain.signal import Signal
from oddstream_server.strategies.arithmetic import clip_ppm, logarithm_e4
from oddstream_server.strategies.kernel import MISSING, EvidenceField, Recomputed, StrategyKind
from oddstream_server.strategies.params import Params, param

BUCKET_US: Final = 300_000_000
BUCKETS: Final = 12
LARGEST_BUCKET: Final = 1_000_000_000_000_000_000

STATE: Final = np.dtype(
    [
        ("bucket", np.int64),
        ("side", np.int64),
        ("volume", np.int64, (BUCKETS,)),
        ("signed", np.int64, (BUCKETS,)),
    ]
)


@dataclass(frozen=True)
class VolumeSpikeParams(Params):
    _above: ClassVar[tuple[tuple[str, str], ...]] = (("z_exit_ppm", "z_enter_ppm"), ("z_enter_ppm", "z_full_ppm"))

    z_enter_ppm: int = param(4_000_000, 500_000, 50_000_000, "ppm", "z from which an opportunity opens")
    z_full_ppm: int = param(8_000_000, 600_000, 60_000_000, "ppm", "z from which the strength is 1")
    z_exit_ppm: int = param(2_000_000, 1, 40_000_000, "ppm", "z below which the opportunity ends")
    minimum_share_ppm: int = param(300_000, 0, 1_000_000, "ppm", "least share of the volume that is one-sided")
    minimum_hours: int = param(20, 2, 1_000_000, "count", "hours that the baseline must rest on")
    time_to_live_us: int = param(900_000_000, 1_000_000, 86_400_000_000, "us", "how long a signal holds")


def step(state: Any, params: Any, row: Any, out: Any) -> None:
    """One quote or print of one market; see the module's text for the formula."""
    bucket = max(row["receive_time_us"] // BUCKET_US, state["bucket"])
    passed = min(bucket - state["bucket"], BUCKETS)
    for i in range(passed):
        slot = (bucket - i) % BUCKETS
        state["volume"][slot] = 0
        state["signed"][slot] = 0
    state["bucket"] = bucket
    printed = 0
    if row["trade_size_micros"] > 0:
        printed = 1
        slot = bucket % BUCKETS
        size = min(row["trade_size_micros"], 10_000_000_000_000)
        if state["volume"][slot] <= LARGEST_BUCKET // 2:
            state["volume"][slot] += size
            if row["trade_outcome"] == 1:
                state["signed"][slot] += size
            elif row["trade_outcome"] == 2:
                state["signed"][slot] -= size
    held = state["side"]
    state["side"] = 0
    if row["baseline_fit_time_us"] == MISSING or row["baseline_fit_time_us"] >= row["receive_time_us"]:
        return
    if row["baseline_count"] < params["minimum_hours"] or row["baseline_deviation_e4"] < 1:
        return
    contracts = 0
    signed = 0
    for slot in range(BUCKETS):
        contracts += state["volume"][slot] // 1_000_000
        signed += state["signed"][slot] // 1_000_000
    log_volume = logarithm_e4(1 + contracts)
    z = (log_volume - row["baseline_median_e4"]) * 10_000_000_000 // (14_826 * row["baseline_deviation_e4"])
    if z < params["z_exit_ppm"] or signed == 0:
        return
    side = 1 if signed > 0 else 2
    one_sided = abs(signed) * 1_000_000 >= contracts * params["minimum_share_ppm"]
    opens = printed == 1 and one_sided and z >= params["z_enter_ppm"]
    if not opens and held != side:
        return
    state["side"] = side
    out["side"] = side
    out["entry"] = 1 if opens else 0
    out["strength_ppm"] = clip_ppm(
        (z - params["z_enter_ppm"]) * 1_000_000 // (params["z_full_ppm"] - params["z_enter_ppm"])
    )
    out["time_to_live_us"] = params["time_to_live_us"]
    out["volume_contracts"] = contracts
    out["signed_contracts"] = signed
    out["log_volume_e4"] = log_volume
    out["median_e4"] = row["baseline_median_e4"]
    out["deviation_e4"] = row["baseline_deviation_e4"]
    out["z_enter_ppm"] = params["z_enter_ppm"]
    out["z_full_ppm"] = params["z_full_ppm"]
    out["baseline_hours"] = row["baseline_count"]
    out["baseline_fit_time_us"] = row["baseline_fit_time_us"]


def recompute(signal: Signal) -> Recomputed:
    """Strength from the evidence, by the formula in the module's text."""
    known = {e.name: e.value for e in signal.evidence}
    z = (known["log_volume_e4"] - known["median_e4"]) * 10_000_000_000 // (14_826 * known["deviation_e4"])
    span = known["z_full_ppm"] - known["z_enter_ppm"]
    return Recomputed(None, max(0, min(1_000_000, (z - known["z_enter_ppm"]) * 1_000_000 // span)))


VOLUME_SPIKE: Final = StrategyKind(
    kind="flow.volume_spike",
    version=1,
    display_name="Volume spike",
    description=(
        "log_volume = ln(1 + contracts of the last hour) in 1/10,000; z = (log_volume - median) x 10^10 / (14,826 x "
        "deviation) in millionths, with median and median distance of the same hour of the week in markets of the same "
        "venue and category, fitted before the row. Opens on a print where z >= z_enter and the volume is one-sided, "
        "ends below z_exit. UP where outcome 0 was bought more. No net edge: the kind tells a direction, not a value."
    ),
    formula_source="Own; robust z score (median and median absolute deviation) of log volume by hour of the week.",
    strength_map="clip((z - z_enter) / (z_full - z_enter))",
    columns=(
        "receive_time_us",
        "trade_size_micros",
        "trade_outcome",
        "baseline_median_e4",
        "baseline_deviation_e4",
        "baseline_count",
        "baseline_fit_time_us",
    ),
    params_type=VolumeSpikeParams,
    state_dtype=STATE,
    warm_up_us=BUCKETS * BUCKET_US,
    recompute=recompute,
    evidence=(
        EvidenceField("volume_contracts", "count"),
        EvidenceField("signed_contracts", "count"),
        EvidenceField("log_volume_e4", "count"),
        EvidenceField("median_e4", "count", "fitted"),
        EvidenceField("deviation_e4", "count", "fitted"),
        EvidenceField("z_enter_ppm", "ppm", "params"),
        EvidenceField("z_full_ppm", "ppm", "params"),
        EvidenceField("baseline_hours", "count", "fitted"),
        EvidenceField("baseline_fit_time_us", "us", "fitted"),
    ),
    step=step,
    has_net_edge=False,
    enabled_by_default=False,
)
