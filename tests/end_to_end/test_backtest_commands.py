"""``oddstream backtests`` and ``oddstream sweeps`` against a server and a worker as real processes."""

import csv
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import asyncpg
import pyarrow.parquet as pq
import pytest
from click.testing import Result
from typer.testing import CliRunner

from oddstream.cli.app import app
from oddstream_server.application.keys.issuing import new_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.domain.market import Event, Venue
from oddstream_server.domain.principal import Role
from oddstream_server.embedded.keys import load_or_make_keys
from oddstream_server.embedded.layout import DataFolder
from oddstream_server.embedded.postgres.cluster import PostgresAddress
from oddstream_server.storage.database import Database
from oddstream_server.storage.keys import ApiKeyStore
from oddstream_server.storage.signals.signal_log import SignalLogStore
from tests.conftest import run_apart
from tests.folders import throw_away_folder
from tests.installation import free_port
from tests.jobs.bench import MINUTE, ROWS, T0, gone, record
from tests.reliability.backtests.misbehaving import installed

EVENT = Event("kalshi:E", Venue.KALSHI, "E", "An event & its <markets>", market_ids=("kalshi:M0", "kalshi:M1"))
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
BEGIN = datetime.fromtimestamp(T0 / 1e6, UTC)
RANGE = ("--from", BEGIN.isoformat(), "--to", datetime.fromtimestamp((T0 + ROWS * MINUTE) / 1e6, UTC).isoformat())
KIND = "stat.mean_reversion"


@dataclass
class Bureau:
    """A server with one worker, and the command that talks to it."""

    environment: dict[str, str]

    def run(self, *arguments: str, code: int = 0, **changes: str) -> Result:
        """In this process: many commands are run, and one of its own takes each its second."""
        done = CliRunner().invoke(app, list(arguments), env={**self.environment, **changes})
        assert done.exit_code == code, done.output
        return done

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        """What the command says in a pipe."""
        return [json.loads(line) for line in self.run(*arguments).stdout.splitlines()]

    def row(self, *arguments: str) -> dict[str, Any]:
        (found,) = self.rows(*arguments)
        return found

    def on_a_terminal(self, *arguments: str) -> str:
        """Everything that was on the screen, without its colours."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", "oddstream.cli", *arguments],
            env=self.environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 65_536):
                shown += chunk
        except OSError:
            pass  # the other end is closed
        finally:
            os.close(master)
        assert process.wait() == 0, shown.decode()
        return ESCAPES.sub("", shown.decode()).replace("\r", "\n")

    def refusal(self, *arguments: str, code: int = 1) -> str:
        """What a person reads of a command that fails."""
        return self.run(*arguments, code=code, COLUMNS="200").stderr


@pytest.fixture(scope="module")
def bureau(postgres_address: PostgresAddress, migrated_template: str) -> Iterator[Bureau]:
    name = f"commands_{uuid.uuid4().hex}"
    root = throw_away_folder()
    processes: list[subprocess.Popen[bytes]] = []

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(postgres_address.dsn("postgres"))
        await connection.execute(statement)
        await connection.close()

    async def furnish() -> str:
        keys = load_or_make_keys(folder.keys, database_is_new=True)
        issued = new_key(Peppers(keys.peppers), owner="t", role=Role.ANALYST, now_us=time.time_ns() // 1000)
        database = Database(postgres_address.url(name), pool_size=2)
        await SignalLogStore(database).mint_data_set_id()
        await ApiKeyStore(database).create(issued.stored)
        await record(database, events=[EVENT])
        await database.close()
        return issued.key.text

    run_apart(execute(f"CREATE DATABASE {name} TEMPLATE {migrated_template} STRATEGY FILE_COPY"))
    try:
        folder = DataFolder.at(root / "data")
        folder.create()
        key, port = run_apart(furnish()), free_port()
        settings = {
            "DATA_DIR": str(root / "data"),
            "DATABASE_URL": postgres_address.url(name),
            "REDIS_URL": "redis://127.0.0.1:1",
            "GRPC_PORT": str(port),
            "CALLS_PER_MINUTE": "1000000",
            "BACKTEST_SHARD_ROWS": "1000",
            "LOG_FILE": str(root / "server.jsonl"),
            "DRAIN_SECONDS": "0",
        }
        clean = {n: v for n, v in os.environ.items() if not n.startswith(("ODDSTREAM_", "COLUMNS"))}
        untraced = {n: v for n, v in clean.items() if not n.startswith("COVERAGE_")}  # other tests run the same lines
        environment = {
            **untraced,
            "PYTHONPATH": installed(root / "site"),
            **{f"ODDSTREAM_{n}": v for n, v in settings.items()},
        }
        processes += [
            subprocess.Popen(
                [sys.executable, "-m", "oddstream_server", command],
                env=environment,
                cwd=root,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            for command in ("serve", "worker")
        ]
        made = Bureau(
            {**clean, "ODDSTREAM_TARGET": f"127.0.0.1:{port}", "ODDSTREAM_API_KEY": key, "TERM": "xterm-256color"}
        )
        deadline = time.monotonic() + 60
        while is_away(port):
            assert time.monotonic() < deadline, (root / "server.jsonl").read_text()[-3000:]
            assert processes[0].poll() is None
            time.sleep(0.05)
        yield made
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)
        run_apart(execute(f"DROP DATABASE {name} WITH (FORCE)"))
        shutil.rmtree(root)


def is_away(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@dataclass
class Made:
    """One backtest with every file that can be written of it."""

    answer: dict[str, Any]
    html: str
    png: bytes
    csv: Path
    parquet: Path
    screen: str

    @property
    def metrics(self) -> dict[str, Any]:
        found: dict[str, Any] = self.answer["result"]["metrics"]
        return found


@pytest.fixture(scope="module")
def made(bureau: Bureau, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("files")
    html, png, blotter, parquet = (folder / f"b.{end}" for end in ("html", "png", "csv", "parquet"))
    files = ("--html", str(html), "--png", str(png), "--trades")
    screen = bureau.on_a_terminal("backtests", "run", KIND, *RANGE, "--name", "a <test>", *files, str(blotter))
    (listed,) = (r for r in bureau.rows("backtests", "list") if r["display_name"] == "a <test>")
    answer = bureau.row("backtests", "show", listed["backtest_id"], "--trades", str(parquet))
    return Made(answer, html.read_text(), png.read_bytes(), blotter, parquet, screen)


def test_a_terminal_shows_the_progress_and_then_figures_ladder_and_risk(made: Made) -> None:
    assert re.search(r"computing +━+ [\d,]+ of 1,600 rows", made.screen), made.screen
    assert "a <test>" in made.screen
    for rung in ("mid without fee", "touch without fee", "touch with fee", "next quote with fee", "configured"):
        assert re.search(rf"{rung} +-?[\d,.]+ +\d+", made.screen), rung
    assert f"{made.metrics['profit_micros'] / 1e6:,.2f} USD" in made.screen
    assert made.answer["result"]["result_hash"] in made.screen
    assert "Past results need not come again" in " ".join(made.screen.split())


class Page(HTMLParser):
    """The tables under their headings, the curves, and whatever would be fetched from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.curves: dict[str, list[str]] = {}
        self.fetched: list[str] = []
        self._heading = ""
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        given = dict(attrs)
        self.fetched += [f"{tag} {name}" for name in ("src", "href", "srcset", "data") if name in given]
        self.fetched += [tag] if tag in ("link", "script", "iframe", "img", "object") else []
        if tag == "h2":
            self._heading = ""
        elif tag == "tr":
            self.tables.setdefault(self._heading, []).append([])
        elif tag in ("td", "th"):
            self.tables[self._heading][-1].append("")
        elif tag == "polyline":
            self.curves[self._heading] = (given["points"] or "").split()

    def handle_data(self, data: str) -> None:
        if self._open == "h2":
            self._heading += data
        elif self._open in ("td", "th"):
            self.tables[self._heading][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


def money(text: str) -> float:
    return float(text.replace(",", ""))


def test_the_tear_sheet_needs_nothing_else_and_says_what_the_result_says(made: Made) -> None:
    page = Page(made.html)
    assert page.fetched == []
    assert not re.search(r"https?://|@import|url\(|javascript:", made.html)
    assert "<h1>a &lt;test&gt;</h1>" in made.html
    hours = ROWS * MINUTE // 3_600_000_000
    assert len(page.curves["Equity, USD"]) > hours
    assert len(page.curves["Drawdown, USD"]) > hours
    result, metrics = made.answer["result"], made.metrics
    ladder = {row[0]: (money(row[1]), int(row[2])) for row in page.tables["What the same signals earn"][1:]}
    assert ladder == {
        rung["assumption"].replace("_", " ").lower(): (
            round(rung["profit_micros"] / 1e6, 2),
            rung["trade_count"],
        )
        for rung in result["fill_ladder"]
    }
    figures = dict(page.tables["Figures"][1:])
    assert figures["win rate (95 %)"].startswith(f"{metrics['win_rate']:.1%} (")
    assert figures["edge a contract (95 %)"].startswith(f"{metrics['mean_edge_micros'] / 1e6:.4f} (")
    bins = [b for b in metrics["calibration"] if b["count"]]
    assert [int(row[1]) for row in page.tables["Calibration"][1:]] == [b["count"] for b in bins]
    assert bins
    by_event = {row[0]: (money(row[1]), int(row[2])) for row in page.tables["Profit by event"][1:]}
    assert set(by_event) == {"kalshi:E", "kalshi:M2", "kalshi:M3"}
    assert sum(trades for _, trades in by_event.values()) == metrics["trade_count"]
    assert sum(profit for profit, _ in by_event.values()) == pytest.approx(metrics["profit_micros"] / 1e6, abs=0.02)
    assert result["disclaimer"]["text"] in made.html
    assert result["result_hash"] in made.html


def test_the_picture_is_a_png_with_a_curve_and_the_risk_disclosure(made: Made) -> None:
    assert made.png.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, at = {}, 8
    while at < len(made.png):
        (length,) = struct.unpack(">I", made.png[at : at + 4])
        kind, body = made.png[at + 4 : at + 8], made.png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", made.png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    width, height, depth, colours = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    pixels = zlib.decompress(chunks[b"IDAT"])
    assert (depth, colours) == (8, 2)
    assert len(pixels) == height * (1 + 3 * width)
    assert pixels.count(b"\x25\x63\xa8") > width  # the curve crosses the whole width
    assert made.answer["result"]["disclaimer"]["text"].encode() in chunks[b"tEXt"]


def test_the_blotter_is_the_same_as_csv_and_as_parquet_and_adds_up(made: Made) -> None:
    with made.csv.open() as file:
        disclosure = file.readline()
        rows = list(csv.DictReader(file))
    assert made.answer["result"]["disclaimer"]["text"] in disclosure
    assert len(rows) == made.metrics["trade_count"]
    assert sum(int(r["profit_micros"]) for r in rows) == made.metrics["profit_micros"]
    table = pq.read_table(made.parquet)
    assert made.answer["result"]["disclaimer"]["text"] in table.schema.metadata[b"disclaimer"].decode()
    for name in ("profit_micros", "entry_price_micros", "size_micros", "market_id", "event_id", "outcome_index"):
        assert [str(v or "") for v in table[name].to_pylist()] == [v or "" for v in (r[name] for r in rows)], name


def test_a_pipe_gets_one_json_line_and_the_same_hash_again(bureau: Bureau, made: Made) -> None:
    again = bureau.row("backtests", "run", KIND, *RANGE, "--name", "again")
    assert again["result"]["result_hash"] == made.answer["result"]["result_hash"]
    assert again["state"] == "SUCCEEDED"
    assert again["result"]["trial_count"] > made.answer["result"]["trial_count"]
    ids = (made.answer["backtest_id"], again["backtest_id"])
    assert [r["backtest_id"] for r in bureau.rows("backtests", "compare", *ids)] == list(ids)
    side_by_side = bureau.run("backtests", "compare", *ids, "-o", "table", COLUMNS="160").stdout
    assert re.search(r"a <test> +again", side_by_side)
    assert re.search(r"same data +yes +yes", side_by_side)
    assert "Past results need not come again" in " ".join(side_by_side.split())
    listed = bureau.run("backtests", "list", "--limit", "1", "-o", "table", COLUMNS="160").stdout
    assert ids[1] in listed
    assert ids[0] not in listed


def test_a_queued_backtest_is_cancelled_by_its_id_and_has_no_result(bureau: Bureau, tmp_path: Path) -> None:
    made = bureau.row("backtests", "run", "test.endless", *RANGE, "--detach")
    cancelled = bureau.row("backtests", "cancel", made["backtest_id"])
    assert cancelled["state"] == "CANCELLED"
    run_apart(gone(made["backtest_id"]))
    shown = bureau.run("backtests", "show", made["backtest_id"], "--html", str(tmp_path / "x.html"), "-o", "table")
    assert "cancelled" in shown.stdout
    assert "No file was written: the backtest has no result." in shown.stderr
    assert not (tmp_path / "x.html").exists()
    assert "has no result" in bureau.refusal("backtests", "compare", made["backtest_id"], code=2)


def test_a_strategy_that_raises_ends_the_command_with_its_name_and_no_traceback(bureau: Bureau) -> None:
    done = bureau.run("backtests", "run", "test.raising", *RANGE, "-o", "table", code=1, COLUMNS="160")
    assert "failed" in done.stdout
    assert "strategy test.raising raised ValueError" in done.stdout
    assert "no caller may read" not in done.stdout + done.stderr


def test_a_sweep_shows_what_its_sets_are_worth_together(bureau: Bureau) -> None:
    sweep = ("sweeps", "run", KIND, *RANGE, "--vary", "z_enter_ppm=1.5,2,2.5", "--vary", "z_exit_ppm=0.2,0.4")
    result = bureau.row(*sweep, "--walk-forward", "3/1")["result"]
    assert len(result["sets"]) == 6
    assert len({s["result_hash"] for s in result["sets"]}) > 1
    assert 0 <= result["overfitting_probability"] <= 1
    assert result["walk_forward_windows"]
    screen = bureau.on_a_terminal(*sweep, "--limit", "2")
    assert "The best of 6 sets, which alone say little" in screen
    assert re.search(r"probability of overfitting +[\d.]+ %", screen.replace("%", " %"))
    assert "Past results need not come again" in " ".join(screen.split())


MANY = ",".join(f"{1 + n / 1000:g}" for n in range(60))
NOTHING = ("--from", BEGIN.isoformat(), "--to", BEGIN.isoformat())


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (("backtests", "run", "stat.unheard_of", *RANGE), 1, ("stat.unheard_of", "oddstream strategies list")),
        (("backtests", "run", KIND, *RANGE, "--market", "kalshi:NOWHERE"), 1, ("kalshi:NOWHERE", "markets list")),
        (("backtests", "run", KIND, *RANGE, "--event", "kalshi:NOWHERE"), 1, ("kalshi:NOWHERE",)),
        (("backtests", "run", KIND, *RANGE, "--market", "no id"), 1, ("config.markets.market_ids[0]",)),
        (("backtests", "run", KIND, *NOTHING), 1, ("config.range", "start_time must be before end_time")),
        (
            ("backtests", "run", KIND, "--from", "2020-01-01", "--to", "2020-01-02"),
            1,
            ("config.range", "no quote", "choose another --from"),
        ),
        (
            ("backtests", "run", KIND, *RANGE, "--param", "z_enter_ppm=99"),
            1,
            ("params.z_enter_ppm", "from 500000 to 9000000"),
        ),
        (("backtests", "run", KIND, *RANGE, "--param", "colour=1"), 2, ("no parameter 'colour'", "z_enter_ppm")),
        (("backtests", "run", KIND, *RANGE, "--param", "z_enter_ppm"), 2, ("NAME=VALUE",)),
        (("backtests", "run", KIND, *RANGE, "--fill", "hope"), 2, ("--fill", "touch, book_walk, maker_queue")),
        (("backtests", "run", KIND, *RANGE, "--bankroll", "much"), 2, ("much",)),
        (("backtests", "run", KIND, *RANGE, "--bankroll", "0"), 1, ("config.starting_bankroll_micros",)),
        (("backtests", "run", KIND, "--from", "yesterday"), 2, ("--from 'yesterday' is no time", "2026-07-01")),
        (("backtests", "show", "bt_1"), 1, ("backtest_id",)),
        (("backtests", "show", "bt_" + "a" * 24), 1, ("bt_" + "a" * 24, "oddstream backtests list")),
        (("backtests", "cancel", "bt_" + "a" * 24), 1, ("bt_" + "a" * 24, "oddstream backtests list")),
        (
            ("sweeps", "run", KIND, *RANGE, "--vary", f"z_enter_ppm={MANY}", "--vary", f"z_exit_ppm={MANY}"),
            1,
            ("config.search", "SWEEP_TOO_LARGE", "3600 sets", "--draw"),
        ),
        (("sweeps", "run", KIND, *RANGE, "--vary", "z_enter_ppm"), 2, ("NAME=A,B,C",)),
        (("sweeps", "run", KIND, *RANGE, "--vary", "z_enter_ppm=2,99"), 1, ("config.parameters[0].values[1]",)),
        (("sweeps", "run", KIND, *RANGE, "--vary", "z_enter_ppm=2", "--walk-forward", "3"), 2, ("72/24",)),
    ],
)
def test_bad_input_is_told_by_field_and_rule(
    bureau: Bureau, arguments: tuple[str, ...], code: int, named: tuple[str, ...]
) -> None:
    said = " ".join(bureau.refusal(*arguments, code=code).replace("│", " ").split())
    assert [word for word in named if word not in said] == [], said
    assert "Traceback" not in said
