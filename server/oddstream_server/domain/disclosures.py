"""The risk disclosures, by code. A text is never changed under the same code: a new text gets a new one."""

from types import MappingProxyType
from typing import Final

BACKTEST: Final = "RISK_1"
TRACK_RECORD: Final = "RISK_2"
SIGNAL: Final = "RISK_3"

TEXTS: Final = MappingProxyType(
    {
        BACKTEST: (
            "A backtest shows what rules would have earned on recorded data under stated assumptions. Past results "
            "need not come again; the best of many trials is mostly luck; nothing here is advice."
        ),
        TRACK_RECORD: (
            "A track record shows what one contract of each signal came to at stated prices, which nobody has to have "
            "got. Past results need not come again; few signals prove little; nothing here is advice."
        ),
        SIGNAL: (
            "A signal says what stated rules found in quotes that may be gone when it arrives. Orders fill in part or "
            "not at all, rules are wrong at times, and what is staked can be lost whole; nothing here is advice."
        ),
    }
)
