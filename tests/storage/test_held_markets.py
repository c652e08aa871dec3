from collections.abc import Sequence
from typing import Any

from oddstream_server.application.calls.request import RequestContext, current_request
from oddstream_server.storage.markets.held_markets import HeldMarkets


class Driver:
    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[object, ...]]] = []

    async def fetch(self, query: str, *arguments: object) -> Sequence[Any]:
        self.asked.append((query, arguments))
        return []


async def test_a_read_by_key_takes_the_id_of_its_call_along_and_is_one_statement_for_all_calls() -> None:
    driver: Any = Driver()
    held = HeldMarkets()
    for call in ("call-1", "call-2"):
        token = current_request.set(RequestContext("/m", call, ""))
        await held.read(driver, ["kalshi:A"])
        current_request.reset(token)
    (first, of_first), (second, of_second) = driver.asked
    assert first == second
    assert "call-1" in of_first
    assert "call-2" in of_second
