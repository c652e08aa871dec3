"""The strategies that a server knows."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from oddstream_server.domain.strategy import StrategyDescription, StrategySetting


class StrategyCatalog(Protocol):
    """The strategies that this server knows, with what they run with."""

    async def list_strategies(self) -> Sequence[StrategyDescription]:
        """All of them by ascending id; they are few."""
        ...


class StrategyRules(Protocol):
    """What may be set of the strategies."""

    def strategy_ids(self) -> Sequence[str]:
        """Ascending."""
        ...

    def describe(self, strategy_id: str, setting: StrategySetting | None) -> StrategyDescription | None:
        """A strategy with what an operator made of it; None where there is none of that id.

        A setting that this release can't run (its rules have changed) shows as disabled.
        """
        ...

    def check(self, strategy_id: str, params: Mapping[str, int]) -> None:
        """:raises InvalidArgument: STRATEGY_PARAMETER_INVALID; each violation names its parameter."""
        ...
