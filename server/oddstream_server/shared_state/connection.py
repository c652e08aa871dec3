"""The one way to Redis: a client with small timeouts behind a circuit breaker, so that a dead Redis costs nothing."""

import random
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError

from oddstream_server.domain.errors import Unavailable

T = TypeVar("T")
log = structlog.get_logger()

_FAILURES_TO_OPEN = 3
_OPEN_SECONDS = 1.0


class SharedStateAway(Exception):
    """Redis didn't answer, or is not asked because it didn't answer a moment ago."""


class _Credentials(CredentialProvider):
    """The client asks it at each new connection."""

    def __init__(self, fetch: Callable[[], Awaitable[tuple[str | None, str]]]) -> None:
        self._fetch = fetch

    def get_credentials(self) -> tuple[str]:
        raise NotImplementedError("the asynchronous client asks for get_credentials_async")

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        user, password = await self._fetch()
        return (password,) if user is None else (user, password)


class SharedState:
    """A pool of connections and the breaker before it.

    Closed: every operation goes through. After three failures in a row it opens: operations fail at once for about a
    second; then one probe goes through, and its success closes the breaker again.

    :param url: redis://, rediss:// or unix://; it may hold a password and is never logged.
    :param credentials: user and password, asked for at each new connection; absent: the URL's.
    :param ca_file: PEM of the authority that signed the certificate behind rediss://; None takes the system's own.
    :param timeout_seconds: for connecting and for each answer.
    """

    def __init__(
        self,
        url: str,
        registry: CollectorRegistry,
        *,
        timeout_seconds: float = 0.25,
        ca_file: Path | None = None,
        credentials: Callable[[], Awaitable[tuple[str | None, str]]] | None = None,
    ) -> None:
        tls: dict[str, Any] = {}
        if url.startswith("rediss://"):
            tls = {"ssl_min_version": ssl.TLSVersion.TLSv1_3, "ssl_ca_certs": str(ca_file) if ca_file else None}
        self._redis: Redis = Redis.from_url(
            url,
            credential_provider=None if credentials is None else _Credentials(credentials),
            **tls,
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 0),
            max_connections=64,
        )
        self._failures = 0
        self._closed_again_at = 0.0
        self._probing = False
        self._failed = Counter(
            "oddstream_shared_state_failures", "Operations on Redis that failed or timed out.", registry=registry
        )
        self._open = Gauge(
            "oddstream_shared_state_breaker_open", "1 while Redis is held to be away and not asked.", registry=registry
        )
        self._open.set(0)

    @property
    def away(self) -> bool:
        """True while the breaker is open and no probe is due."""
        return self._failures >= _FAILURES_TO_OPEN and (self._probing or time.monotonic() < self._closed_again_at)

    async def run(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        """Run one operation.

        :raises SharedStateAway: the breaker is open, or Redis failed.
        """
        if self.away:
            raise SharedStateAway
        is_probe = self._failures >= _FAILURES_TO_OPEN
        self._probing = is_probe
        try:
            result = await operation(self._redis)
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            self._fail(error)
            raise SharedStateAway from error
        finally:
            if is_probe:
                self._probing = False
        if self._failures:
            if self._failures >= _FAILURES_TO_OPEN:
                log.info("redis is back")
                self._open.set(0)
            self._failures = 0
        return result

    def _fail(self, error: BaseException) -> None:
        self._failed.inc()
        self._failures += 1
        if self._failures >= _FAILURES_TO_OPEN:
            if self._failures == _FAILURES_TO_OPEN:
                # The class alone: a message of the client may repeat the URL.
                log.warning("redis is away; working without it", error=type(error).__name__)
            self._open.set(1)
            self._closed_again_at = time.monotonic() + _OPEN_SECONDS * random.uniform(0.8, 1.2)  # noqa: S311  # jitter

    async def healthy(self) -> bool:
        """True when Redis answers a ping now."""
        try:
            await self.run(lambda redis: redis.ping())
        except SharedStateAway:
            return False
        return True

    async def close(self) -> None:
        await self._redis.aclose()
