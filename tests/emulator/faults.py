"""What a venue's HTTP side does wrong on demand. Each fault answers one request instead of, or around, the handler."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Fault = Callable[[web.Request, Handler], Awaitable[web.StreamResponse]]


def status(code: int, retry_after: str | None = None, body: dict[str, Any] | None = None) -> Fault:
    """An error of the venue; 429 comes with or without a Retry-After header."""

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        headers = {} if retry_after is None else {"Retry-After": retry_after}
        return web.json_response(
            body or {"error": {"code": "fault", "message": "on demand"}}, status=code, headers=headers
        )

    return answer


def html_page(code: int = 502) -> Fault:
    """A page of the edge in front of the venue."""

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        page = "<html><head><title>Please wait</title></head><body><h1>The edge has a bad day</h1></body></html>"
        return web.Response(text=page, status=code, content_type="text/html")

    return answer


def slow(seconds: float) -> Fault:
    """The right answer, late."""

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await handler(request)

    return answer


def dropped() -> Fault:
    """The connection ends before an answer."""

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.transport is not None:
            request.transport.abort()
        return web.Response()

    return answer


def altered(change: Callable[[Any], Any]) -> Fault:
    """The right answer with its body changed: repeated cursors, duplicate rows, poison rows."""

    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        return web.json_response(body=orjson.dumps(change(orjson.loads(response.body))))

    return answer


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]


class Faults:
    """Faults by path, each used once, in the order in which they were planned; and the requests that came."""

    def __init__(self) -> None:
        self._planned: list[tuple[str, deque[Fault]]] = []
        self._standing: list[tuple[str, Fault]] = []
        self.requests: list[Request] = []

    def plan(self, path_end: str, *faults: Fault) -> None:
        """The next requests whose path ends so meet these faults, one each."""
        self._planned.append((path_end, deque(faults)))

    def stand(self, path_end: str, fault: Fault) -> None:
        """Every request whose path ends so meets the fault, until :meth:`clear`."""
        self._standing.append((path_end, fault))

    def clear(self) -> None:
        self._planned.clear()
        self._standing.clear()

    @property
    def pending(self) -> int:
        """Planned faults that no request has met yet."""
        return sum(len(faults) for _, faults in self._planned)

    def seen(self, path_end: str) -> list[Request]:
        return [request for request in self.requests if request.path.endswith(path_end)]

    def middleware(self) -> Any:
        @web.middleware
        async def meet(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.requests.append(Request(request.method, request.path, tuple(request.query.items())))
            for path_end, faults in self._planned:
                if faults and request.path.endswith(path_end):
                    return await faults.popleft()(request, handler)
            for path_end, fault in self._standing:
                if request.path.endswith(path_end):
                    return await fault(request, handler)
            return await handler(request)

        return meet
