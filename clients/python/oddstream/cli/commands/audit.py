"""``oddstream audit``: who did what, and the proof that the record is whole."""

from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from oddstream.cli import json_lines
from oddstream.cli.session import FAILED, Session, with_session
from oddstream.cli.views.administration import audit_table, verification_words
from oddstream.v1 import admin_service_pb2, audit_entry_pb2

pb = admin_service_pb2
app = typer.Typer(no_args_is_help=True, help="The audit log: list, export and verify it. For admins.")


@app.command("list")
@with_session
def list_entries(
    session: Session,
    actor: Annotated[list[str] | None, typer.Option(help="Only acts of this subject; again for more.")] = None,
    resource: Annotated[list[str] | None, typer.Option(help="Only of this, as ApiKey/key_…; again for more.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Only by this method, by its full name.")] = None,
) -> None:
    """List the log in its order; in a pipe one JSON object a line, which is the export."""
    where = pb.AuditFilter(actors=actor or (), resources=resource or (), methods=method or ())
    request = pb.ListAuditEntriesRequest(page_size=1000, filter=where)
    table = None if session.as_json else audit_table()
    with session.client() as client:
        for page in client.pages(client.admin.ListAuditEntries, request):
            for entry in page.audit_entries:
                if table is None:
                    print(json_lines.line(entry_json(entry)), flush=True)
                else:
                    table.add(entry)
    if table is not None:
        session.console().print(table.table)


@app.command("verify")
@with_session
def verify(session: Session) -> None:
    """Compute the whole chain again; exit code 1 where a row doesn't fit."""
    with session.client() as client:
        found = client.admin.VerifyAuditLog(pb.VerifyAuditLogRequest())
    if session.as_json:
        print(json_lines.line(json_lines.plain(found)), flush=True)
    else:
        session.console().print(verification_words(found))
    if not found.intact:
        raise typer.Exit(FAILED)


def entry_json(entry: audit_entry_pb2.AuditEntry) -> dict[str, Any]:
    """As all JSON lines, with the resource before and after as the JSON that they are."""
    line = json_lines.plain(entry)
    for name in ("before", "after"):
        line[name] = MessageToDict(getattr(entry, name)) if entry.HasField(name) else None
    return line
