"""The disk guard: with almost no room left nothing more is stored, and reads go on."""

from collections.abc import Callable

from oddstream_server.domain.quote import FeedState
from oddstream_server.pipeline.ingest import Ingest
from oddstream_server.pipeline.observer import PipelineObserver

FreeDisk = Callable[[], int]
"""Free share of the disk that holds the data, in parts per million."""

DETAIL = "the disk is almost full: nothing is stored until there is room"


class DiskGuard:
    """Pauses ingest below ``minimum_ppm`` of free disk and goes on a little above it.

    :param margin_ppm: how much more has to be free to go on, so that it doesn't flutter.
    """

    def __init__(
        self,
        free_ppm: FreeDisk,
        ingest: Ingest,
        observer: PipelineObserver,
        *,
        minimum_ppm: int = 50_000,
        margin_ppm: int = 5_000,
    ) -> None:
        self._free_ppm = free_ppm
        self._ingest = ingest
        self._observer = observer
        self._minimum_ppm = minimum_ppm
        self._margin_ppm = margin_ppm
        self.paused = False

    async def look(self) -> None:
        """Look once; a change is said on every venue's feed."""
        free_ppm = self._free_ppm()
        if not self.paused and free_ppm < self._minimum_ppm:
            self.paused = True
            self._ingest.pause(True)
            self._observer.ingest_paused(True)
            await self._ingest.announce(FeedState.DOWN, DETAIL)
        elif self.paused and free_ppm >= self._minimum_ppm + self._margin_ppm:
            self.paused = False
            self._ingest.pause(False)
            self._observer.ingest_paused(False)
            await self._ingest.announce_last()
