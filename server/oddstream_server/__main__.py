"""The command ``oddstream-server``."""

import asyncio
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from oddstream_server.settings import Settings, SettingsError, load_settings, set_grpc_cipher_suites

cli = typer.Typer(
    name="oddstream-server",
    help="Signal backend for prediction markets. Settings come from ODDSTREAM_* variables; see .env.example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _settings() -> Settings:
    try:
        return load_settings()
    except SettingsError as error:
        _refuse(str(error))


def _refuse_older_tls(settings: Settings) -> None:
    from oddstream_server.transport.certificates import CertificateFiles, CertificateUnusable, restrict_grpc

    if settings.tls_certificate_file is None or settings.tls_private_key_file is None:
        return
    files = CertificateFiles(settings.tls_certificate_file, settings.tls_private_key_file, settings.tls_client_ca_file)
    try:
        restrict_grpc(files, set_grpc_cipher_suites)
    except CertificateUnusable as error:
        _refuse(f"ODDSTREAM_TLS_CERTIFICATE_FILE: {error}")


def _refuse(text: str) -> NoReturn:
    print(text, file=sys.stderr)
    raise SystemExit(2)


@cli.command()
def run() -> None:
    """Start everything on this machine: embedded services, migrations, pipeline, server."""
    from oddstream_server.app.run import StartFailed
    from oddstream_server.app.run import run as run_everything

    try:
        asyncio.run(run_everything(_settings()))
    except StartFailed as error:
        _refuse(f"can't start: {error}")


@cli.command()
def serve(index: Annotated[int, typer.Option(min=0, help="Number of this serving process.")] = 0) -> None:
    """Serve gRPC from a database and Redis given by settings."""
    settings = _settings()
    _refuse_older_tls(settings)  # before anything imports gRPC
    from oddstream_server.app.process import run_worker
    from oddstream_server.app.serve import serve as serve_until

    raise SystemExit(run_worker(settings, f"serve-{index}", lambda stop: serve_until(settings, index, stop)))


@cli.command()
def pipeline(index: Annotated[int, typer.Option(min=0, help="Number of this pipeline process.")] = 0) -> None:
    """Take venue data in and turn it into signals; one process leads, others wait."""
    from oddstream_server.app.pipeline import run_pipeline
    from oddstream_server.app.process import run_worker

    settings = _settings()
    process = "pipeline" if index == 0 else f"pipeline-{index}"
    raise SystemExit(run_worker(settings, process, lambda stop: run_pipeline(settings, process, stop)))


@cli.command()
def worker(index: Annotated[int, typer.Option(min=0, help="Number of this worker process.")] = 0) -> None:
    """Compute backtests and sweeps from the queue of ODDSTREAM_DATABASE_URL; any number of them, on any machine."""
    from oddstream_server.app.backtests import work
    from oddstream_server.app.process import run_worker

    settings = _settings()
    process = f"worker-{index}"
    raise SystemExit(run_worker(settings, process, lambda stop: work(settings, process, stop)))


@cli.command(hidden=True)
def job(
    step: Annotated[str, typer.Argument(help="backtest, sweep_plan, sweep_shard or sweep_judge.")],
    run_id: Annotated[str, typer.Argument(help="Id of the backtest or sweep.")],
    attempt: Annotated[int, typer.Option(help="The attempt that this is.")],
    shard: Annotated[int, typer.Option(help="Number of the sweep's shard.")] = 0,
) -> None:
    """One job, as a worker's child."""
    from oddstream_server.app.backtests import compute

    raise SystemExit(compute(_settings(), step, run_id, attempt, shard))


@cli.command()
def archive() -> None:
    """Bring closed days of ticks into Parquet, and check every file of the archive against its manifest."""
    from oddstream_server.app.backtests import archive_closed_days

    _run_command(archive_closed_days(_settings()))


@cli.command()
def migrate() -> None:
    """Bring the schema of ODDSTREAM_DATABASE_URL to this version, under a lock."""
    from oddstream_server.app.process import database_connector, default_migrations_folder, say
    from oddstream_server.storage.migrate import upgrade

    settings = _settings()
    if settings.database_url is None:
        _refuse("ODDSTREAM_DATABASE_URL: is needed; the embedded database is migrated by `oddstream-server run`")
    folder = settings.migrations_dir or default_migrations_folder()
    upgrade(database_connector(settings), report=say, folder=folder)


imports = typer.Typer(help="Bring files into the tick store.", no_args_is_help=True)
cli.add_typer(imports, name="import")


@imports.command("quotes")
def import_quotes(
    files: Annotated[list[Path], typer.Argument(help="Parquet or CSV files; a folder stands for the Parquet in it.")],
    form: Annotated[str, typer.Option(help="What the columns mean: polymarket_us or kalshi_ladder.")],
    markets: Annotated[Path | None, typer.Option(help="Parquet that describes the markets.")] = None,
    candles: Annotated[bool, typer.Option(help="Also merge the quotes into candles.")] = True,
) -> None:
    """Import quotes; a stopped import goes on where it was, and a file that is in already is not stored twice."""
    from oddstream_server.app.data import import_quote_files

    paths = [found for given in files for found in (sorted(given.rglob("*.parquet")) if given.is_dir() else [given])]
    if not paths:
        _refuse("files: the folder holds no Parquet file; name one that does, or files")
    _run_command(import_quote_files(_settings(), paths, form, markets, candles))


@imports.command("prices")
def import_prices(
    files: Annotated[list[Path], typer.Argument(help="Parquet or CSV files with the columns series, ts and price.")],
    venue: Annotated[str, typer.Option(help="The venue whose markets are about these prices, e.g. kalshi.")] = "kalshi",
) -> None:
    """Import prices of what markets are about, for backtests: a series becomes <venue>:underlying.<series>."""
    from oddstream_server.app.data import import_price_files
    from oddstream_server.domain.market import Venue

    if venue not in set(Venue):
        _refuse(f"venue: must be one of {', '.join(Venue)}")
    _run_command(import_price_files(_settings(), files, Venue(venue)))


@cli.command()
def replay(
    begin: Annotated[datetime | None, typer.Option("--from", help="First receive time, UTC.")] = None,
    end: Annotated[datetime | None, typer.Option("--to", help="First receive time that is left out, UTC.")] = None,
    market: Annotated[list[str] | None, typer.Option(help="A market id; may be given more than once.")] = None,
    dry_run: Annotated[bool, typer.Option(help="Append nothing; only tell the digest.")] = False,
) -> None:
    """Run stored ticks through the strategies again: the same input gives the same signals, byte for byte."""
    from oddstream_server.app.data import replay_stored
    from oddstream_server.application.ports import TimeRange

    span = TimeRange(_instant_us(begin), _instant_us(end))
    _run_command(replay_stored(_settings(), span, market or (), append=not dry_run))


@cli.command()
def fit(
    name: Annotated[str, typer.Argument(help="What to fit: calibration or volume_baseline.")],
) -> None:
    """Fit what strategies use to all that is known now; a running pipeline uses it a quarter of an hour later."""
    from oddstream_server.app.fitting import fit_stored
    from oddstream_server.domain.fitted import FittedName

    if name not in set(FittedName):
        _refuse(f"name: {name!r} is unknown; use one of {', '.join(FittedName)}")
    _run_command(fit_stored(_settings(), FittedName(name)))


venue_keys = typer.Typer(help="API keys at venues, kept sealed in the database.", no_args_is_help=True)
cli.add_typer(venue_keys, name="venue-keys")


@venue_keys.command("set")
def set_venue_key(
    venue: Annotated[str, typer.Argument(help="kalshi")],
    key_id: Annotated[str, typer.Option(help="The key's id at the venue.")],
    private_key_file: Annotated[Path, typer.Option(help="Unencrypted PEM, as the venue showed it.")],
) -> None:
    """Seal a key and keep it; one that is there is replaced."""
    from oddstream_server.app import venue_keys as commands

    _run_command(commands.set_venue_key(_settings(), venue, key_id, private_key_file))


@venue_keys.command("list")
def list_venue_keys() -> None:
    """Which venues a key is kept for, and what wraps it."""
    from oddstream_server.app import venue_keys as commands

    _run_command(commands.list_venue_keys(_settings()))


@venue_keys.command("remove")
def remove_venue_key(venue: Annotated[str, typer.Argument(help="kalshi")]) -> None:
    """Forget a key."""
    from oddstream_server.app import venue_keys as commands

    _run_command(commands.remove_venue_key(_settings(), venue))


@venue_keys.command("reseal")
def reseal_venue_keys() -> None:
    """Seal every key anew with the newest wrapping key, after that was rotated."""
    from oddstream_server.app import venue_keys as commands

    _run_command(commands.reseal_venue_keys(_settings()))


@cli.command()
def write_secret(
    reference: Annotated[str, typer.Argument(help="e.g. vault:secret/alerts#slack_webhook")],
    file: Annotated[Path, typer.Argument(help="Replaced whole, mode 0600.")],
) -> None:
    """Write a secret of a store to a file, for programs that read files alone (webhooks of Alertmanager)."""
    from oddstream_server.app import venue_keys as commands

    _run_command(commands.write_secret(_settings(), reference, file))


def _instant_us(given: datetime | None) -> int | None:
    return None if given is None else int(given.replace(tzinfo=UTC).timestamp()) * 1_000_000


def _run_command(work: Coroutine[Any, Any, None]) -> None:
    """Run a command on stored data; what it refuses is said in words."""
    from oddstream_server.app.data import Refused
    from oddstream_server.domain.errors import OddstreamError
    from oddstream_server.embedded.errors import EmbeddedError

    try:
        asyncio.run(work)
    except (OddstreamError, EmbeddedError, Refused) as error:
        _refuse(str(error))
    except KeyboardInterrupt:
        _refuse("stopped; the same command goes on where it was")


@cli.command()
def health() -> None:
    """Exit 0 while the server on this machine is ready, 1 otherwise; for container health checks."""
    import urllib.error
    import urllib.request

    settings = _settings()
    host = "127.0.0.1" if settings.operations_host in ("0.0.0.0", "::") else settings.operations_host  # noqa: S104
    url = f"http://{host}:{settings.operations_port}/health/ready"
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            raise SystemExit(0 if answer.status == 200 else 1)
    except (urllib.error.URLError, TimeoutError, OSError):
        raise SystemExit(1) from None


def main() -> None:
    cli()


if __name__ == "__main__":
    main()
