"""The keys of the embedded default: pepper of the API keys and data key of sealed values.

Made once, before the database is, kept in `keys/` with mode 0600, and part of the backup: rows are worthless without
them. Each is versioned by its file's ending (`pepper.1`, `pepper.2`), so that a rotation adds a file.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from oddstream_server.embedded.errors import KeysDamaged, KeysExposed, KeysLost

KEY_BYTES = 32
_KINDS = ("pepper", "data_key")


@dataclass(frozen=True, slots=True)
class Keyring:
    """Every version of both keys, 32 bytes each; the highest version is the one for new rows."""

    peppers: Mapping[int, bytes] = field(repr=False)
    data_keys: Mapping[int, bytes] = field(repr=False)

    @property
    def pepper_version(self) -> int:
        return max(self.peppers)

    @property
    def data_key_version(self) -> int:
        return max(self.data_keys)


def load_or_make_keys(folder: Path, *, database_is_new: bool) -> Keyring:
    """The keys in `folder`; version 1 of each is made where it is missing and no database exists yet.

    Raises KeysLost (a database without them), KeysDamaged, KeysExposed.
    """
    found = {kind: _versions(folder, kind) for kind in _KINDS}
    missing = [f"{kind}.1" for kind, versions in found.items() if not versions]
    # A version below the highest that is gone was in use once: rows need it still.
    missing += [
        f"{kind}.{version}"
        for kind, versions in found.items()
        for version in range(1, max(versions, default=0))
        if version not in versions
    ]
    if missing and not database_is_new:
        raise KeysLost(folder, missing)
    for name in missing:
        read_or_make_secret(folder / name, secrets.token_bytes(KEY_BYTES).hex())
    rings = {kind: {v: _key(folder / f"{kind}.{v}") for v in _versions(folder, kind)} for kind in _KINDS}
    return Keyring(peppers=rings["pepper"], data_keys=rings["data_key"])


def read_or_make_secret(path: Path, fresh: str) -> str:
    """The text in `path`, which is written with `fresh` if it doesn't exist: whole or not at all, mode 0600."""
    if not path.exists():
        replace_secret(path, fresh)
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise KeysExposed(path, mode)
    return path.read_text(encoding="ascii", errors="replace").strip()


def replace_secret(path: Path, text: str) -> None:
    """Write a file whole or not at all, with mode 0600; one that is there is replaced."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.unfinished")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(text.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    unfinished.replace(path)
    _sync_folder(path.parent)


def _versions(folder: Path, kind: str) -> set[int]:
    if not folder.is_dir():
        return set()
    matches = (re.fullmatch(rf"{kind}\.([1-9]\d*)", path.name) for path in folder.iterdir())
    return {int(match[1]) for match in matches if match}


def _key(path: Path) -> bytes:
    text = read_or_make_secret(path, "")
    if not re.fullmatch(rf"[0-9a-f]{{{KEY_BYTES * 2}}}", text):
        raise KeysDamaged(path, f"{len(text)} characters that aren't a key" if text else "it is empty")
    return bytes.fromhex(text)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
