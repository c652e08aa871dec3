"""Reads over HTTP against a server that misbehaves in all the known ways."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from email.utils import formatdate
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from oddstream_server.venues.breaker import CircuitBreaker
from oddstream_server.venues.budget import TokenBucket
from oddstream_server.venues.http import HttpConfig, HttpReader, VenueAway, VenueRefused, retry_after_s
from tests.venues.running_venue import running_venue

_QUICK = HttpConfig(timeout_s=1.0, attempts=3, backoff_initial_s=0.005, backoff_maximum_s=0.01)


class Scripted:
    """Answers one after the other; the last one stays."""

    def __init__(self, *answers: web.Response | float) -> None:
        self.answers = list(answers)
        self.requests: list[web.Request] = []

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            return web.json_response({"late": True})
        return web.Response(status=answer.status, body=answer.body, headers=dict(answer.headers))


def json_body(text: str, status: int = 200, **headers: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="application/json", headers=headers)


def html(status: int) -> web.Response:
    return web.Response(status=status, text="<html>edge</html>", content_type="text/html")


class Reading:
    def __init__(self, reader: HttpReader, breaker: CircuitBreaker, budget: TokenBucket) -> None:
        self.reader = reader
        self.breaker = breaker
        self.budget = budget


@asynccontextmanager
async def reading(scripted: Scripted, config: HttpConfig = _QUICK, threshold: int = 5) -> AsyncIterator[Reading]:
    async with running_venue(scripted) as address, aiohttp.ClientSession() as session:
        breaker, budget = CircuitBreaker(threshold, 30), TokenBucket(1_000, 1_000)
        reader = HttpReader(
            f"http://{address}/api/", lambda: session, breaker, budget, config, lambda m, p: {"X-Signed": f"{m} {p}"}
        )
        yield Reading(reader, breaker, budget)


async def test_numbers_of_an_answer_keep_their_digits_and_arguments_go_out_as_given() -> None:
    scripted = Scripted(json_body('{"bid": 0.001}'))
    async with reading(scripted) as it:
        answer = await it.reader.get("/markets", [("ids", "a"), ("ids", "b")])
    assert answer == {"bid": Decimal("0.001")}
    (request,) = scripted.requests
    assert request.path == "/api/markets"
    assert request.query.getall("ids") == ["a", "b"]
    assert request.headers["X-Signed"] == "GET /markets"


@pytest.mark.parametrize(
    "first",
    [
        [json_body("{}", 500)],
        [json_body("{}", 425)],
        [html(502), html(503)],
        [html(200)],
        [json_body("", 429, **{"Retry-After": "0"})],
        [json_body('{"retry_after_seconds": 0.01}', 429)],
    ],
    ids=["500", "engine restarting", "edge pages", "a page instead of JSON", "429", "429 with its wait in the body"],
)
async def test_what_may_pass_is_asked_for_again(first: Sequence[web.Response]) -> None:
    scripted = Scripted(*first, json_body('{"ok": true}'))
    async with reading(scripted) as it:
        assert await it.reader.get("/x") == {"ok": True}
    assert len(scripted.requests) == len(first) + 1 == it.reader.requests


async def test_a_slow_answer_is_given_up_after_the_timeout() -> None:
    scripted = Scripted(30.0, json_body('{"ok": true}'))
    config = HttpConfig(timeout_s=0.1, attempts=2, backoff_initial_s=0.005)
    async with reading(scripted, config) as it:
        assert await it.reader.get("/x") == {"ok": True}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409])
async def test_a_refusal_is_final_and_says_nothing_against_the_venue(status: int) -> None:
    scripted = Scripted(json_body('{"error": {"code": "secret detail"}}', status))
    async with reading(scripted, threshold=1) as it:
        with pytest.raises(VenueRefused) as refused:
            await it.reader.get("/x")
        assert refused.value.status == status
        assert it.breaker.state.value == "closed"
        assert "secret detail" not in str(refused.value)
    assert len(scripted.requests) == 1


async def test_retries_end_with_the_last_error() -> None:
    scripted = Scripted(json_body("{}", 503))
    async with reading(scripted) as it:
        with pytest.raises(VenueAway):
            await it.reader.get("/x")
    assert len(scripted.requests) == 3


async def test_a_retry_after_longer_than_we_wait_ends_the_read() -> None:
    scripted = Scripted(json_body("", 429, **{"Retry-After": "3600"}))
    async with reading(scripted) as it:
        with pytest.raises(VenueAway) as away:
            await it.reader.get("/x")
    assert away.value.retry_after_s == 3_600
    assert len(scripted.requests) == 1


async def test_a_429_opens_no_breaker_but_failures_in_a_row_do_and_then_nothing_is_sent() -> None:
    scripted = Scripted(json_body("", 429, **{"Retry-After": "0"}))
    async with reading(scripted, threshold=2) as it:
        with pytest.raises(VenueAway):
            await it.reader.get("/x")
        assert it.breaker.state.value == "closed"
        scripted.answers = [json_body("{}", 500)]
        with pytest.raises(VenueAway):
            await it.reader.get("/x")
        assert it.breaker.state.value == "open"
        sent = len(scripted.requests)
        with pytest.raises(VenueAway, match="breaker is open"):
            await HttpReader(
                "http://127.0.0.1:1",
                lambda: pytest.fail("a request was sent"),
                it.breaker,
                it.budget,
                HttpConfig(attempts=1),
            ).get("/x")
        assert len(scripted.requests) == sent


async def test_an_unreachable_venue_is_away_and_its_probe_says_no_in_time() -> None:
    async with aiohttp.ClientSession() as session:
        reader = HttpReader(
            "http://127.0.0.1:1", lambda: session, CircuitBreaker(9, 1), TokenBucket(9, 9), HttpConfig(attempts=1)
        )
        with pytest.raises(VenueAway):
            await reader.get("/x")
        assert not await reader.probe("/x")
    async with reading(Scripted(30.0)) as it:
        began = time.monotonic()
        assert not await it.reader.probe("/x", timeout_s=0.2)
        assert time.monotonic() - began < 2


async def test_a_probe_of_an_answering_venue_says_yes() -> None:
    async with reading(Scripted(json_body("{}"))) as it:
        assert await it.reader.probe("/x")


def test_retry_after_is_a_count_or_a_date() -> None:
    assert retry_after_s(" 7 ") == 7
    assert retry_after_s("0.5") == 0.5
    dated: Any = retry_after_s(formatdate(time.time() + 60, usegmt=True))
    assert 55 < dated <= 60
    assert retry_after_s(formatdate(0, usegmt=True)) == 0
    assert retry_after_s("soon") is None
