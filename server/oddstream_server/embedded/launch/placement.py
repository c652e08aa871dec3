"""Who runs PostgreSQL and Redis, from which copy of the programs, and where their data lies.

PostgreSQL refuses root, and initdb a uid without a name. So, the first that really works, tried by running it:

1. the user we are, when that isn't root and has a name;
2. root: the user nobody, where it reaches the programs and the data folder;
3. a user namespace in which we seem to be nobody, and still own our files: a clone below a closed home;
4. root: nobody again, with data and a copy of the programs under /var/lib/oddstream, noted in the data folder;
5. NoIdentity, which lists what was tried.

Nothing outside the data folder (and /var/lib/oddstream) is opened, changed or given away on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from oddstream_server.embedded.errors import DataFolderUnusable, NoIdentity
from oddstream_server.embedded.launch.binaries import PostgresPrograms
from oddstream_server.embedded.launch.process import Child, Identity, IdentityKind
from oddstream_server.embedded.layout import DataFolder

RELOCATION_ROOT = Path("/var/lib/oddstream")
_LOCATION_NOTE = "data-is-elsewhere"
_TRIAL_PREFIX = "trial-"
_OVERFLOW_ID = 65534


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs to run."""

    postgres: PostgresPrograms
    redis_server: Path


@dataclass(frozen=True, slots=True)
class Placement:
    """What was decided: identity, programs, and the folders that belong to that identity.

    `start_logs` alone is ours: what a child says before it opens its own log goes there.
    """

    identity: Identity
    programs: Programs
    postgres_data: Path
    redis_data: Path
    sockets: Path
    logs: Path
    start_logs: Path


async def place(
    folder: DataFolder,
    programs: Programs,
    *,
    kinds: Iterable[IdentityKind] = tuple(IdentityKind),
    relocation_root: Path = RELOCATION_ROOT,
) -> Placement:
    """Decide by trying, and make the folders of the identity that was chosen. Raises NoIdentity, DataFolderUnusable.

    `kinds` are the identities that may be used. The caller holds the folder's lock.
    """
    for trial in folder.root.glob(f"{_TRIAL_PREFIX}*"):
        trial.rmdir()  # of a start that was killed during one
    allowed = set(kinds)
    attempts: list[str] = []
    elsewhere = _noted_location(folder)
    if elsewhere is None:
        for identity in _candidates(allowed):
            finding = await _try(identity, programs, folder.root)
            if finding is None:
                return _settle(folder, identity, programs, folder.root)
            attempts.append(f"{_described(identity)}: {finding}")
    if os.geteuid() == 0 and IdentityKind.SWITCHED_USER in allowed:
        if (folder.postgres / "PG_VERSION").exists():
            attempts.append(f"{relocation_root}: not used, since {folder.postgres} has a database already")
            raise NoIdentity(attempts)
        home = elsewhere or relocation_root / hashlib.sha256(os.fsencode(folder.root)).hexdigest()[:16]
        identity = _nobody()
        try:
            copies = copy_programs(programs, relocation_root)
            home.mkdir(mode=0o711, parents=True, exist_ok=True)
        except OSError as error:
            attempts.append(f"data and programs under {relocation_root}: {error}")
        else:
            finding = await _try(identity, copies, home)
            if finding is None:
                _note_location(folder, home)
                return _settle(folder, identity, copies, home)
            attempts.append(f"data and programs under {relocation_root}: {finding}")
            with contextlib.suppress(OSError):
                home.rmdir()  # empty, unless it holds the database that a note led us to
    raise NoIdentity(attempts)


def _candidates(allowed: set[IdentityKind]) -> list[Identity]:
    uid, gid = os.geteuid(), os.getegid()
    found = []
    if uid != 0 and _has_name(uid):
        found.append(Identity(IdentityKind.SAME_USER, uid, gid))
    if uid == 0:
        found.append(_nobody())
    # Inside, the uid must be one that the passwd file names, or initdb refuses.
    nobody = _nobody()
    found.append(Identity(IdentityKind.USER_NAMESPACE, nobody.uid, nobody.gid))
    return [identity for identity in found if identity.kind in allowed]


def _nobody() -> Identity:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Identity(IdentityKind.SWITCHED_USER, _OVERFLOW_ID, _OVERFLOW_ID)
    return Identity(IdentityKind.SWITCHED_USER, entry.pw_uid, entry.pw_gid)


def _has_name(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _described(identity: Identity) -> str:
    return {
        IdentityKind.SAME_USER: "this user",
        IdentityKind.SWITCHED_USER: "the user nobody",
        IdentityKind.USER_NAMESPACE: "a user namespace",
    }[identity.kind]


async def _try(identity: Identity, programs: Programs, home: Path) -> str | None:
    """Run both programs as `identity` in a folder of its own below `home`; None, or why that failed."""
    mode = home.stat().st_mode & 0o7777
    trial = Path(tempfile.mkdtemp(prefix=_TRIAL_PREFIX, dir=home))
    try:
        os.chown(trial, *identity.owner)
        if identity.kind is IdentityKind.SWITCHED_USER:
            home.chmod(mode | 0o111)
        for program in (
            programs.postgres.program("initdb"),
            programs.postgres.program("postgres"),
            programs.redis_server,
        ):
            finding = await _run(identity, program, trial)
            if finding is not None:
                home.chmod(mode)
                return finding
        return None
    except OSError as error:
        return str(error)
    finally:
        with contextlib.suppress(OSError):
            trial.rmdir()


async def _run(identity: Identity, program: Path, folder: Path) -> str | None:
    with tempfile.TemporaryFile() as output:
        child = Child.launch(
            [program, "--version"],
            identity=identity,
            folder=folder,
            death_signal=signal.SIGKILL,
            output=output.fileno(),
        )
        status = await child.exited()
        output.seek(0)
        said = output.read().decode(errors="replace").strip()
    return None if status == 0 else f"{program.name}: {said or f'exit status {status}'}"


def _settle(folder: DataFolder, identity: Identity, programs: Programs, home: Path) -> Placement:
    if identity.kind is IdentityKind.SWITCHED_USER and home == folder.root:
        folder.open_to_traversal()
    # As root, an earlier start may have given the folder to nobody.
    trusted = {os.geteuid(), identity.owner[0], *([_nobody().uid] if os.geteuid() == 0 else [])}
    sockets = DataFolder(home).socket_folder(trusted)
    placement = Placement(
        identity=identity,
        programs=programs,
        postgres_data=home / "postgres",
        redis_data=home / "redis",
        sockets=sockets,
        logs=(folder.logs if home == folder.root else home) / "services",
        start_logs=folder.logs,
    )
    for path in (placement.postgres_data, placement.redis_data, placement.sockets, placement.logs):
        if path != placement.postgres_data:
            path.mkdir(mode=0o700, exist_ok=True)  # the cluster makes its own, whole or not at all
        if path.exists():
            _give(path, identity)
    return placement


def _give(path: Path, identity: Identity) -> None:
    """Make the tree the identity's own. It already is, but for the first start and after a clone was moved."""
    uid, gid = identity.owner
    if path.is_symlink():
        raise DataFolderUnusable(path, "is a symbolic link", "Set ODDSTREAM_DATA_DIR to the folder itself.")
    path.chmod(0o700)
    if path.stat().st_uid == uid:
        return
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(Path(parent, name), uid, gid, follow_symlinks=False)
    # The root of the tree last: it is what the next start looks at, should this one be interrupted.
    os.chown(path, uid, gid)


def copy_programs(programs: Programs, root: Path) -> Programs:
    """The programs under `root`, copied there once a version, readable by all. Raises OSError."""
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    postgres = programs.postgres
    stamp = postgres.program("postgres").stat()
    folder = root / f"programs-{postgres.major}-{stamp.st_size}-{stamp.st_mtime_ns}"
    common = Path(os.path.commonpath([postgres.folder, postgres.libraries]))
    installation, libraries = (folder / path.relative_to(common) for path in (postgres.folder, postgres.libraries))
    copies = Programs(
        PostgresPrograms(installation, postgres.major, libraries), folder / "redis" / programs.redis_server.name
    )
    if folder.is_dir():
        return copies
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=root))
    try:
        for path in (postgres.folder, postgres.libraries):
            # Headers are the larger half, and nothing is compiled there.
            shutil.copytree(
                path, unfinished / path.relative_to(common), ignore=shutil.ignore_patterns("include", "pkgconfig")
            )
        (unfinished / "redis").mkdir()
        shutil.copy2(programs.redis_server, unfinished / "redis")
        _open_to_readers(unfinished)
        unfinished.rename(folder)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        if not folder.is_dir():  # or another server's copy was quicker, and is as good
            raise
    return copies


def _open_to_readers(root: Path) -> None:
    for parent, _, files in os.walk(root):
        Path(parent).chmod(0o755)
        for path in (Path(parent, name) for name in files):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _noted_location(folder: DataFolder) -> Path | None:
    note = folder.root / _LOCATION_NOTE
    return Path(note.read_text(encoding="utf-8").strip()) if note.is_file() else None


def _note_location(folder: DataFolder, home: Path) -> None:
    (folder.root / _LOCATION_NOTE).write_text(f"{home}\n", encoding="utf-8")
