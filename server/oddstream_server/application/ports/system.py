"""What GetSystemStatus looks at."""

from typing import Protocol

from oddstream_server.domain.system_status import SystemFacts


class SystemRecords(Protocol):
    async def facts(self) -> SystemFacts: ...


class OwnProcess(Protocol):
    """What a serving process knows of itself."""

    def redis_away(self) -> bool: ...

    def connections(self) -> tuple[int, int]:
        """Database connections in use, and the most that there may be."""
        ...

    def streams(self) -> tuple[int, int]:
        """Open streams of signals, and how many events the slowest is behind."""
        ...

    def held_secrets(self) -> str:
        """What of the secret store doesn't work, in words; empty where all does."""
        ...
