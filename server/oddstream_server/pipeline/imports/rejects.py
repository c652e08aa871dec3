"""Rows of a file that hold no valid number, as rows of the quarantine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import pyarrow as pa

from oddstream_server.application.ports import Clock, QuarantinedRow
from oddstream_server.domain.market import Venue
from oddstream_server.pipeline.imports.columns import Int64s

KEPT_ROWS: Final = 1_000
"""Most rows of one batch that are kept: in a file of another kind none is right, and it can have a hundred million."""


@dataclass(frozen=True, slots=True)
class Rejects:
    """Who says that rows of a file are wrong, and why."""

    venue: Venue
    source: str
    """The command, e.g. ``import quotes``."""
    file: Path
    reason: str
    detail: str
    clock: Clock

    def of(self, table: pa.Table, numbers: Int64s, first_row: int) -> list[QuarantinedRow]:
        """The rows of those numbers, as the file has them, with the file's name and their number in it.

        :param table: some rows of the file, from ``first_row`` on.
        """
        some = numbers[:KEPT_ROWS]
        now_us = self.clock()
        rows = table.take(some - first_row).to_pylist() if len(some) else []
        return [
            QuarantinedRow(
                self.venue,
                self.source,
                self.reason,
                self.detail,
                orjson.dumps({"file": self.file.name, "row": number, **{k: _word(v) for k, v in row.items()}}),
                now_us,
            )
            for number, row in zip(some.tolist(), rows, strict=True)
        ]


def _word(value: object) -> str | None:
    """As text: JSON has no infinity."""
    return None if value is None else str(value)
