"""The rpcs of the contract that this version doesn't serve: they say so, with a reason, instead of failing."""

from typing import Any, TypeVar

import grpc

from oddstream_server.domain.errors import Unimplemented

_S = TypeVar("_S", bound=type)


def refuse_the_rest(servicer: _S) -> _S:
    """Class decorator: every rpc that the class inherits from its generated base answers METHOD_UNIMPLEMENTED."""
    generated = servicer.__mro__[1]
    for name in vars(generated):
        if not name.startswith("_") and name not in vars(servicer):
            setattr(servicer, name, _refusal(name))
    return servicer


def refused_methods(servicer: type) -> tuple[str, ...]:
    """The short names of the rpcs that a servicer refuses."""
    return tuple(sorted(name for name, method in vars(servicer).items() if getattr(method, "refuses", False)))


def _refusal(name: str) -> Any:
    async def refuse(self: object, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        raise Unimplemented(f"{name} is part of the contract, and this version of the server doesn't serve it yet")

    refuse.__name__ = name
    refuse.refuses = True  # type: ignore[attr-defined]  # what refused_methods looks for
    return refuse
