"""Compiles integer loops where numba is installed; where not, the same source runs as it is.

A loop that calls a strategy's step is a copy of one function with the step bound in, so that the compiler sees through
the call. Compiled code is kept on disk under a name that holds a digest of every function and constant it was made of.
A function takes seconds to compile: of several processes that want it one compiles, and the others take it from there.
"""

import contextlib
import fcntl
import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import numpy as np

AVAILABLE: Final = importlib.util.find_spec("numba") is not None
"""numba itself is loaded with the first function to compile: not where backtests are only asked for."""

_compiled: dict[str, Callable[..., Any]] = {}


def compiled(
    function: Callable[..., Any], *, plain: bool = False, checked: bool = False, **bound: Callable[..., Any]
) -> Callable[..., Any]:
    """``function`` as machine code, or as a plain copy where numba is absent or ``plain`` is set.

    :param checked: divisions by 0 raise, as they do in Python; for code that isn't ours.
    :param bound: functions to use in place of the globals of these names, in ``function`` and in what it calls; they
        are compiled as checked.
    """
    assert isinstance(function, FunctionType)
    if plain or not AVAILABLE:
        return _plain(function, bound)
    # error_model "numpy" leaves out the check for a divisor of 0, which our own loops exclude beforehand; they get
    # their arrays and make none, so they needn't count who holds them (nrt), as a strategy's step may have to
    options: dict[str, Any] = {"nogil": True, "error_model": "python" if checked else "numpy", "_nrt": checked}
    key = _digest(function, {name: _digest(f, {}) for name, f in bound.items()}, options)
    if key not in _compiled:
        _compiled[key] = _compile(function, key, checked, bound, options)
    return _compiled[key]


def _plain(function: FunctionType, bound: Mapping[str, Callable[..., Any]]) -> FunctionType:
    own = {name: _plain(called, taken) for name, called, taken in _callees(function, bound) if taken}
    return _copy(function, {**function.__globals__, **own, **bound})


def _compile(
    function: FunctionType,
    key: str,
    checked: bool,
    bound: Mapping[str, Callable[..., Any]],
    options: Mapping[str, Any],
) -> Callable[..., Any]:
    import numba

    bindings: dict[str, Any] = {**function.__globals__}
    for name in function.__code__.co_names:
        if name in bound:
            bindings[name] = compiled(bound[name], checked=True)
    for name, called, taken in _callees(function, bound):
        bindings[name] = compiled(called, plain=False, checked=checked, **taken)
    copy = _copy(function, bindings)
    copy.__qualname__ = f"{function.__qualname__}_{key[:16]}"
    jitted: Callable[..., Any]
    try:
        jitted = numba.njit(cache=True, **options)(copy)
    except RuntimeError:
        # neither beside the module nor in the user's cache can anything be kept: compiled anew in each process
        return numba.njit(**options)(copy)  # type: ignore[no-any-return]  # numba is untyped
    _compile_once(jitted, copy.__qualname__)
    if not checked:
        _widen(jitted)
    return jitted


def _widen(jitted: Any) -> None:
    """Let callers find ``jitted`` by integers of 64 bits alone, constants included.

    Else it is compiled for every mix of constants and widths that a caller's integers have or seem to have at first.
    """
    import numba

    template, types = jitted.get_call_template, numba.types

    def get_call_template(args: Any, kws: Any) -> Any:
        wide = tuple(types.int64 if isinstance(a, types.Integer | types.IntegerLiteral) else a for a in args)
        return template(wide, kws)

    jitted.get_call_template = get_call_template


def _callees(
    function: FunctionType, bound: Mapping[str, Callable[..., Any]]
) -> Iterator[tuple[str, FunctionType, dict[str, Callable[..., Any]]]]:
    """(name, function, what is bound in it or in what it calls) of the functions that ``function`` calls itself."""
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        if name not in bound and isinstance(called, FunctionType):
            names = _names(called)
            yield name, called, {n: f for n, f in bound.items() if n in names}


@cache
def _names(function: FunctionType) -> frozenset[str]:
    """Every global that a function and those that it calls use."""
    found = set(function.__code__.co_names)
    for name in function.__code__.co_names:
        called = function.__globals__.get(name)
        if isinstance(called, FunctionType):
            found |= _names(called)
    return frozenset(found)


def _compile_once(jitted: Any, name: str) -> None:
    """Let one process at a time compile ``jitted``; who waited finds it on disk.

    What a function calls is compiled under its lock, and functions don't call each other in circles: no deadlock.
    """
    compile_ = jitted.compile
    lock = Path(jitted._cache.cache_path) / f"{name}.lock"

    def compile_alone(signature: Any) -> Any:
        with _held(lock):
            return compile_(signature)

    jitted.compile = compile_alone


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # the folder can't be written: nothing will be kept there either
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _copy(function: FunctionType, bindings: dict[str, Any]) -> FunctionType:
    copy = FunctionType(function.__code__, bindings, function.__name__, function.__defaults__, function.__closure__)
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return copy


def _digest(function: Callable[..., Any], bound: Mapping[str, str], options: Mapping[str, Any] | None = None) -> str:
    assert isinstance(function, FunctionType)
    parts = [
        repr(options),
        _own_digest(function, tuple(sorted(bound))),
        *(f"{name}={bound[name]}" for name in sorted(bound)),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def _own_digest(function: FunctionType, without: tuple[str, ...]) -> str:
    code = function.__code__
    # The module too: machine code on disk looks its functions up by it, and finds nothing once they have moved.
    parts: list[object] = [function.__module__, code.co_code, code.co_consts, code.co_names, code.co_varnames]
    for name in code.co_names:
        value = function.__globals__.get(name)
        if name in without:
            continue
        if isinstance(value, FunctionType):
            parts.append(_own_digest(value, ()))
        elif isinstance(value, np.ndarray):
            parts.append(hashlib.sha256(value.tobytes()).hexdigest())
        elif isinstance(value, int | str):
            parts.append(value)
    return hashlib.sha256(repr(parts).encode()).hexdigest()
