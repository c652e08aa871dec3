"""The memory before the stores, on a clock that the test moves."""

import asyncio
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from oddstream_server.application.secrets.provider import Secret, SecretMissing, SecretReference, SecretStoreAway
from oddstream_server.secrets.held import PAUSE_SECONDS, HeldSecrets

REFERENCE = SecretReference("vault", "secret/database")


class ScriptedStore:
    """Answers what it is told to; fails while it is away."""

    def __init__(self) -> None:
        self.secret = Secret({"password": "first"})
        self.away = False
        self.asked = 0
        self.gate: asyncio.Event | None = None

    async def fetch(self, reference: SecretReference) -> Secret:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise SecretStoreAway("the store is away")
        return self.secret


class Held:
    def __init__(self) -> None:
        self.store = ScriptedStore()
        self.now = 100.0
        self.registry = CollectorRegistry()
        self.secrets = HeldSecrets({"vault": self.store}, self.registry, lambda: self.now)

    async def password(self) -> str:
        return (await self.secrets.get(REFERENCE)).secret.fields["password"]

    def up(self) -> float | None:
        return self.registry.get_sample_value("oddstream_secret_store_up", {"store": "vault"})


@pytest.fixture
def held() -> Held:
    return Held()


async def test_a_changed_secret_is_seen_by_the_next_that_asks(held: Held) -> None:
    assert await held.password() == "first"
    held.store.secret = Secret({"password": "second"})
    assert await held.password() == "second"


async def test_while_the_store_is_away_what_is_held_is_handed_out_and_said(held: Held) -> None:
    assert await held.password() == "first"
    held.store.away = True
    assert await held.password() == "first"
    assert held.up() == 0
    held.now += 7.5
    assert held.secrets.state() == {"vault": {"up": False, "away_seconds": 7.5}}
    held.store.away = False
    held.store.secret = Secret({"password": "second"})
    assert await held.password() == "second"
    assert held.up() == 1
    assert held.secrets.state() == {"vault": {"up": True}}


async def test_a_store_that_failed_is_left_alone_for_a_moment_unless_what_is_held_was_refused(held: Held) -> None:
    await held.password()
    held.store.away = True
    await held.password()
    asked = held.store.asked
    await held.password()
    assert held.store.asked == asked
    held.secrets.refused(REFERENCE)
    await held.password()
    assert held.store.asked == asked + 1
    held.now += PAUSE_SECONDS + 0.1
    await held.password()
    assert held.store.asked == asked + 2


async def test_a_store_that_is_away_from_the_start_is_an_error_that_names_the_secret(held: Held) -> None:
    held.store.away = True
    with pytest.raises(SecretStoreAway):
        await held.password()
    held.store.away = False
    held.now += PAUSE_SECONDS + 0.1
    assert await held.password() == "first"


async def test_a_lease_is_used_for_half_of_its_time_and_held_for_all_of_it(held: Held) -> None:
    held.store.secret = Secret({"password": "first"}, lease_seconds=60)
    await held.password()
    held.store.secret = Secret({"password": "second"}, lease_seconds=60)
    held.now += 29
    assert await held.password() == "first"
    held.store.away = True
    held.now += 2
    assert await held.password() == "first"
    held.now += 30
    with pytest.raises(SecretStoreAway):
        await held.password()


async def test_a_lease_that_was_refused_is_not_handed_out_again(held: Held) -> None:
    held.store.secret = Secret({"password": "first"}, lease_seconds=60)
    await held.password()
    held.store.secret = Secret({"password": "second"}, lease_seconds=60)
    held.secrets.refused(REFERENCE)
    assert await held.password() == "second"


async def test_many_who_ask_at_once_are_one_request_and_one_who_leaves_takes_nobody_along(held: Held) -> None:
    held.store.gate = asyncio.Event()
    waiting = [asyncio.create_task(held.password()) for _ in range(10)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    waiting[0].cancel()
    held.store.gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == ["first"] * 9
    assert held.store.asked == 1


async def test_a_store_that_is_not_set_up_is_named_with_those_that_are(held: Held) -> None:
    with pytest.raises(SecretMissing, match="no store aws is set up; there are vault"):
        await held.secrets.get(SecretReference("aws", "x"))


def test_each_series_is_there_from_the_start(held: Held) -> None:
    sample: Callable[..., float | None] = held.registry.get_sample_value
    for outcome in ("fetched", "held", "failed"):
        assert sample("oddstream_secret_fetches_total", {"store": "vault", "outcome": outcome}) == 0
