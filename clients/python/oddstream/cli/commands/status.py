"""``oddstream status``: how the service does."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Annotated, Any

import grpc
import typer

from oddstream.cli import json_lines
from oddstream.cli.failures import failure_of
from oddstream.cli.session import FAILED, Session, say, with_session
from oddstream.cli.views.status import SystemView, status_json, status_page
from oddstream.cli.views.system import system_page
from oddstream.errors import OddstreamError, from_rpc_error
from oddstream.v1 import admin_service_pb2, signal_service_pb2, system_status_pb2
from oddstream.watching.signals import from_now

_LARGEST_ANSWER_BYTES = 4 * 1024 * 1024


@with_session
def status(
    session: Session,
    operations: Annotated[
        str,
        typer.Option(help="Address of the server's operations port.", metavar="URL", envvar="ODDSTREAM_OPERATIONS"),
    ] = "http://127.0.0.1:9464",
) -> None:
    """Show how the service does: its parts, each venue's feed, the pipeline, halts, what doesn't work.

    A server that doesn't tell (an older one, or one that is down) is asked by its signal stream and its operations
    port instead.
    """
    system = system_status(session)
    if system is not None:
        if session.as_json:
            print(json_lines.line({"target": session.address, "system": json_lines.plain(system)}), flush=True)
        else:
            session.console().print(system_page(session.address, system))
        return
    if not operations.startswith(("http://", "https://")):
        operations = f"http://{operations}"
    state, state_words = operations_state(operations, min(session.timeout or 3.0, 3.0))
    stream, stream_words = first_message(session)
    view = SystemView(session.address, stream, stream_words, operations, state, state_words)
    if session.as_json:
        print(json_lines.line(status_json(view)), flush=True)
    else:
        console = session.console()
        console.print(status_page(view, time.time_ns() // 1000, console.width))
    if not view.answered():
        if session.as_json:
            say(f"Error: neither {session.address} nor {operations} answers")
        say("  Way out: start a server with `make run`, or name another with --target and --operations")
        raise typer.Exit(FAILED)


def system_status(session: Session) -> system_status_pb2.SystemStatus | None:
    """What GetSystemStatus answers; None where it doesn't."""
    with session.client() as client:
        try:
            return client.admin.GetSystemStatus(admin_service_pb2.GetSystemStatusRequest()).status
        except OddstreamError:
            return None


def operations_state(address: str, timeout_seconds: float) -> tuple[Mapping[str, Any] | None, str]:
    """What the operations port's ``/state`` says, or why nothing in words.

    :param address: an http(s) URL.
    """
    try:
        url = f"{address.rstrip('/')}/state"
        with urllib.request.urlopen(url, timeout=timeout_seconds) as answer:  # noqa: S310 - the caller let http(s) alone in
            state = json.loads(answer.read(_LARGEST_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        return None, f"answers HTTP {error.code}: it may be another program's port"
    except (OSError, http.client.HTTPException):
        return None, "is not answering"
    except ValueError:
        return None, "doesn't answer in JSON: it may be another program's port"
    return (state, "") if isinstance(state, Mapping) else (None, "doesn't answer as an operations port does")


def first_message(session: Session) -> tuple[signal_service_pb2.WatchSignalsResponse | None, str]:
    """The first message of a stream of signals, with each venue's feed; or why there is none in words."""
    request = signal_service_pb2.WatchSignalsRequest(start=from_now(), include_simulated=True)
    with session.client() as client:
        call = client.signals.WatchSignals(request, timeout=session.timeout or 15.0)
        try:
            return next(iter(call)), ""
        except StopIteration:
            return None, "ended the stream without a word"
        except grpc.RpcError as failure:
            error = failure_of(from_rpc_error(failure), session.address)
            return None, f"{error.what.removeprefix(session.address).strip()} [{error.reason}]"
        finally:
            call.cancel()
