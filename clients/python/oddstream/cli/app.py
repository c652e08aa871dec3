"""The ``oddstream`` command, put together."""

import importlib.metadata
import os
from typing import Annotated

import typer

from oddstream.cli.commands import (
    audit,
    backtests,
    executions,
    halts,
    keys,
    markets,
    signals,
    status,
    strategies,
    sweeps,
)
from oddstream.cli.session import (
    AllowPlaintext,
    Answer,
    ApiKey,
    Ca,
    Target,
    Timeout,
    Tls,
    from_environment,
    overlay,
)

_EPILOG = (
    "Exit codes: 0 done, 1 a call failed, 2 the command line is wrong, 130 ended by Ctrl-C, 143 ended by SIGTERM. "
    "A reader of the pipe that goes away ends the command with 0."
)

app = typer.Typer(
    name="oddstream",
    help="Markets and signals of an Oddstream server. Tables on a terminal, JSON lines in a pipe.",
    epilog=_EPILOG,
    no_args_is_help=True,
    # A traceback with local variables could show the key.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(markets.app, name="markets")
app.add_typer(signals.app, name="signals")
app.add_typer(strategies.app, name="strategies")
app.add_typer(executions.app, name="executions")
app.add_typer(backtests.app, name="backtests")
app.add_typer(sweeps.app, name="sweeps")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.command("halt")(halts.halt)
app.command("resume")(halts.resume)
app.command("status")(status.status)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"oddstream {importlib.metadata.version('oddstream')}")
        raise typer.Exit


@app.callback()
def shared_options(
    context: typer.Context,
    target: Target = None,
    api_key: ApiKey = None,
    tls: Tls = None,
    ca: Ca = None,
    allow_plaintext: AllowPlaintext = None,
    timeout: Timeout = None,
    output: Answer = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    context.obj = overlay(
        from_environment(os.environ),
        {
            "target": target,
            "api_key": api_key,
            "tls": tls,
            "ca": ca,
            "allow_plaintext": allow_plaintext,
            "timeout": timeout,
            "output": output,
        },
    )
