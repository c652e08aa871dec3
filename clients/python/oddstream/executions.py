"""Reports of fills: cut into calls that the server takes, each safe to repeat."""

import uuid
from collections.abc import Iterable, Iterator

from oddstream.v1 import execution_pb2, signal_service_pb2

MAXIMUM_FILLS = 500
"""Of one call."""


def report_requests(fills: Iterable[execution_pb2.Fill]) -> Iterator[signal_service_pb2.ReportExecutionsRequest]:
    """The calls that report some fills, in their order, each with a request id of its own."""
    waiting: list[execution_pb2.Fill] = []
    for fill in fills:
        waiting.append(fill)
        if len(waiting) == MAXIMUM_FILLS:
            yield _request(waiting)
            waiting = []
    if waiting:
        yield _request(waiting)


def _request(fills: list[execution_pb2.Fill]) -> signal_service_pb2.ReportExecutionsRequest:
    return signal_service_pb2.ReportExecutionsRequest(fills=fills, request_id=str(uuid.uuid4()))
