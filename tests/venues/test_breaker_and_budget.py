"""The circuit breaker and the token bucket, on a clock that the test turns."""

import asyncio

import pytest

from oddstream_server.venues.breaker import CircuitBreaker
from oddstream_server.venues.budget import TokenBucket


class Turned:
    """A monotonic clock that moves only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


def state_of(breaker: CircuitBreaker) -> str:
    return breaker.state.value


def test_a_breaker_opens_after_its_threshold_of_failures_in_a_row() -> None:
    breaker = CircuitBreaker(3, 10, Turned())
    for _ in range(2):
        breaker.failed()
    breaker.succeeded()
    for _ in range(2):
        breaker.failed()
    assert state_of(breaker) == "closed"
    breaker.failed()
    assert state_of(breaker) == "open"
    assert not breaker.admit()
    assert breaker.retry_after_s() == 10


def test_half_open_lets_one_request_through_and_its_answer_decides() -> None:
    clock = Turned()
    breaker = CircuitBreaker(1, 10, clock)
    breaker.failed()
    clock.now = 10
    assert state_of(breaker) == "half_open"
    assert [breaker.admit() for _ in range(3)] == [True, False, False]
    breaker.failed()
    assert state_of(breaker) == "open"
    clock.now = 20
    assert breaker.admit()
    breaker.succeeded()
    assert state_of(breaker) == "closed"
    assert breaker.admit()


def test_a_probe_that_was_cancelled_or_never_ends_gives_its_place_to_another() -> None:
    clock = Turned()
    breaker = CircuitBreaker(1, 10, clock)
    breaker.failed()
    clock.now = 10
    assert breaker.admit()
    breaker.abandoned()
    assert breaker.admit()
    clock.now = 20
    assert breaker.admit()


async def test_a_bucket_spends_its_burst_at_once_and_then_its_rate() -> None:
    clock = Turned()
    bucket = TokenBucket(10, 20, clock, clock.sleep)
    await bucket.take(20)
    assert clock.now == 0
    await bucket.take(10)
    assert clock.now == pytest.approx(1)


async def test_a_drained_bucket_starts_again_from_nothing() -> None:
    clock = Turned()
    bucket = TokenBucket(10, 20, clock, clock.sleep)
    bucket.drain()
    await bucket.take(5)
    assert clock.now == pytest.approx(0.5)


async def test_more_than_the_burst_is_never_waited_for() -> None:
    clock = Turned()
    bucket = TokenBucket(10, 20, clock, clock.sleep)
    await bucket.take(1_000)
    assert clock.now == 0


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="threshold"):
        CircuitBreaker(0, 1)
    with pytest.raises(ValueError, match="greater than 0"):
        TokenBucket(0, 1)
