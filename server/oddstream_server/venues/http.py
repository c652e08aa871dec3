"""Reads over HTTP: a budget, a circuit breaker, retries with jittered backoff, and a timeout on everything."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp
import stamina

from oddstream_server.venues.breaker import CircuitBreaker
from oddstream_server.venues.budget import TokenBucket
from oddstream_server.venues.rows import RowError, exact_json

SessionFactory = Callable[[], aiohttp.ClientSession]
Headers = Callable[[str, str], Mapping[str, str]]
"""Headers for (method, path), e.g. a request's signature."""
Parameters = Iterable[tuple[str, str]]

_ASK_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_BODY_LIMIT = 256 * 1024 * 1024


class VenueError(Exception):
    """A venue's answer can't be used.

    VenueError
    ├── VenueRefused      it answered with a status that asking again doesn't change
    └── VenueAway         no usable answer: unreachable, overloaded, broken, or its breaker is open
    """


class VenueRefused(VenueError):
    def __init__(self, method: str, path: str, status: int) -> None:
        super().__init__(f"{method} {path} answered {status}")
        self.status = status


class VenueAway(VenueError):
    """:param retry_after_s: what the venue asked us to wait, if it did."""

    def __init__(self, message: str, retry_after_s: float | None = None, *, counts: bool = True) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.counts = counts
        """False where it says nothing against the venue's health: a 429, or our own open breaker."""


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """How a venue is read over HTTP."""

    timeout_s: float = 20.0
    """For one request, from its start to the last byte."""
    connect_timeout_s: float = 5.0
    attempts: int = 5
    retry_budget_s: float = 60.0
    """For all attempts of one read together."""
    backoff_initial_s: float = 0.25
    backoff_maximum_s: float = 10.0
    retry_after_maximum_s: float = 60.0
    """A longer Retry-After ends the read instead of blocking it."""


class HttpReader:
    """Reads JSON of one base URL.

    :param base_url: without a slash at its end.
    :param headers: called for each request with the method and the URL's path.
    """

    def __init__(
        self,
        base_url: str,
        session: Callable[[], aiohttp.ClientSession],
        breaker: CircuitBreaker,
        budget: TokenBucket,
        config: HttpConfig,
        headers: Headers | None = None,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._session = session
        self._breaker = breaker
        self._budget = budget
        self._config = config
        self._headers = headers
        self._timeout = aiohttp.ClientTimeout(total=config.timeout_s, sock_connect=config.connect_timeout_s)
        self.requests = 0
        """Requests sent so far, retries counted."""

    async def get(self, path: str, parameters: Parameters = (), cost: float = 1.0) -> Any:
        """The JSON at a path, with numbers kept exact.

        :param cost: tokens of the budget that the request costs.
        :raises VenueRefused: a 4xx that asking again doesn't change.
        :raises VenueAway: no usable answer within the attempts.
        """
        return await self._read("GET", path, list(parameters), None, cost)

    async def post(self, path: str, body: Any, cost: float = 1.0) -> Any:
        """As :meth:`get`, for the venues' reads that take their arguments as a JSON body."""
        return await self._read("POST", path, [], body, cost)

    async def probe(self, path: str, parameters: Parameters = (), timeout_s: float = 4.0) -> bool:
        """True when one request is answered with JSON within the time; never raises on a venue's account."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._once("GET", path, list(parameters), None)
        except (VenueError, TimeoutError):
            return False
        return True

    async def _read(self, method: str, path: str, parameters: list[tuple[str, str]], body: Any, cost: float) -> Any:
        config = self._config
        retries = stamina.retry_context(
            on=self._backoff,
            attempts=config.attempts,
            timeout=config.retry_budget_s,
            wait_initial=config.backoff_initial_s,
            wait_max=config.backoff_maximum_s,
            wait_jitter=config.backoff_initial_s,
        )
        async for attempt in retries:
            with attempt:
                await self._budget.take(cost)
                return await self._guarded(method, path, parameters, body)
        raise AssertionError("a retry context ends by an answer or its last error")

    def _backoff(self, error: Exception) -> bool | float:
        if not isinstance(error, VenueAway):
            return False
        if error.retry_after_s is None:
            return True
        return error.retry_after_s if error.retry_after_s <= self._config.retry_after_maximum_s else False

    async def _guarded(self, method: str, path: str, parameters: list[tuple[str, str]], body: Any) -> Any:
        if not self._breaker.admit():
            wait_s = max(self._breaker.retry_after_s(), 0.05)
            raise VenueAway(f"{method} {path} not sent: the venue's breaker is open", wait_s, counts=False)
        try:
            answer = await self._once(method, path, parameters, body)
        except VenueAway as away:
            if away.counts:
                self._breaker.failed()
            else:
                self._breaker.abandoned()
            raise
        except VenueRefused:
            self._breaker.succeeded()
            raise
        except BaseException:
            self._breaker.abandoned()
            raise
        self._breaker.succeeded()
        return answer

    async def _once(self, method: str, path: str, parameters: list[tuple[str, str]], body: Any) -> Any:
        url = self._base_url + path
        session = self._session()
        self.requests += 1
        headers = dict(self._headers(method, path)) if self._headers else None
        try:
            async with session.request(
                method, url, params=parameters, json=body, headers=headers, timeout=self._timeout
            ) as response:
                status, retry_after = response.status, response.headers.get("Retry-After")
                content = await _bounded(response)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise VenueAway(f"{method} {path} failed: {type(error).__name__}") from error
        if status == 200:
            try:
                return exact_json(content)
            except RowError:
                raise VenueAway(f"{method} {path} answered something that is no JSON") from None
        if status in _ASK_AGAIN:
            if status == 429:
                self._budget.drain()
            wait_s = retry_after_s(retry_after) if retry_after else _wait_in_body(content)
            raise VenueAway(f"{method} {path} answered {status}", wait_s, counts=status != 429)
        raise VenueRefused(method, path, status)


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in response.content.iter_chunked(1 << 18):
        size += len(part)
        if size > _BODY_LIMIT:
            raise VenueAway("the body is larger than any that the venue documents")
        parts.append(part)
    return b"".join(parts)


def retry_after_s(header: str) -> float | None:
    """Seconds that a Retry-After header asks for, as a count or as an HTTP date; None where it is neither."""
    header = header.strip()
    if header.isascii() and header.replace(".", "", 1).isdigit():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _wait_in_body(content: bytes) -> float | None:
    try:
        body = exact_json(content)
    except RowError:
        return None
    value = body.get("retry_after_seconds") if isinstance(body, dict) else None
    return float(value) if value is not None and str(value).replace(".", "", 1).isdigit() else None
