"""The command ``oddstream-server``."""

import asyncio
import sys
from typing import Annotated, NoReturn

import typer

from oddstream_server.settings import Settings, SettingsError, load_settings

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
    from oddstream_server.app.process import run_worker
    from oddstream_server.app.serve import serve as serve_until

    settings = _settings()
    raise SystemExit(run_worker(settings, f"serve-{index}", lambda stop: serve_until(settings, index, stop)))


@cli.command()
def pipeline() -> None:
    """Take venue data in and turn it into signals; one process leads, others wait."""
    from oddstream_server.app.pipeline import run_pipeline
    from oddstream_server.app.process import run_worker

    settings = _settings()
    raise SystemExit(run_worker(settings, "pipeline", lambda stop: run_pipeline(settings, stop)))


@cli.command()
def migrate() -> None:
    """Bring the schema of ODDSTREAM_DATABASE_URL to this version, under a lock."""
    from oddstream_server.app.process import default_migrations_folder, say
    from oddstream_server.storage.migrate import upgrade

    settings = _settings()
    if settings.database_url is None:
        _refuse("ODDSTREAM_DATABASE_URL: is needed; the embedded database is migrated by `oddstream-server run`")
    folder = settings.migrations_dir or default_migrations_folder()
    upgrade(settings.database_url.get_secret_value(), report=say, folder=folder)


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
