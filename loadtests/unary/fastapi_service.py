"""The same reads by FastAPI, uvicorn and SQLAlchemy's asyncio session, with the same key check, limiter, log and
metrics as this project's chain: what a careful team would write."""

import asyncio
import time
from typing import Annotated, Any

import structlog
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram
from pydantic import BaseModel
from sqlalchemy import String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from loadtests.unary.world import Given, sample_market
from oddstream_server.application.keys.authentication import Authenticator
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.domain.errors import Unauthenticated
from oddstream_server.shared_state.connection import SharedState
from oddstream_server.shared_state.limiter import LeasedRateLimiter
from oddstream_server.storage.connector import sqlalchemy_url
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore

log = structlog.get_logger()
_UNITS = 100_000_000


class Base(DeclarativeBase):
    pass


class MarketRow(Base):
    __tablename__ = "markets"
    market_id: Mapped[str] = mapped_column(String, primary_key=True)
    venue: Mapped[str]
    event_id: Mapped[str]
    state: Mapped[str]
    title: Mapped[str]
    body: Mapped[dict[str, Any]] = mapped_column(JSONB)


class MarketAnswer(BaseModel):
    market_id: str
    venue: str
    event_id: str | None
    state: str
    title: str
    body: dict[str, Any]


async def start(given: Given, *, cached: bool) -> int:
    registry = CollectorRegistry()
    authenticator = Authenticator(
        ApiKeyStore(Database(given.database_url, pool_size=1, max_overflow=1)),
        Peppers({1: bytes.fromhex(given.pepper)}),
        lambda: time.time_ns() // 1000,
    )
    limiter = LeasedRateLimiter(SharedState(given.redis_url, registry, timeout_seconds=2), registry)
    handled = Counter("http_requests", "Requests.", ["method", "code"], registry=registry)
    seconds = Histogram("http_request_seconds", "Time.", ["method"], registry=registry)
    engine = create_async_engine(sqlalchemy_url(given.database_url), pool_size=4, max_overflow=0)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    held = sample_market()
    answer = MarketAnswer(
        market_id=held.market_id,
        venue=held.venue.value,
        event_id=held.event_id,
        state=held.state.value,
        title=held.title,
        body={"rules_text": held.rules_text, "outcomes": [o.label for o in held.outcomes]},
    )
    app = FastAPI()

    async def session() -> Any:
        async with sessions() as opened:
            yield opened

    async def caller(request: Request) -> str:
        try:
            principal = await authenticator.authenticate(request.headers.get("authorization", "").partition(" ")[2])
        except Unauthenticated:
            raise HTTPException(401) from None
        decision = await limiter.take(f"key:{principal.subject}", 1, _UNITS, _UNITS // 10)
        if not decision.allowed:
            raise HTTPException(429)
        return principal.subject

    @app.middleware("http")
    async def observe(request: Request, proceed: Any) -> Response:
        began = time.perf_counter()
        response: Response = await proceed(request)
        elapsed = time.perf_counter() - began
        handled.labels(request.method, str(response.status_code)).inc()
        seconds.labels(request.method).observe(elapsed)
        log.info("call ended", path=request.url.path, code=response.status_code, duration_ms=round(elapsed * 1000, 3))
        return response

    if cached:

        @app.get("/markets/{market_id}")
        async def held_market(market_id: str, _: Annotated[str, Depends(caller)]) -> MarketAnswer:
            return answer
    else:

        @app.get("/markets/{market_id}")
        async def stored_market(
            market_id: str, _: Annotated[str, Depends(caller)], opened: Annotated[AsyncSession, Depends(session)]
        ) -> MarketAnswer:
            row = await opened.get(MarketRow, market_id)
            if row is None:
                raise HTTPException(404)
            return MarketAnswer.model_validate(row, from_attributes=True)

    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, access_log=False, log_config=None, lifespan="off")
    )
    task = asyncio.create_task(server.serve())
    _KEPT.append(task)
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    return int(server.servers[0].sockets[0].getsockname()[1])


_KEPT: list[Any] = []
