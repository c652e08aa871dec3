"""How long each kind of data is kept, and why."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

HOUR_S: Final = 3_600
DAY_S: Final = 24 * HOUR_S
YEAR_S: Final = 366 * DAY_S


class RetentionSubject(StrEnum):
    TICKS = "ticks"
    CANDLES = "candles"
    SIGNALS = "signals"
    SIGNAL_IDS = "signal_ids"
    EXECUTIONS = "executions"
    BACKTESTS = "backtests"
    AUDIT = "audit"
    PIPELINE_RUNS = "pipeline_runs"
    QUARANTINE = "quarantine"
    API_KEYS = "api_keys"


@dataclass(frozen=True, slots=True)
class RetentionRule:
    keep_seconds: int | None
    """None keeps for ever."""
    basis: str
    """Why, with the law where there is one."""


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    rules: Mapping[RetentionSubject, RetentionRule]
    """Every kind of data."""
    update_time_us: int | None
    """None where the defaults hold."""


DEFAULTS: Final[Mapping[RetentionSubject, RetentionRule]] = {
    RetentionSubject.TICKS: RetentionRule(
        14 * DAY_S, "What strategies and replays look back on; venues' data is not ours to keep without a use."
    ),
    RetentionSubject.CANDLES: RetentionRule(None, "Aggregated prices without anything personal; charts and backtests."),
    RetentionSubject.SIGNALS: RetentionRule(
        5 * YEAR_S, "What was recommended to whom acts on it (MAR Art. 20 and MiFID II Art. 16(6): five years)."
    ),
    RetentionSubject.SIGNAL_IDS: RetentionRule(400 * DAY_S, "How far back a replay is kept from saying things twice."),
    RetentionSubject.EXECUTIONS: RetentionRule(
        7 * YEAR_S, "Records of transactions (MiFID II Art. 16(6): five to seven years; SEC Rule 17a-4: six)."
    ),
    RetentionSubject.BACKTESTS: RetentionRule(YEAR_S, "They can be computed again from their parameters."),
    RetentionSubject.AUDIT: RetentionRule(
        7 * YEAR_S, "Proof of who did what, for as long as the transactions that it speaks of."
    ),
    RetentionSubject.PIPELINE_RUNS: RetentionRule(90 * DAY_S, "Operation of the service."),
    RetentionSubject.QUARANTINE: RetentionRule(30 * DAY_S, "Rows of venues that couldn't be read, until they are."),
    RetentionSubject.API_KEYS: RetentionRule(
        YEAR_S, "Keys that were revoked or ran out, with their owners (GDPR Art. 5(1)(e)): disputes about their use."
    ),
}
