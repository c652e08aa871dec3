"""Bring a database to this release's schema: Alembic, under a lock, telling how far it is."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from oddstream_server.storage.connector import Connector

Report = Callable[[str], None]

_LOCK = 0x0DD5_0001
"""Advisory lock: of several servers that start at once one migrates and the others wait for it."""


def migrations_folder() -> Path:
    """The folder ``migrations``: packed beside the package in a wheel, at the root in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packed = package / "migrations"
    return packed if packed.is_dir() else package.parents[1] / "migrations"


def upgrade(
    database: str | Connector, *, revision: str = "head", report: Report | None = None, folder: Path | None = None
) -> None:
    """As :func:`upgrade_async`, from anywhere: it brings its own event loop in a thread of its own."""
    _in_a_loop_of_its_own(lambda: upgrade_async(database, revision=revision, report=report, folder=folder))


async def upgrade_async(
    database: str | Connector, *, revision: str = "head", report: Report | None = None, folder: Path | None = None
) -> None:
    """Apply the missing migrations in order, each in its transaction.

    :param database: its URL, or how to connect to it.
    :param report: gets a line for each migration, e.g. ``migrating the database: 0001 first tables (1 of 1)``.
    :param folder: where ``env.py`` and ``versions/`` are; found by itself in a checkout and in a wheel.
    """
    await _migrate(database, folder, lambda config: command.upgrade(config, revision), report or _silent)


def downgrade(
    database: str | Connector, revision: str, *, report: Report | None = None, folder: Path | None = None
) -> None:
    """Take migrations back down to a revision; ``base`` is an empty database. Loses what their tables hold."""
    _in_a_loop_of_its_own(
        lambda: _migrate(database, folder, lambda config: command.downgrade(config, revision), report or _silent)
    )


async def current_revision(database: str | Connector) -> str | None:
    """The revision that a database is at; None where it has never been migrated."""
    engine = _engine(database)
    try:
        async with engine.connect() as connection:
            return await connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())
    finally:
        await engine.dispose()


def newest_revision(folder: Path | None = None) -> str:
    """The revision that this release wants."""
    head = ScriptDirectory.from_config(_config(folder)).get_current_head()
    assert head is not None
    return head


async def _migrate(
    database: str | Connector, folder: Path | None, work: Callable[[Config], None], report: Report
) -> None:
    config = _config(folder)
    engine = _engine(database)

    def locked(connection: Connection) -> None:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        connection.commit()
        try:
            config.attributes["connection"] = connection
            config.attributes["report"] = report
            work(config)
            connection.commit()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
            connection.commit()

    try:
        async with engine.connect() as connection:
            await connection.run_sync(locked)
    finally:
        await engine.dispose()


def _engine(database: str | Connector) -> AsyncEngine:
    connector = Connector(database) if isinstance(database, str) else database
    return create_async_engine(connector.url, poolclass=NullPool, connect_args={"async_creator_fn": connector})


def _config(folder: Path | None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(folder or migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _in_a_loop_of_its_own(work: Callable[[], "asyncio.Future[None] | object"]) -> None:
    failure: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work())  # type: ignore[arg-type]  # each caller hands a coroutine function
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="migrations")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


def _silent(_line: str) -> None: ...
