"""The message itself: read here, so that malformed bytes get a proper answer, and held against the contract's rules."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from google.protobuf.message import DecodeError

from oddstream_server.domain.errors import FieldViolation, InvalidArgument
from oddstream_server.interceptors.call import Call, Proceed
from oddstream_server.interceptors.chain import malformed_request

Validate = Callable[[str, bytes], Sequence[FieldViolation]]
"""From a method's full name and a serialised request to what is wrong with it; nothing for methods without rules."""


class ValidationInterceptor:
    name: ClassVar[str] = "validation"

    def __init__(self, validate: Validate) -> None:
        self._validate = validate

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        if call.method.kind.request_streaming:
            return await proceed(call)  # each message is read, and refused, as it comes
        body: bytes = call.request
        try:
            call.request = call.deserialize(body)
        except DecodeError:
            raise malformed_request() from None
        violations = self._validate(call.method.full_name, body)
        if violations:
            raise InvalidArgument(violations)
        return await proceed(call)
