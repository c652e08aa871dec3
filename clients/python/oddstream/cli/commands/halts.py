"""``oddstream halt`` and ``oddstream resume``: stop signals at once, and let them go on."""

import uuid
from typing import Annotated

import typer

from oddstream.cli import json_lines
from oddstream.cli.commands.keys import venue_of
from oddstream.cli.session import Session, usage_error, with_session
from oddstream.cli.views.administration import halt_page
from oddstream.v1 import admin_service_pb2, halt_pb2

pb = admin_service_pb2


@with_session
def halt(
    session: Session,
    note: Annotated[str, typer.Argument(metavar="WHY", help="For those who see the halt and for the audit log.")],
    everything: Annotated[bool, typer.Option("--all", help="All signals.")] = False,
    venue: Annotated[str | None, typer.Option(help="Signals with a leg on this venue.")] = None,
    kind: Annotated[str | None, typer.Option(help="Signals of this kind, e.g. arb.event_sum.")] = None,
) -> None:
    """Stop new opportunities at once and withdraw the active ones. For admins."""
    if sum([everything, venue is not None, kind is not None]) != 1:
        usage_error("a halt reaches one thing", "give one of --all, --venue VENUE and --kind KIND")
    scope = halt_pb2.HaltScope()
    if venue is not None:
        scope.venue = venue_of(venue)
    elif kind is not None:
        scope.kind = kind
    else:
        scope.everything.SetInParent()
    request = pb.HaltSignalsRequest(scope=scope, note=note, request_id=str(uuid.uuid4()))
    with session.client() as client:
        answer = client.admin.HaltSignals(request)
    if session.as_json:
        print(json_lines.line(json_lines.plain(answer)), flush=True)
        return
    session.console().print(halt_page(answer.halt, answer.withdrawn_count))


@with_session
def resume(
    session: Session,
    halt_id: Annotated[str, typer.Argument(metavar="HALT_ID", help="`oddstream status` lists the halts in force.")],
    note: Annotated[str, typer.Option(help="Why, for the audit log.")] = "",
) -> None:
    """Lift a halt. What was withdrawn stays so. For admins."""
    request = pb.ResumeSignalsRequest(halt_id=halt_id, note=note, request_id=str(uuid.uuid4()))
    with session.client() as client:
        lifted = client.admin.ResumeSignals(request).halt
    if session.as_json:
        print(json_lines.line(json_lines.plain(lifted)), flush=True)
        return
    session.console().print(halt_page(lifted, None))
