"""The recorded venue data: real bodies and frames that stay outside of the project."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("ODDSTREAM_REAL_DATA", _ROOT.parent / "shared" / "data"))

needs_recordings = pytest.mark.skipif(
    not (FOLDER / "kalshi").is_dir(),
    reason=f"no recorded venue data at {FOLDER}; name its folder with ODDSTREAM_REAL_DATA",
)


def body(path: str) -> bytes:
    return (FOLDER / path).read_bytes()


def lines(path: str) -> Iterator[bytes]:
    with gzip.open(FOLDER / path) as file:
        yield from file


def plain_json(path: str) -> Any:
    """The body as Python's own reader has it, for what a test compares with."""
    return json.loads(body(path).decode("utf-8-sig"))


def names(folder: str) -> list[str]:
    """Paths of a folder's files relative to the data, sorted; none where the data is absent."""
    return sorted(str(p.relative_to(FOLDER)) for p in (FOLDER / folder).glob("*") if p.is_file())
