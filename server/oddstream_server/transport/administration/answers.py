"""Mutations as the wire sees them: the first answer's bytes again for the same request id and body."""

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from oddstream.v1 import error_reason_pb2
from oddstream_server.application.calls.mutations import Answered, Mutation, MutationRequest, Mutations
from oddstream_server.application.calls.request import current_request

M = TypeVar("M", bound=Message)


class Answers:
    """Runs mutations whose requests carry a ``request_id``."""

    def __init__(self, mutations: Mutations) -> None:
        self._mutations = mutations

    async def once(
        self,
        request: Message,
        answer: type[M],
        work: Callable[[Mutation], Awaitable[M]],
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> M:
        """:param work: makes the answer; what it does commits with it.
        :param prepare: checks that come before, and only where the call wasn't answered yet.
        """

        async def run(mutation: Mutation) -> Answered:
            message = await work(mutation)
            return Answered(message.SerializeToString(), subject_id=mutation.subject_id)

        answered = await self._mutations.run(mutation_request(request), run, prepare)
        return answer.FromString(answered.body)

    async def once_with_secret(self, request: Message, answer: type[M], work: Callable[[Mutation], Awaitable[M]]) -> M:
        """For an answer with the field ``secret``, which is kept apart and not for long."""

        async def run(mutation: Mutation) -> Answered:
            message: Any = await work(mutation)
            secret = message.secret
            message.ClearField("secret")
            return Answered(message.SerializeToString(), secret, mutation.subject_id)

        answered = await self._mutations.run(mutation_request(request), run)
        message: Any = answer.FromString(answered.body)
        if answered.secret is None:
            message.secret_absent_reason = error_reason_pb2.ERROR_REASON_SECRET_ALREADY_SHOWN
        else:
            message.secret = answered.secret
        made: M = message
        return made


def mutation_request(request: Message) -> MutationRequest:
    """:raises LookupError: outside of a call."""
    call = current_request.get()
    if call is None:
        raise LookupError("no call in this context")
    return MutationRequest(call.method, getattr(request, "request_id", ""), body_of(request))


def body_of(request: Message) -> bytes:
    """The request without its id; equal for equal requests."""
    body = type(request)()
    body.CopyFrom(request)
    if "request_id" in request.DESCRIPTOR.fields_by_name:
        body.ClearField("request_id")
    return body.SerializeToString(deterministic=True)


def digest_of(request: Message) -> str:
    """SHA-256 in lower-case hex, as the audit log has it."""
    return hashlib.sha256(body_of(request)).hexdigest()
