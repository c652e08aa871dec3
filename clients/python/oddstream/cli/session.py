"""What every command shares: where to, with which key, and how to answer."""

import functools
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Concatenate, NoReturn, ParamSpec, get_type_hints

import grpc
import typer
from rich.console import Console

from oddstream.cli.failures import failure_lines, failure_of
from oddstream.client import Client
from oddstream.connection import InsecureTarget
from oddstream.errors import OddstreamError

FAILED, USAGE, INTERRUPTED = 1, 2, 130


class Output(StrEnum):
    """How to answer."""

    AUTO = "auto"
    TABLE = "table"
    JSON = "json"


_PANEL = "Connection and output"
Target = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="The server; localhost:50051 where none is given. \\[env: ODDSTREAM_TARGET]",
        rich_help_panel=_PANEL,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="API key or access token. Others on the machine can see a command line: the variable is the safer place. "
        "\\[env: ODDSTREAM_API_KEY]",
        rich_help_panel=_PANEL,
    ),
]
Tls = Annotated[bool | None, typer.Option("--tls", help="Use TLS. \\[env: ODDSTREAM_TLS]", rich_help_panel=_PANEL)]
Ca = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="PEM file of the authority that signed the server's certificate; implies --tls. \\[env: ODDSTREAM_CA]",
        rich_help_panel=_PANEL,
        exists=True,
        dir_okay=False,
    ),
]
AllowPlaintext = Annotated[
    bool | None,
    typer.Option(
        "--allow-plaintext",
        help="Send the key without TLS to another machine, on a network that you trust.",
        rich_help_panel=_PANEL,
    ),
]
Timeout = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="When a call is given up; 15.", min=0.1, rich_help_panel=_PANEL),
]
Answer = Annotated[
    Output | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FORM",
        help="auto, table or json; auto is a table on a terminal and JSON lines in a pipe.",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True)
class Session:
    """The shared options; None where one wasn't given."""

    target: Target = None
    api_key: ApiKey = field(default=None, repr=False)
    tls: Tls = None
    ca: Ca = None
    allow_plaintext: AllowPlaintext = None
    timeout: Timeout = None
    output: Answer = None

    @property
    def address(self) -> str:
        return self.target or "localhost:50051"

    def client(self) -> Client:
        """:raises typer.Exit: the connection would not be safe; said on stderr."""
        credentials = None
        if self.ca is not None:
            credentials = grpc.ssl_channel_credentials(self.ca.read_bytes())
        elif self.tls:
            credentials = grpc.ssl_channel_credentials()
        try:
            return Client(
                self.address,
                api_key=self.api_key or None,
                credentials=credentials,
                allow_plaintext=bool(self.allow_plaintext),
                timeout_seconds=self.timeout or 15.0,
            )
        except InsecureTarget:
            usage_error(
                f"{self.address} is not on this machine and the connection has no TLS, so the key could be read on the "
                "way",
                "--tls or --ca FILE, or --allow-plaintext on a network that you trust",
            )

    @property
    def as_json(self) -> bool:
        if self.output in (None, Output.AUTO):
            return not sys.stdout.isatty()
        return self.output is Output.JSON

    def console(self) -> Console:
        """Where tables go; outside of a terminal they are 80 columns wide, or $COLUMNS."""
        return Console(highlight=False)


def from_environment(environment: Mapping[str, str]) -> Session:
    """What the variables ODDSTREAM_TARGET, _API_KEY, _TLS and _CA say."""
    ca = environment.get("ODDSTREAM_CA")
    return Session(
        target=environment.get("ODDSTREAM_TARGET") or None,
        api_key=environment.get("ODDSTREAM_API_KEY") or None,
        tls=environment.get("ODDSTREAM_TLS", "").lower() in ("1", "true", "yes", "on") or None,
        ca=Path(ca) if ca else None,
    )


def overlay(base: Session, given: Mapping[str, Any]) -> Session:
    """``base`` with the values that were given: those that aren't None."""
    return replace(base, **{name: value for name, value in given.items() if value is not None})


def say(text: str) -> None:
    """A notice for people, which never mixes with the answer."""
    print(text, file=sys.stderr, flush=True)


def leave_the_pipe() -> None:
    """Stop writing to a reader that went away: the interpreter would try once more at its end, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usage_error(what: str, way_out: str) -> NoReturn:
    say(f"Error: {what}\n  Way out: {way_out}")
    raise typer.Exit(USAGE)


def failed(error: OddstreamError, session: Session) -> NoReturn:
    say("\n".join(failure_lines(failure_of(error, session.address))))
    raise typer.Exit(FAILED)


Rest = ParamSpec("Rest")


def with_session(command: Callable[Concatenate[Session, Rest], None]) -> Callable[..., None]:
    """A command whose first parameter is a session, as one that takes the shared options after its own.

    What stands behind the command's name wins over what stands before it.
    """
    hints = get_type_hints(command, include_extras=True)
    shared_hints = get_type_hints(Session, include_extras=True)
    own = list(inspect.signature(command).parameters.values())[1:]
    shared = [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=shared_hints[f.name])
        for f in fields(Session)
    ]
    context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)

    @functools.wraps(command)
    def run(context: typer.Context, **given: Any) -> None:
        values = {f.name: given.pop(f.name) for f in fields(Session)}
        base = context.find_root().obj
        session = overlay(base if isinstance(base, Session) else Session(), values)
        try:
            command(session, **given)  # type: ignore[call-arg]  # typer passes every parameter by name
        except OddstreamError as error:
            failed(error, session)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            leave_the_pipe()
            raise typer.Exit(0) from None

    parameters = [context, *(p.replace(annotation=hints[p.name]) for p in own), *shared]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # functions may carry one
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    del run.__wrapped__
    return run
