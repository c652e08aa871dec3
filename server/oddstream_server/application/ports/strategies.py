"""The strategies that a server knows."""

from collections.abc import Sequence
from typing import Protocol

from oddstream_server.domain.strategy import StrategyDescription


class StrategyCatalog(Protocol):
    """The strategies that this server knows, with what they run with."""

    async def list_strategies(self) -> Sequence[StrategyDescription]:
        """All of them by ascending id; they are few."""
        ...
