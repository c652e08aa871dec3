"""The message itself: read here, so that malformed bytes get a proper answer, and held against the contract's rules."""

from typing import Any, ClassVar

from google.protobuf.message import DecodeError

from oddstream_server.domain.errors import InvalidArgument
from oddstream_server.interceptors.call import Call, Gate, Proceed
from oddstream_server.interceptors.chain import malformed_request
from oddstream_server.transport.contract import Contract

_REMEMBERED, _REMEMBERED_BYTES = 8_192, 256


class ValidationInterceptor(Gate):
    name: ClassVar[str] = "validation"

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self._good: dict[tuple[str, bytes], None] = {}
        """Small requests that kept every rule. Bots ask for the same again and again, and the rules never change."""

    def passes(self, call: Call) -> bool:
        body: bytes = call.request
        if (call.method.full_name, body) not in self._good:
            return False
        call.request = call.deserialize(body)
        return True

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        if call.method.kind.request_streaming:
            return await proceed(call)  # each message is read, and refused, as it comes
        body: bytes = call.request
        try:
            call.request = call.deserialize(body)
        except DecodeError:
            raise malformed_request() from None
        if (call.method.full_name, body) not in self._good:
            self._check(call.method.full_name, body)
        return await proceed(call)

    def _check(self, full_name: str, body: bytes) -> None:
        method = self._contract.methods.get(full_name)
        if method is None:
            return
        violations = self._contract.violations(full_name, body)
        if violations:
            raise InvalidArgument(violations)
        if len(body) <= _REMEMBERED_BYTES and method.read_only and method.service != "AdminService":  # people are there
            if len(self._good) >= _REMEMBERED:
                self._good.clear()
            self._good[full_name, body] = None
