"""The message itself: read here, so that malformed bytes get a proper answer, and held against the contract's rules."""

from typing import Any, ClassVar

from google.protobuf.message import DecodeError

from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.interceptors.call import Call, Proceed
from oddstream_server.interceptors.chain import malformed_request
from oddstream_server.transport.contract import Contract


class ValidationInterceptor:
    name: ClassVar[str] = "validation"

    def __init__(self, contract: Contract) -> None:
        self._contract = contract

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        if call.method.kind.request_streaming:
            return await proceed(call)  # each message is read, and refused, as it comes
        body: bytes = call.request
        try:
            call.request = call.deserialize(body)
        except DecodeError:
            raise malformed_request() from None
        if call.method.full_name in self._contract.methods:
            violations = self._contract.violations(call.method.full_name, body)
            if violations:
                raise InvalidArgument(violations)
        return await proceed(call)
