"""Old stretches of the log, read in pages for subscribers that the ring no longer serves."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from oddstream_server.feed.signals.ring import Entry

_LOG = logging.getLogger("oddstream.feed.backlog")

ReadEntries = Callable[[int, int], Awaitable[Sequence[Entry]]]
"""Entries after a sequence, at most so many, in order."""
Wake = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive entries of the log, as they were read at an instant of the loop's clock."""

    entries: Sequence[Entry]
    read_time_s: float

    def serves(self, cursor: int) -> bool:
        """True where the event after the cursor is here."""
        return bool(self.entries) and self.entries[0].sequence <= cursor + 1 <= self.entries[-1].sequence

    def begins_after(self, cursor: int) -> bool:
        """True where events after the cursor are no longer in the log."""
        return bool(self.entries) and self.entries[0].sequence > cursor + 1


class BacklogPages:
    """Pages that begin at multiples of their size, so that subscribers who read the same history share the reads.

    At most ``concurrent_reads`` at a time, so that a storm of reconnects can't take the database's connections; at most
    ``kept_pages`` are held. A read that fails is tried again for as long as somebody waits for it.
    """

    def __init__(
        self,
        read: ReadEntries,
        on_read: Callable[[int], None],
        *,
        page_entries: int = 128,
        kept_pages: int = 16,
        concurrent_reads: int = 2,
        retry_delay_s: float = 0.5,
    ) -> None:
        self._read = read
        self._on_read = on_read
        self._page_entries = page_entries
        self._kept_pages = kept_pages
        self._retry_delay_s = retry_delay_s
        self._slots = asyncio.Semaphore(concurrent_reads)
        self._pages: OrderedDict[int, Page] = OrderedDict()
        self._waiting: dict[int, dict[Wake, None]] = {}
        self._loads: dict[int, asyncio.Task[None]] = {}

    def get(self, cursor: int, wake: Wake) -> Page | None:
        """The page with the event after ``cursor``; None while it is being read, then ``wake`` is called."""
        start = cursor - cursor % self._page_entries
        page = self._pages.get(start)
        if page is not None and (page.serves(cursor) or page.begins_after(cursor)):
            self._pages.move_to_end(start)
            return page
        self._waiting.setdefault(start, {})[wake] = None
        if start not in self._loads:
            loop = asyncio.get_running_loop()
            # A page that was read just now and ends before the cursor comes from a database that lags: give it time.
            lags = page is not None and loop.time() - page.read_time_s < self._retry_delay_s
            load = self._load(start, self._retry_delay_s if lags else 0.0)
            self._loads[start] = loop.create_task(load, name="feed backlog page")
        return None

    def forget(self, cursor: int, wake: Wake) -> None:
        """The reader at ``cursor`` is gone; a read that nobody waits for isn't repeated."""
        waiting = self._waiting.get(cursor - cursor % self._page_entries)
        if waiting is not None:
            waiting.pop(wake, None)

    def clear(self) -> None:
        self._pages.clear()

    async def close(self) -> None:
        loads = list(self._loads.values())
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)

    async def _load(self, start: int, delay_s: float) -> None:
        try:
            while self._waiting.get(start):
                await asyncio.sleep(delay_s)
                try:
                    async with self._slots:
                        entries = await self._read(start, self._page_entries)
                except Exception as error:  # whatever the storage raises, the waiting streams stay open
                    _LOG.warning("reading the log after %d failed: %s", start, type(error).__name__)
                    delay_s = self._retry_delay_s
                else:
                    self._keep(start, entries)
                    return
        finally:
            del self._loads[start]
            for wake in self._waiting.pop(start, {}):
                wake()

    def _keep(self, start: int, entries: Sequence[Entry]) -> None:
        self._on_read(len(entries))
        self._pages[start] = Page(entries, asyncio.get_running_loop().time())
        self._pages.move_to_end(start)
        while len(self._pages) > self._kept_pages:
            self._pages.popitem(last=False)
