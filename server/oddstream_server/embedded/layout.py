"""The data folder: what lies where, who holds it, and how full its disk is.

postgres/   the cluster (PostgreSQL's own files)
redis/      Redis's working folder; nothing in it outlives a restart
run/        unix sockets and the note of what runs (services.json)
keys/       pepper and data key; part of the backup, mode 0600 in a folder of mode 0700
logs/       PostgreSQL's and Redis's logs
lock        held (flock) by the server that uses the folder, its pid inside
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import stat
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from oddstream_server.embedded.errors import DataFolderInUse, DataFolderUnusable

# sun_path has 108 bytes on Linux, the last one for the terminating zero.
SOCKET_PATH_LIMIT_BYTES = 107
LONGEST_SOCKET_NAME = ".s.PGSQL.65535"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Paths below one resolved data folder; making them is `create`'s business."""

    root: Path

    @classmethod
    def at(cls, path: Path) -> DataFolder:
        return cls(path.expanduser().resolve())

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def redis(self) -> Path:
        return self.root / "redis"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    def create(self) -> None:
        """Make the folders that are missing, closed to others. Raises DataFolderUnusable."""
        for folder in (self.root, self.run, self.keys, self.logs):
            try:
                folder.mkdir(mode=0o700, parents=folder is self.root, exist_ok=True)
            except OSError as error:
                raise _not_writable(folder, error) from error

    def open_to_traversal(self) -> None:
        """Let another user pass through, without reading, to the folders below that are its own."""
        for folder in (self.root, self.logs):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode) | 0o111)

    def socket_folder(self, trusted_users: Collection[int]) -> Path:
        """`run/`, or a short private folder under /tmp where a socket's path there would pass the kernel's limit.

        The short name is the same at each start, so what a killed server left is found again. It must be a folder
        with mode 0700 of one of `trusted_users` (uids), or nothing: /tmp is anybody's. Raises DataFolderUnusable.
        """
        if len(os.fsencode(self.run / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_LIMIT_BYTES:
            return self.run
        name = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        short = Path(tempfile.gettempdir()) / f"oddstream-{os.geteuid()}-{name}"
        with contextlib.suppress(FileExistsError):
            short.mkdir(mode=0o700)
        found = short.lstat()
        trusted = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
        if not trusted or found.st_uid not in trusted_users:
            raise DataFolderUnusable(
                short,
                f"stands where the sockets of {self.root} would go (its own path is too long for a socket), "
                f"and isn't a private folder of this user",
                "Remove it, or set ODDSTREAM_DATA_DIR to a shorter path.",
            )
        return short


class DataFolderLock:
    """The flock that makes one server the holder of a data folder; the kernel drops it when the holder dies.

    A child never has it: descriptors are closed on exec.
    """

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises DataFolderInUse with the holder's pid, DataFolderUnusable for a folder of another user's server."""
        self._refuse_another_users()
        try:
            descriptor = os.open(self._folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _not_writable(self._folder.lock, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).strip()
            os.close(descriptor)
            raise DataFolderInUse(self._folder.root, int(holder) if holder.isdigit() else None) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor

    def _refuse_another_users(self) -> None:
        # Root could take it, and the user whose it is could never start here again.
        try:
            uid = self._folder.lock.stat().st_uid
        except FileNotFoundError:
            return
        if uid == os.geteuid():
            return
        try:
            owner = pwd.getpwuid(uid).pw_name
        except KeyError:
            owner = f"with the uid {uid}"
        raise DataFolderUnusable(
            self._folder.root,
            f"was made by a server of the user {owner}, and this one runs with the uid {os.geteuid()}",
            "Run the server as that user, or set ODDSTREAM_DATA_DIR to another folder.",
        )

    def release(self) -> None:
        # The file stays: removing it would let a third server lock a new file while a second waits on the old.
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None


def is_locked(folder: DataFolder) -> bool:
    """Whether a server holds the folder now. Raises DataFolderUnusable where this user may not look."""
    try:
        descriptor = os.open(folder.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _not_writable(folder.lock, error) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def free_fraction(path: Path) -> float:
    """The part of the disk under `path`, 0 to 1, that a user other than root can still fill (df's way of counting).

    Ingest stops under 0.05.
    """
    disk = os.statvfs(path)
    usable = disk.f_blocks - disk.f_bfree + disk.f_bavail
    return disk.f_bavail / usable if usable else 0.0


def _not_writable(path: Path, error: OSError) -> DataFolderUnusable:
    return DataFolderUnusable(
        path,
        f"can't be made or opened ({error.strerror})",
        "Set ODDSTREAM_DATA_DIR to a folder that this user may write.",
    )
