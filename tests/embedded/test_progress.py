"""Whoever waits for more than two seconds is told what for."""

from __future__ import annotations

import asyncio

import pytest

from oddstream_server.embedded.launch.process import progress


async def test_a_long_wait_is_reported_each_two_seconds_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    third_pause = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            third_pause.set()
            await asyncio.Event().wait()

    lines: list[str] = []
    monkeypatch.setattr(asyncio, "sleep", pause)
    async with progress(lines.append, "starting PostgreSQL"):
        await third_pause.wait()
    assert pauses == [2.0, 2.0, 2.0]
    assert lines == ["starting PostgreSQL (0 s)"] * 2
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_a_short_wait_is_not_worth_a_line() -> None:
    lines: list[str] = []
    async with progress(lines.append, "starting PostgreSQL"):
        pass
    assert lines == []
