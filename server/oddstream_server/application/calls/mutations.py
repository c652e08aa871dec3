"""Mutations: each runs once a request id, in one transaction with its row of the audit log and its answer.

The answer of the first call is kept for 24 hours and given again to the same id with the same body, whoever lost the
connection meanwhile. It is kept sealed; a secret in it is kept apart, and for ten minutes alone.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from oddstream_server.application.calls.request import current_request, require_principal
from oddstream_server.application.ports import Change, Changes, Clock, FirstAnswer, RequestName
from oddstream_server.application.secrets.sealing import Sealer
from oddstream_server.domain.audit import AuditOutcome, AuditRecord
from oddstream_server.domain.errors import RequestIdReused
from oddstream_server.domain.principal import Principal

ANSWER_US = 24 * 3_600 * 1_000_000
"""How long a request id stands for its first answer."""
SECRET_US = 600 * 1_000_000
"""How long a secret is shown again to the same request id."""


@dataclass(frozen=True, slots=True, repr=False)
class MutationRequest:
    """A call that changes something."""

    method: str
    """Full name, ``/oddstream.v1.AdminService/HaltSignals``."""
    request_id: str
    """A UUID4 in any spelling, or empty."""
    body: bytes
    """The request without its id, the same bytes for the same request."""

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(self.method.encode() + b"\0" + self.body).digest()


@dataclass(frozen=True, slots=True, repr=False)
class Answered:
    """What a mutation came to, now or the first time."""

    body: bytes
    secret: str | None = None
    subject_id: str | None = None
    """Whom it tells of: it goes when they are erased."""
    again: bool = False
    """True where it is the answer of an earlier call."""


class Mutation:
    """One mutation while it is made: what it works on, who makes it, and its rows of the audit log."""

    def __init__(self, change: Change, principal: Principal, request: MutationRequest, now_us: int) -> None:
        self.change = change
        self.principal = principal
        self.now_us = now_us
        self.audited = False
        self.subject_id: str | None = None
        """Whom the answer will tell of, by pseudonym; set by the use case."""
        self._request = request

    async def audit(
        self, resource: str, before: Mapping[str, Any] | None = None, after: Mapping[str, Any] | None = None
    ) -> None:
        """Tell the audit log of it. Comes before anything is appended to the signal log.

        :param resource: type and id.
        :param before: and ``after``: JSON values without floats, secrets and personal data.
        """
        await self.change.audit.append(record_of_call(resource, self._request.digest.hex(), before, after))
        self.audited = True


Work = Callable[[Mutation], Awaitable[Answered]]
Prepare = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Turn:
    """The calls of one request id in this process."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0


class Mutations:
    """Runs mutations.

    :param sealer: for answers that may have to be given again.
    """

    def __init__(self, changes: Changes, sealer: Sealer, now: Clock) -> None:
        self._changes = changes
        self._sealer = sealer
        self._now = now
        self._under_way: dict[RequestName, _Turn] = {}

    async def run(self, request: MutationRequest, work: Work, prepare: Prepare | None = None) -> Answered:
        """:param prepare: checks that read much and need no transaction; inside of one they would hold a connection of
            the pool and wait for another. Left out where the call was answered before.
        :raises RequestIdReused: the id was used with another body.
        """
        principal, now_us = require_principal(), self._now()
        name = RequestName(principal.subject, request.method, request.request_id.lower())
        async with self._one_at_a_time(name):
            if prepare is not None:
                if name.request_id:
                    async with self._changes.begin() as change:
                        first = await change.requests.find(name, now_us - ANSWER_US)
                    if first is not None:
                        return self._again(name, request, first, now_us)
                await prepare()
            return await self._in_transaction(name, request, work, principal, now_us)

    async def _in_transaction(
        self, name: RequestName, request: MutationRequest, work: Work, principal: Principal, now_us: int
    ) -> Answered:
        async with self._changes.begin() as change:
            if name.request_id:
                first = await change.requests.claim(name, request.digest, now_us, now_us - ANSWER_US)
                if first is not None:
                    return self._again(name, request, first, now_us)
            mutation = Mutation(change, principal, request, now_us)
            answered = await work(mutation)
            if not mutation.audited:
                raise RuntimeError(f"{request.method} would change something without a row in the audit log")
            if name.request_id:
                place, secret = _place(name), answered.secret
                await change.requests.answer(
                    name,
                    self._sealer.seal(answered.body, place),
                    None if secret is None else self._sealer.seal_text(secret, f"{place}/secret"),
                    answered.subject_id,
                )
        return answered

    @asynccontextmanager
    async def _one_at_a_time(self, name: RequestName) -> AsyncIterator[None]:
        """Repetitions wait here rather than in the database, where each would hold a connection that the first call
        may need to end."""
        if not name.request_id:
            yield
            return
        turn = self._under_way.setdefault(name, _Turn())
        turn.callers += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.callers -= 1
            if not turn.callers:
                del self._under_way[name]

    def _again(self, name: RequestName, request: MutationRequest, first: FirstAnswer, now_us: int) -> Answered:
        if first.request_digest != request.digest:
            raise RequestIdReused
        secret = None
        if first.sealed_secret is not None and now_us - first.create_time_us < SECRET_US:
            secret = self._sealer.open_text(first.sealed_secret, f"{_place(name)}/secret")
        return Answered(self._sealer.open(first.sealed_answer, _place(name)), secret, again=True)


def _place(name: RequestName) -> str:
    return f"idempotency_requests/{name.subject}{name.method}/{name.request_id}"


def record_of_call(
    resource: str,
    request_digest: str,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    outcome: AuditOutcome = AuditOutcome.DONE,
) -> AuditRecord:
    """A row about the call that this task serves.

    :raises LookupError: outside of an authenticated call.
    """
    principal, request = require_principal(), current_request.get()
    if request is None:
        raise LookupError("no call in this context")
    return AuditRecord(
        actor=principal.subject,
        method=request.method,
        outcome=outcome,
        resource=resource,
        api_key_id=principal.key_id,
        peer_network=request.peer_network,
        request_digest=request_digest,
        before=before,
        after=after,
        correlation_id=request.correlation_id,
    )
