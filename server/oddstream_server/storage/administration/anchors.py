"""The audit log's anchors: a file beside the database, a JSON line each, for operations to ship away."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from oddstream_server.application.ports import Anchor


class JsonLinesAnchors:
    """Fulfils :class:`~oddstream_server.application.ports.AnchorFile`. Small: one line each few minutes at most."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Sequence[Anchor]:
        return [Anchor(line["sequence"], line["hash"], line["time_us"]) for line in read_lines(self._path)]

    def append(self, anchor: Anchor) -> None:
        append_line(self._path, {"sequence": anchor.sequence, "hash": anchor.hash, "time_us": anchor.time_us})


def read_lines(path: Path) -> list[dict[str, Any]]:  # values are what append_line was given
    """Every whole line; a last one without its end was cut by a crash and counts for nothing."""
    if not path.exists():
        return []
    *whole, _cut = path.read_bytes().split(b"\n")
    return [line for text in whole if (line := _read(text)) is not None]


def _read(text: bytes) -> dict[str, Any] | None:
    try:
        line: dict[str, Any] = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return line


def append_line(path: Path, line: dict[str, object]) -> None:
    """It is on the disk when the call returns; the file is its owner's alone."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        # What a crash cut gets its end, so that it doesn't swallow the next line.
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            os.write(descriptor, b"\n")
        os.write(descriptor, orjson.dumps(line) + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
