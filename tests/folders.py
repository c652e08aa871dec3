"""Folders of tests, in memory where the machine has room there.

Each test has a database of its own, five hundred files that are made and deleted again. ext4 looks past all inodes that
were deleted in the last seconds before it gives out one, so there a clone takes ten times as long as in memory.
"""

import os
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")
_ROOM_BYTES = 2 << 30  # workers need some 200 MB each


def throw_away_folder() -> Path:
    """A new folder with a short path; the caller deletes it."""
    return Path(tempfile.mkdtemp(prefix="oddstream-tests-", dir=_MEMORY if _has_room() else None))


def _has_room() -> bool:
    try:
        state = os.statvfs(_MEMORY)
    except OSError:
        return False
    # PostgreSQL's programs are copied beside its data where its user can't reach them, and have to run there.
    runs_programs = not state.f_flag & os.ST_NOEXEC
    return runs_programs and state.f_bavail * state.f_frsize >= _ROOM_BYTES and os.access(_MEMORY, os.W_OK)
