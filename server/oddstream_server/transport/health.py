"""grpc.health.v1, for each service and for the whole.

The stock servicer says SERVING before anything is ready, lets one stalled watcher block every change of state, and its
watchers outlast a drain; this one doesn't.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from oddstream_server.domain.errors import NotFound, Unavailable

SERVICE = "grpc.health.v1.Health"
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the generated base is untyped
    """NOT_SERVING until told otherwise; the empty name is the whole server.

    :param services: full names.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._states: dict[str, int] = dict.fromkeys(("", *services), _NOT_SERVING)
        self._watchers: set[asyncio.Event] = set()
        self._leaving = False
        self._ended = False

    def set_serving(self, serving: bool, service: str | None = None) -> None:
        """Set one service's state, or every one's; without effect once the server is leaving."""
        if self._leaving:
            return
        for name in self._states if service is None else (service,):
            self._states[name] = _SERVING if serving else _NOT_SERVING
        self._wake()

    def leave(self) -> None:
        """NOT_SERVING for good."""
        self.set_serving(False)
        self._leaving = True

    def end_watchers(self) -> None:
        """End every open Watch; one that stayed would hold up the server's stop."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        for event in self._watchers:
            event.set()

    async def Check(  # gRPC's name
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Any:
        state = self._states.get(request.service)
        if state is None:
            raise NotFound("Service", request.service, reason="SERVICE_NOT_FOUND")
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(  # gRPC's name
        self, request: Any, context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        changed = asyncio.Event()
        self._watchers.add(changed)
        last = None
        try:
            while True:
                changed.clear()
                state = self._states.get(request.service, _UNKNOWN)
                if state != last:
                    await context.write(health_pb2.HealthCheckResponse(status=state))
                    last = state
                if self._ended:
                    raise Unavailable("this server is going down", reason="DRAINING")
                await changed.wait()
        finally:
            self._watchers.discard(changed)
