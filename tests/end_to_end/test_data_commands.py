"""``import quotes`` and ``replay`` as an operator types them, on a folder that no server runs."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.installation import Installation, installation

pytestmark = pytest.mark.timeout(240)

HEAD = (
    "captured_at,series,event_ticker,ticker,strike_type,floor_strike,cap_strike,yes_bid,yes_ask,close_time,spot,result"
)


def ladder(path: Path, minutes: int = 30) -> Path:
    """Two exclusive brackets whose asks add up to less than a dollar now and then."""
    lines = [HEAD]
    for minute in range(minutes):
        asks = (0.45, 0.40) if minute % 10 == 5 else (0.52, 0.51)
        for n, ask in enumerate(asks):
            lines.append(
                f"2026-07-03T05:{minute:02}:00.000000+00:00,KXT,KXT-1,KXT-1-B{n},between,{n}00,{n}99.99,"
                f"{ask - 0.02:.2f},{ask},2026-07-03T06:00:00Z,100,yes"
            )
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def server() -> Iterator[Installation]:
    with installation({"simulated_events": "1"}) as made:
        (made.root / "declarations.json").write_text(
            '[{"venue": "kalshi", "series_id": "KXT", "exclusive": true, "exhaustive": true,'
            ' "source": "contract terms", "reviewer": "test"}]'
        )
        yield made


@pytest.fixture
def command(server: Installation) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "oddstream_server", *arguments],
            env={
                **server.environment(),
                "ODDSTREAM_DECLARATIONS_FILE": str(server.root / "declarations.json"),
                "COLUMNS": "100",
            },
            cwd=server.root,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_a_file_is_stored_once_and_its_replay_gives_the_same_signals_each_time(server, command):
    file = str(ladder(server.root / "ladder.csv"))
    first = command("import", "quotes", file, "--form", "kalshi_ladder")
    assert first.returncode == 0, first.stderr
    assert "60 rows stored, 60 of them now; 2 markets created" in first.stdout
    again = command("import", "quotes", file, "--form", "kalshi_ladder")
    assert "60 rows stored, 0 of them now; 0 markets created" in again.stdout
    dry = command("replay", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    wet = command("replay")
    assert wet.returncode == 0, wet.stderr
    told = [re.search(r"60 ticks, (\d+) events, .*digest ([0-9a-f]{64})", run.stdout) for run in (dry, wet)]
    assert told[0]
    assert told[1]
    assert told[0].groups() == told[1].groups()
    assert int(told[0][1]) == 3, "one opening each ten minutes; what ends them is the clock, outside of a replay"
    assert f"{told[1][1]} appended" in wet.stdout
    assert ", 0 appended" in command("replay").stdout
    assert server.leftovers() == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("import", "quotes", "missing.csv", "--form", "kalshi_ladder"), "is not a file"),
        (("import", "quotes", "pyproject.toml", "--form", "nobodys"), "'nobodys' is not a form of quote files"),
    ],
)
def test_what_can_not_be_imported_is_refused_in_words_and_leaves_nothing_running(server, command, arguments, words):
    refused = command(*arguments)
    assert refused.returncode == 2
    assert words in refused.stderr
    assert "Traceback" not in refused.stderr
    assert server.leftovers() == []
