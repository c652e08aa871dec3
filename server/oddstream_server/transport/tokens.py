"""Page tokens and resume tokens: opaque to callers, and refused when they are not ours or belong to something else.

A token is a serialised internal message in base64url. It holds a digest of what it belongs to (the method and all
arguments of a page, the filter of a stream), so that it can't be used with anything else by mistake. It carries no
secret and grants nothing, so it needs no signature: a forged one reads what its caller may read anyway.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from oddstream_server.application.calls.paging import PageRequest, page_size
from oddstream_server.application.ports import Key
from oddstream_server.domain.errors import (
    FieldViolation,
    InvalidArgument,
    PageTokenMismatch,
    ResumeTokenFilterMismatch,
)
from oddstream_server.transport.generated.token_pb2 import KeyPart, PageToken, ResumeToken

_VERSION = 1
_LAST_INSTANT_US = 253_402_300_800 * 1_000_000
_PAGE, _RESUME = "p", "r"
"""The first letter: the two messages look alike on the wire, and one must never be read as the other."""
_DIGEST_BYTES = 12
_PAGING_FIELDS = ("page_size", "page_token")


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What a resume token says."""

    data_set_id: str
    sequence: int


def page_request(request: Message, *columns: type) -> PageRequest:
    """The page that a request asks for.

    :param request: a message with ``page_size`` and ``page_token``.
    :param columns: types of the ordering columns, ``int`` or ``str``: a token that somebody made up has to fit as well.
    :raises InvalidArgument: PAGE_TOKEN_INVALID, or INVALID_FIELD for a negative size.
    :raises PageTokenMismatch: the other arguments have changed.
    """
    token: str = request.page_token  # type: ignore[attr-defined]  # every request with pages has both
    size: int = request.page_size  # type: ignore[attr-defined]
    return PageRequest(page_size(size), _last_key(request, token, columns) if token else None)


def next_page_token(request: Message, next_key: Key | None) -> str:
    """The token of the page after ``next_key``; empty where there is none."""
    if next_key is None:
        return ""
    parts = [KeyPart(integer_value=part) if isinstance(part, int) else KeyPart(text_value=part) for part in next_key]
    token = PageToken(version=_VERSION, last_key=parts, arguments_digest=_arguments_digest(request))
    return _sealed(_PAGE, token)


def resume_token(point: ResumePoint, filter_digest: bytes) -> str:
    """:param filter_digest: equal for filters that let the same events pass, at most 32 bytes."""
    token = ResumeToken(
        version=_VERSION, data_set_id=point.data_set_id, sequence=point.sequence, filter_digest=filter_digest
    )
    return _sealed(_RESUME, token)


def resume_point(token: str, filter_digest: bytes) -> ResumePoint:
    """:param filter_digest: of the filter that the caller asks for now.

    :raises InvalidArgument: RESUME_TOKEN_INVALID.
    :raises ResumeTokenFilterMismatch: the token belongs to another filter.
    """
    opened = ResumeToken()
    if not _open(_RESUME, token, opened) or opened.version != _VERSION or opened.sequence < 0 or not opened.data_set_id:
        raise InvalidArgument(
            [
                FieldViolation(
                    "start.resume_token",
                    "is not a resume token of this server; take one from a message of WatchSignals, or start anew",
                )
            ],
            reason="RESUME_TOKEN_INVALID",
        )
    if opened.filter_digest != filter_digest:
        raise ResumeTokenFilterMismatch
    return ResumePoint(opened.data_set_id, opened.sequence)


def _last_key(request: Message, token: str, columns: tuple[type, ...]) -> Key:
    opened = PageToken()
    known = _open(_PAGE, token, opened) and opened.version == _VERSION
    key = tuple(
        part.integer_value if part.WhichOneof("value") == "integer_value" else part.text_value
        for part in opened.last_key
    )
    if not known or tuple(map(type, key)) != columns or not all(map(_storable, key)):
        raise InvalidArgument(
            [FieldViolation("page_token", "is not a page token of this server; start again with an empty one")],
            reason="PAGE_TOKEN_INVALID",
        )
    if opened.arguments_digest != _arguments_digest(request):
        raise PageTokenMismatch
    return key


def _storable(part: str | int) -> bool:
    """Within what a column can hold: an instant of the years up to 9999, a text without U+0000."""
    return "\0" not in part if isinstance(part, str) else abs(part) < _LAST_INSTANT_US


def _arguments_digest(request: Message) -> bytes:
    arguments = type(request)()
    arguments.CopyFrom(request)
    for field in _PAGING_FIELDS:
        arguments.ClearField(field)
    # The type stands for the method: no two rpcs share one.
    name = request.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + b"\0" + arguments.SerializeToString(deterministic=True)).digest()[:_DIGEST_BYTES]


def _sealed(kind: str, token: Message) -> str:
    return kind + base64.urlsafe_b64encode(token.SerializeToString()).decode().rstrip("=")


def _open(kind: str, text: str, token: Message) -> bool:
    """False for what is no token of this kind."""
    if not text.startswith(kind):
        return False
    coded = text.removeprefix(kind)
    try:
        body = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        token.ParseFromString(body)
    except (binascii.Error, ValueError, DecodeError):
        return False
    return True
