"""Layers put together, once a method.

Each layer has one of three shapes, and what costs a call least is taken: one more coroutine around a call costs some
7 µs among all else that a call does, a plain method a fraction of that.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from oddstream_server.domain.errors import OddstreamError
from oddstream_server.interceptors.call import Bracket, Call, Gate, Layer, MethodKind, Proceed


def composed(layers: Sequence[Layer], innermost: Proceed, kind: MethodKind) -> Proceed:
    """:param layers: outermost first.
    :return: what runs a call of a method of this kind through all of them.
    """
    proceed = innermost
    rest = list(layers)
    while rest:
        if isinstance(rest[-1], Bracket):
            proceed = _bracketed(_taken_while(rest, Bracket), proceed)
        elif kind is MethodKind.UNARY and isinstance(rest[-1], Gate):
            proceed = _gated(_taken_while(rest, Gate), proceed)
        else:
            proceed = partial(rest.pop().intercept, proceed=proceed)  # type: ignore[union-attr]  # no bracket
    return proceed


def _taken_while(rest: list[Layer], shape: type[Any]) -> list[Any]:
    """The last of the layers, as long as they are of this shape; in their order."""
    taken: list[Any] = []
    while rest and isinstance(rest[-1], shape):
        taken.insert(0, rest.pop())
    return taken


def _bracketed(layers: Sequence[Bracket], proceed: Proceed) -> Proceed:
    enters = tuple(layer.enter for layer in layers)
    leaves = tuple(layer.leave for layer in reversed(layers))

    async def run(call: Call) -> Any:
        response = None
        for enter in enters:
            enter(call)
        try:
            response = await proceed(call)
            return response
        finally:
            for leave in leaves:
                leave(call, response)

    return run


def _gated(layers: Sequence[Gate], proceed: Proceed) -> Proceed:
    """The first gate that doesn't let the call pass takes over, with all of those behind it."""
    whole = proceed
    steps: list[tuple[Callable[[Call], bool], Proceed]] = []
    for layer in reversed(layers):
        whole = partial(layer.intercept, proceed=whole)
        steps.insert(0, (layer.passes, whole))

    async def run(call: Call) -> Any:
        passed = 0
        try:
            for passes, take_over in steps:
                if not passes(call):
                    return await take_over(call)
                passed += 1
            return await proceed(call)
        except OddstreamError as error:
            for layer in reversed(layers[:passed]):
                await layer.failed(call, error)
            raise

    return run
