"""Who calls, whether they may, and for streams: whether they still may."""

import asyncio
import hashlib
from typing import Any, ClassVar

from google.protobuf.message import Message

from oddstream_server.application.access.authorization import authorize
from oddstream_server.application.access.certificate_roles import CertificateRoles
from oddstream_server.application.access.denials import Denials
from oddstream_server.application.keys.authentication import Authenticator, bearer_token
from oddstream_server.domain.errors import OddstreamError, PermissionDenied
from oddstream_server.domain.principal import Principal
from oddstream_server.interceptors.access.client_certificate import certificate_of
from oddstream_server.interceptors.call import UNKNOWN_METHOD, Call, Gate, Proceed


class AuthenticationInterceptor(Gate):
    """Every method needs a good key (or client certificate) and the role that the contract declares for it, but for
    those that are listed as open to all. A stream ends with a status when its key is revoked, whether data flows or
    not."""

    name: ClassVar[str] = "authentication"

    def __init__(
        self,
        authenticator: Authenticator,
        certificate_roles: CertificateRoles | None = None,
        denials: Denials | None = None,
    ) -> None:
        self._authenticator = authenticator
        self._certificate_roles = certificate_roles
        self._denials = denials

    def passes(self, call: Call) -> bool:
        method, known = call.method, call.known
        if known is None or method.open_to_all:
            return False
        try:
            authorize(known, method.access, method.service_name, call.request_context.peer_address)
        except PermissionDenied:
            return False
        call.request_context.principal = known
        return True

    async def failed(self, call: Call, error: OddstreamError) -> None:
        """A denial goes into the audit log, whether by the role, by a scope or by the use case."""
        principal = call.request_context.principal
        if self._denials is not None and principal is not None and isinstance(error, PermissionDenied):
            await self._denials.record(principal, call.method.service, _digest(call.request), error)

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        method = call.method
        if method.open_to_all:
            return await proceed(call)
        request = call.request_context
        principal = request.principal = await self._principal(call)
        try:
            if method is not UNKNOWN_METHOD:
                authorize(principal, method.access, method.service_name, request.peer_address)
            if not method.kind.response_streaming:
                return await proceed(call)
        except PermissionDenied as error:
            await self.failed(call, error)
            raise
        guard = _StreamGuard()
        with self._authenticator.watching(principal, guard.end):
            return await guard.run(call, proceed)

    async def _principal(self, call: Call) -> Principal:
        """By the key that the call carries, or else by the client certificate of its connection."""
        token = bearer_token(call.metadata)
        if token is None and self._certificate_roles is not None:
            shown = certificate_of(call.context)
            if shown is not None:
                return self._certificate_roles.principal(*shown)
        return await self._authenticator.authenticate(token)


def _digest(request: Any) -> str:
    """SHA-256 of what was sent, in lower-case hex; empty for a stream of requests."""
    body = request.SerializeToString(deterministic=True) if isinstance(request, Message) else request
    return hashlib.sha256(body).hexdigest() if isinstance(body, bytes) else ""


class _StreamGuard:
    """Ends the stream that runs in this task with an error, from outside of it.

    Works as ``asyncio.timeout`` does: the task is cancelled, and the cancellation is turned into the error on its way
    out, so that the client gets a status. A cancellation by the client meanwhile goes first.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[Any] | None = None
        self._error: OddstreamError | None = None

    def end(self, error: OddstreamError) -> None:
        if self._task is not None and self._error is None:
            self._error = error
            self._task.cancel()

    async def run(self, call: Call, proceed: Proceed) -> Any:
        self._task = asyncio.current_task()
        try:
            response = await proceed(call)
        except asyncio.CancelledError:
            if self._error is None or self._task is None or self._task.uncancel() > 0:
                raise
            raise self._error from None
        finally:
            task, self._task = self._task, None
        if self._error is not None and task is not None:
            task.uncancel()  # the stream had ended by itself before the cancellation reached it
        return response
