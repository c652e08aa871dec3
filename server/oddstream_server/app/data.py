"""Commands on stored data: importing quote files, and replaying stored ticks through the strategies.

They work beside a running server, on a database of the settings, or on the embedded one, which they start if need be.
"""

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from oddstream_server.app.process import database_connector, default_migrations_folder, now_us, open_database, say
from oddstream_server.application.ports import Lease, TimeRange
from oddstream_server.domain.market import Venue
from oddstream_server.embedded.services import EmbeddedServices, running_services
from oddstream_server.pipeline.deciding.replay import load_journal, replay, replayed_events
from oddstream_server.pipeline.declarations import Declarations
from oddstream_server.pipeline.imports.command import import_quotes
from oddstream_server.pipeline.imports.forms import form_named
from oddstream_server.pipeline.imports.prices import import_prices
from oddstream_server.settings import Settings
from oddstream_server.storage.administration.controls import ControlsReader
from oddstream_server.storage.database import Database
from oddstream_server.storage.fitted import FittedStore
from oddstream_server.storage.markets.catalog import CatalogStore
from oddstream_server.storage.migrate import upgrade_async
from oddstream_server.storage.pipeline_store import PostgresPipelineStore
from oddstream_server.storage.tick_store.imports import QuoteImports
from oddstream_server.storage.tick_store.ticks import TickStore
from oddstream_server.strategies.registry import Registry
from oddstream_server.supervisor import progress_reporter

REPLAY_LEASE_US = 60_000_000


class Refused(Exception):
    """The command can't do its work now; the text says why and what to do."""


@contextlib.asynccontextmanager
async def stored_data(settings: Settings) -> AsyncIterator[Database]:
    """The database that the settings mean, migrated; the embedded one is started where no server runs it."""
    async with contextlib.AsyncExitStack() as stack:
        if settings.database_url is None:
            running = running_services(settings.data_dir)
            if running is None:
                embedded = EmbeddedServices(settings.data_dir)
                report = progress_reporter(lambda text: say(f"  … {text}"))
                running = await embedded.start(report)
                stack.push_async_callback(embedded.stop, report)
            settings = settings.with_services(running.database_url, running.redis_url)
        if settings.database_url is None:
            raise RuntimeError("the database's address is known by now")
        folder = settings.migrations_dir or default_migrations_folder()
        await upgrade_async(database_connector(settings), folder=folder)
        database = open_database(settings, "command")
        stack.push_async_callback(database.close)
        yield database


@dataclass(slots=True)
class _Bars:
    """A bar a stage, on a terminal; nothing in a pipe but the last line."""

    progress: Progress
    tasks: dict[str, TaskID]

    def tell(self, stage: str, done: int, total: int | None) -> None:
        if stage not in self.tasks:
            self.tasks[stage] = self.progress.add_task(stage, total=total)
        self.progress.update(self.tasks[stage], completed=done, total=total)


async def import_quote_files(
    settings: Settings, paths: Sequence[Path], form_name: str, markets_file: Path | None, candles: bool
) -> None:
    """Import files one after the other.

    :raises OddstreamError: a file, a column or the form isn't what it has to be.
    """
    form = form_named(form_name)
    declarations = Declarations.read(settings.declarations_file) if settings.declarations_file else None
    columns = (
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    async with stored_data(settings) as database:
        for path in paths:
            with Progress(*columns, console=Console(stderr=True)) as progress:
                report = await import_quotes(
                    path,
                    form,
                    target=QuoteImports(database),
                    catalog=CatalogStore(database),
                    clock=now_us,
                    declarations=declarations,
                    markets_file=markets_file,
                    progress=_Bars(progress, {}).tell,
                    candles=candles,
                )
            say(
                f"{path}: {report.rows:,} rows stored, {report.rows_now:,} of them now; "
                f"{report.markets_created:,} markets created; {report.rejected:,} rows with a side that can't be one"
            )


async def import_price_files(settings: Settings, paths: Sequence[Path], venue: Venue) -> None:
    """Import files of what markets are about, one after the other.

    :raises OddstreamError: a file or a column isn't what it has to be.
    """
    columns = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    async with stored_data(settings) as database:
        for path in paths:
            with Progress(*columns, console=Console(stderr=True)) as progress:
                report = await import_prices(
                    path, venue, target=QuoteImports(database), clock=now_us, progress=_Bars(progress, {}).tell
                )
            say(
                f"{path}: {report.rows:,} prices stored, {report.rows_now:,} of them now; "
                f"{report.rejected:,} rows without a price"
            )


async def replay_stored(settings: Settings, span: TimeRange, market_ids: Sequence[str], append: bool) -> None:
    """Replay ticks through every strategy and say the digest of what came out.

    :param append: also append what the log doesn't hold yet; needs the leadership for as long as it takes.
    :raises Refused: a pipeline leads while ``append`` is asked for.
    """
    strategies = Registry()
    strategies.load_entry_points()
    async with stored_data(settings) as database:
        # as the pipeline runs them now, so that a replay of what it saw says what it said
        configured = strategies.configured((await ControlsReader(database).controls()).settings)
        fitted = await FittedStore(database).all()
        ticks, catalog = TickStore(database), CatalogStore(database)
        store = PostgresPipelineStore(database, ticks)
        chosen = list(market_ids) or None
        if not append:
            events = ticks_read = 0

            def count(number: int) -> None:
                nonlocal ticks_read
                ticks_read += number

            journal = await load_journal(store)
            digest = hashlib.sha256()
            async for batch in replayed_events(ticks, catalog, journal, configured, span, chosen, count, fitted):
                for event in batch:
                    digest.update(event.canonical_bytes())
                events += len(batch)
            say(f"{ticks_read:,} ticks, {events:,} events, nothing appended; digest {digest.hexdigest()}")
            return
        lease = await store.acquire_lease(f"{socket.gethostname()}/{os.getpid()}/replay", REPLAY_LEASE_US)
        if lease is None:
            raise Refused(
                "a pipeline leads and is the log's only writer: stop the server, or replay with --dry-run, "
                "which appends nothing"
            )
        keeper = _LeaseKeeper(store, lease)
        async with keeper:
            result = await replay(
                reader=ticks,
                catalog=catalog,
                store=store,
                lease=lambda: keeper.lease,
                strategies=configured,
                span=span,
                market_ids=chosen,
                fitted=fitted,
            )
        say(f"{result.ticks:,} ticks, {result.events:,} events, {result.appended:,} appended; digest {result.digest}")


class _LeaseKeeper:
    """Renews a lease while a long command works, and gives it back."""

    def __init__(self, store: PostgresPipelineStore, lease: Lease) -> None:
        self.lease = lease
        self._store = store
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._renew(), name="replay lease")

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._store.release_lease(self.lease)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(REPLAY_LEASE_US / 4e6)
            self.lease = await self._store.renew_lease(self.lease, REPLAY_LEASE_US)
