"""A call goes through its layers in their order, whatever shape each of them has."""

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from oddstream_server.application.calls.request import RequestContext
from oddstream_server.domain.errors import NotFound, OddstreamError
from oddstream_server.interceptors.call import UNKNOWN_METHOD, Call, Layer, MethodKind, Proceed
from oddstream_server.interceptors.composition import composed

Seen = list[str]


class Around:
    name: ClassVar[str] = "around"

    def __init__(self, label: str, seen: Seen) -> None:
        self.label, self.seen = label, seen

    def enter(self, call: Call) -> None:
        self.seen.append(f"{self.label} in")

    def leave(self, call: Call, response: Any) -> None:
        self.seen.append(f"{self.label} out {response}")


class Waiting:
    name: ClassVar[str] = "waiting"

    def __init__(self, label: str, seen: Seen) -> None:
        self.label, self.seen = label, seen

    async def intercept(self, call: Call, proceed: Proceed) -> Any:
        self.seen.append(f"{self.label} whole")
        return await proceed(call)


class Door(Waiting):
    def __init__(self, label: str, seen: Seen, *, opens: bool) -> None:
        super().__init__(label, seen)
        self.opens = opens

    def passes(self, call: Call) -> bool:
        self.seen.append(f"{self.label} passes {self.opens}")
        return self.opens

    async def failed(self, call: Call, error: OddstreamError) -> None:
        self.seen.append(f"{self.label} told of {type(error).__name__}")


def a_call() -> Call:
    context: Any = SimpleNamespace()
    return Call(UNKNOWN_METHOD, b"", context, {}, bytes, RequestContext("/m", "c-1", ""))


async def answer(_: Call) -> str:
    return "answer"


async def fail(_: Call) -> str:
    raise NotFound("Market", "kalshi:NONE")


async def test_brackets_close_in_reverse_order_and_see_the_answer() -> None:
    seen: Seen = []
    layers: list[Layer] = [Around("a", seen), Around("b", seen), Waiting("c", seen), Around("d", seen)]
    assert await composed(layers, answer, MethodKind.UNARY)(a_call()) == "answer"
    assert seen == ["a in", "b in", "c whole", "d in", "d out answer", "b out answer", "a out answer"]


async def test_brackets_close_when_a_call_fails() -> None:
    seen: Seen = []
    with pytest.raises(NotFound):
        await composed([Around("a", seen), Around("b", seen)], fail, MethodKind.UNARY)(a_call())
    assert seen == ["a in", "b in", "b out None", "a out None"]


async def test_a_call_that_every_gate_lets_pass_goes_through_none_of_them_in_whole() -> None:
    seen: Seen = []
    layers: list[Layer] = [Door("a", seen, opens=True), Door("b", seen, opens=True)]
    assert await composed(layers, answer, MethodKind.UNARY)(a_call()) == "answer"
    assert seen == ["a passes True", "b passes True"]


async def test_a_gate_that_stays_shut_takes_over_with_all_of_those_behind_it() -> None:
    seen: Seen = []
    layers: list[Layer] = [Door(name, seen, opens=name != "b") for name in "abc"]
    assert await composed(layers, answer, MethodKind.UNARY)(a_call()) == "answer"
    assert seen == ["a passes True", "b passes False", "b whole", "c whole"]


async def test_gates_that_were_passed_hear_of_the_failure_behind_them_and_the_others_see_it_themselves() -> None:
    seen: Seen = []
    layers: list[Layer] = [Door(name, seen, opens=name != "c") for name in "abc"]
    with pytest.raises(NotFound):
        await composed(layers, fail, MethodKind.UNARY)(a_call())
    assert seen[-3:] == ["c whole", "b told of NotFound", "a told of NotFound"]


async def test_a_stream_goes_through_every_gate_in_whole() -> None:
    seen: Seen = []
    layers: list[Layer] = [Door("a", seen, opens=True), Door("b", seen, opens=True)]
    await composed(layers, answer, MethodKind.SERVER_STREAM)(a_call())
    assert seen == ["a whole", "b whole"]
