"""Quotes of a file as columns, and where an import puts them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from oddstream_server.application.ports import QuarantinedRow
from oddstream_server.domain.quote import TickSource

Integers = npt.NDArray[np.integer[Any]]

MISSING = int(np.iinfo(np.int64).min)
"""Stands for absent in a nullable column."""


@dataclass(frozen=True, slots=True)
class QuoteColumns:
    """Rows of one file from ``first_row`` on, as columns of equal length.

    Prices and sizes are int64 micros with :data:`MISSING` for absent; None for a column that is absent as a whole.
    Instants are int64 microseconds since the Unix epoch in UTC.
    """

    first_row: int
    market_key: Integers
    """int32, from :meth:`OpenQuoteImport.market_keys`."""
    receive_time_us: Integers
    bid_price_micros: Integers | None
    ask_price_micros: Integers | None
    bid_size_micros: Integers | None = None
    ask_size_micros: Integers | None = None
    venue_time_us: Integers | None = None

    def __len__(self) -> int:
        return len(self.receive_time_us)


class OpenQuoteImport(Protocol):
    """One file on its way in."""

    @property
    def position(self) -> int:
        """Number of the first row that is not stored."""
        ...

    async def market_keys(self, market_ids: Sequence[str]) -> npt.NDArray[np.int32]:
        """The key of each id, in the order given."""
        ...

    async def write(self, columns: QuoteColumns, rejects: Sequence[QuarantinedRow] = ()) -> None:
        """Store the next rows, quarantine what was wrong in them and move the position, in one transaction."""
        ...

    async def build_candles(self, report: Callable[[int, int], None] | None = None) -> None:
        """Merge the file's quotes into the candles; ``report`` gets (markets done, markets in the file)."""
        ...


class QuoteImportTarget(Protocol):
    """Where files of quotes go: rows once each, however often a file comes."""

    def open(self, source: TickSource, total_rows: int | None = None) -> AbstractAsyncContextManager[OpenQuoteImport]:
        """Begin the import of a file named by the digest of its content, or go on where it stopped."""
        ...
