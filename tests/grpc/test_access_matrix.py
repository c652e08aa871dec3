"""Every method of the contract against every kind of key that must not get in."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from oddstream_server.domain.principal import Role, Scopes
from oddstream_server.transport.contract import load_contract
from tests.grpc.administered import Administered, administered
from tests.grpc.running_server import bearer, failure_of
from tests.grpc.test_authentication import bad_credentials

CONTRACT = load_contract()


@pytest.fixture
async def office(database_url: str, tmp_path: Path) -> AsyncIterator[Administered]:
    async with administered(database_url, tmp_path) as office:
        yield office


async def test_no_method_accepts_a_bad_key_and_all_bad_keys_are_answered_alike(office: Administered) -> None:
    world = office.server.world
    bad = bad_credentials(world)
    for method in CONTRACT.methods:
        for kind, metadata in bad.items():
            failure = await failure_of(office.server.channel.unary_stream(method)(b"", metadata=metadata))
            if failure.reason == "RATE_LIMITED":  # the address has used up what strangers have
                world.limiter.taken.clear()  # type: ignore[attr-defined]  # the limiter in memory
                failure = await failure_of(office.server.channel.unary_stream(method)(b"", metadata=metadata))
            answer = (failure.code, failure.reason, failure.text)
            assert answer == (
                grpc.StatusCode.UNAUTHENTICATED,
                "API_KEY_INVALID",
                "the API key is not valid; ask an admin for a new one",
            ), (method, kind)


async def test_no_method_accepts_a_key_whose_role_or_scopes_leave_it_out(office: Administered) -> None:
    world = office.server.world
    limited = {
        "MARKETS": Scopes(services=("MarketService",)),
        "OTHERS": Scopes(services=("SignalService", "BacktestService", "AdminService")),
        "ELSEWHERE": Scopes(networks=("203.0.113.0/24",)),
    }
    keys = {name: world.issue(Role.ADMIN, scopes=scopes) for name, scopes in limited.items()}
    by_role = {role: world.issue(role) for role in Role}

    async def reason(method: str, key: Any) -> str:
        world.limiter.taken.clear()  # type: ignore[attr-defined]  # the limiter in memory
        call = office.server.channel.unary_stream(method)(b"\xff\xff", metadata=bearer(key.key.text))
        return (await failure_of(call)).reason

    for name, method in CONTRACT.methods.items():
        scoped_out = keys["OTHERS"] if method.service == "MarketService" else keys["MARKETS"]
        assert await reason(name, scoped_out) == "SCOPE_DENIED", name
        assert await reason(name, keys["ELSEWHERE"]) == "NETWORK_DENIED", name
        for role, key in by_role.items():
            expected = "MALFORMED_REQUEST" if role >= method.role else "PERMISSION_DENIED"
            assert await reason(name, key) == expected, (name, role)
