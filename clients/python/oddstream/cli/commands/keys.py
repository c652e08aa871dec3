"""``oddstream keys``: who may call, for admins."""

import re
import uuid
from typing import Annotated

import typer
from google.protobuf.duration_pb2 import Duration

from oddstream.cli import json_lines
from oddstream.cli.session import Session, say, usage_error, with_session
from oddstream.cli.views.administration import key_page, keys_table
from oddstream.v1 import access_pb2, admin_service_pb2, api_key_pb2, venue_pb2

pb = admin_service_pb2
app = typer.Typer(no_args_is_help=True, help="API keys: make, list, rotate and revoke them. For admins.")

KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="The key's id, key_…; never the key itself.")]
Many = list[str]
_UNITS = {"m": 60, "h": 3_600, "d": 86_400}


@app.command("create")
@with_session
def create_key(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A label without personal data, e.g. market-maker-2.")],
    role: Annotated[str, typer.Option(help="viewer, analyst, trader or admin.")] = "viewer",
    owner_name: Annotated[str, typer.Option(help="Who answers for it; stored encrypted.")] = "",
    owner_email: Annotated[str, typer.Option(help="How to reach them; stored encrypted.")] = "",
    days: Annotated[int, typer.Option(min=1, max=365, help="How long it is good.")] = 90,
    service: Annotated[Many | None, typer.Option(help="Only this service, e.g. SignalService; again for more.")] = None,
    venue: Annotated[Many | None, typer.Option(help="Only this venue's data; again for more.")] = None,
    network: Annotated[Many | None, typer.Option(help="Only from this network, CIDR; again for more.")] = None,
    calls_per_minute: Annotated[int | None, typer.Option(min=1, help="A limit of its own, in cost units.")] = None,
    test: Annotated[bool, typer.Option("--test", help="A key for trying things out; its text says so.")] = False,
) -> None:
    """Make a key and show it, once."""
    scopes = api_key_pb2.ApiKeyScopes(services=service or (), networks=network or (), calls_per_minute=calls_per_minute)
    scopes.venues.extend(venue_of(word) for word in venue or ())
    request = pb.CreateApiKeyRequest(
        display_name=name,
        owner_name=owner_name,
        owner_email=owner_email,
        role=_role(role),
        scopes=scopes,
        time_to_live=Duration(seconds=days * 86_400),
        environment=api_key_pb2.API_KEY_ENVIRONMENT_TEST if test else api_key_pb2.API_KEY_ENVIRONMENT_LIVE,
        request_id=str(uuid.uuid4()),
    )
    with session.client() as client:
        answer = client.admin.CreateApiKey(request)
    _show(session, answer.api_key, answer.secret)


@app.command("list")
@with_session
def list_keys(
    session: Session,
    owner_email: Annotated[str, typer.Option(help="Only keys of this owner: the whole address.")] = "",
) -> None:
    """List the keys, without their secrets."""
    found: list[api_key_pb2.ApiKey] = []
    request = pb.ListApiKeysRequest(filter=pb.ApiKeyFilter(owner_email=owner_email))
    with session.client() as client:
        for page in client.pages(client.admin.ListApiKeys, request):
            found += page.api_keys
    if session.as_json:
        for key in found:
            print(json_lines.line(json_lines.plain(key)), flush=True)
        return
    session.console().print(keys_table(found))


@app.command("rotate")
@with_session
def rotate_key(
    session: Session,
    key_id: KeyId,
    overlap: Annotated[str, typer.Option(help="How long the old secret stays good, e.g. 24h, 7d, 0m.")] = "24h",
) -> None:
    """Give a key a new secret and show it, once."""
    request = pb.RotateApiKeyRequest(api_key_id=key_id, overlap=_span(overlap), request_id=str(uuid.uuid4()))
    with session.client() as client:
        answer = client.admin.RotateApiKey(request)
    _show(session, answer.api_key, answer.secret)


@app.command("revoke")
@with_session
def revoke_key(
    session: Session, key_id: KeyId, note: Annotated[str, typer.Option(help="Why, for the audit log.")] = ""
) -> None:
    """End a key for good, and its open streams."""
    request = pb.RevokeApiKeyRequest(api_key_id=key_id, note=note, request_id=str(uuid.uuid4()))
    with session.client() as client:
        answer = client.admin.RevokeApiKey(request)
    _show(session, answer.api_key, "")


def _show(session: Session, key: api_key_pb2.ApiKey, secret: str) -> None:
    if session.as_json:
        line = json_lines.plain(key)
        print(json_lines.line({**line, "secret": secret} if secret else line), flush=True)
        return
    session.console().print(key_page(key))
    if secret:
        # Alone on its line and on stdout, so that it can be copied whole.
        print(secret, flush=True)
        say("This is the key. It is shown this once: store it where secrets are kept.")


def _role(word: str) -> access_pb2.Role.ValueType:
    name = f"ROLE_{word.upper()}"
    if name not in access_pb2.Role.keys() or name == "ROLE_UNSPECIFIED":  # noqa: SIM118 - not a mapping
        usage_error(f"there is no role {word!r}", "viewer, analyst, trader or admin")
    return access_pb2.Role.Value(name)


def venue_of(word: str) -> venue_pb2.Venue.ValueType:
    name = f"VENUE_{word.upper()}"
    if name not in venue_pb2.Venue.keys() or name == "VENUE_UNSPECIFIED":  # noqa: SIM118 - not a mapping
        usage_error(f"there is no venue {word!r}", "kalshi, polymarket, polymarket_us or simulated")
    return venue_pb2.Venue.Value(name)


def _span(text: str) -> Duration:
    match = re.fullmatch(r"(\d{1,6})([mhd])", text)
    if match is None:
        usage_error(f"{text!r} is not a span", "a number with m, h or d, such as 30m, 24h or 7d")
    return Duration(seconds=int(match[1]) * _UNITS[match[2]])
