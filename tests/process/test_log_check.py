"""The look through all logs of a test run finds what must not be in them, and fails the run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oddstream_server.application.keys.issuing import new_key
from oddstream_server.application.keys.peppers import Peppers
from oddstream_server.domain.principal import Role
from tests.log_check import leaks_in

ROOT = Path(__file__).parents[2]
TWO_TESTS = """
import sys
from pathlib import Path
import structlog
sys.path.insert(0, {root!r})
from tests.log_check import keep_logs

def test_that_leaks(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "server.jsonl").write_text('{{"event": "call"}}\\n{{"event": "' + {words!r} + '"}}\\n')
    keep_logs(folder)
    (folder / "server.jsonl").unlink()

def test_that_logs_in_its_own_process() -> None:
    structlog.get_logger().info("started", owner={words!r}, password="hunter2 of somebody@example.org")
"""


def run_of_tests(folder: Path, words: str, *arguments: str) -> tuple[int, str]:
    (folder / "test_two.py").write_text(TWO_TESTS.format(root=str(ROOT), words=words))
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {ROOT}\n")
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("ODDSTREAM_", "PYTEST_", "COV"))
    }
    (folder / "tmp").mkdir()
    environment["TMPDIR"] = str(folder / "tmp")
    options = ["-q", "-p", "tests.log_check", "-p", "no:randomly", f"--basetemp={folder / 'base'}", *arguments]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(folder / "test_two.py")],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    shutil.rmtree(folder / "tmp")  # a run keeps the logs in which it found something; ours are not this run's
    return run.returncode, run.stdout + run.stderr


def test_a_leak_in_any_process_under_test_fails_a_run_whose_tests_all_pass(tmp_path: Path) -> None:
    code, said = run_of_tests(tmp_path, "for planted-9f27", "-n", "1")
    assert "2 passed" in said
    assert code == 1
    assert "server.jsonl:2: a planted secret" in said
    assert "-tests.jsonl:1: a planted secret" in said
    assert "9f27" not in said, "what was found is not told again"
    assert len((tmp_path / ".pytest_cache" / "leaks.txt").read_text().splitlines()) == 2


def test_a_run_without_leaks_passes_and_fields_that_name_secrets_are_removed_in_tests_as_in_production(
    tmp_path: Path,
) -> None:
    code, said = run_of_tests(tmp_path, "for nobody")
    assert code == 0, said
    assert "0 secrets in" in said
    assert (tmp_path / ".pytest_cache" / "leaks.txt").read_text() == ""


@pytest.mark.parametrize(
    "words",
    [
        new_key(Peppers({1: b"p" * 32}), owner="test", role=Role.VIEWER, now_us=1).key.text,
        "Bearer eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl",
        "postgresql://app:hunter2@10.0.0.1/oddstream",
        "of ada@example.org",
        "from 203.0.113.7",
        "from 198.51.100.20:4431",
        "Ada Planted-Lovelace",
        "-----BEGIN EC PRIVATE KEY-----",
    ],
    ids=["key", "token", "password", "e-mail", "address", "address and port", "name", "private key"],
)
def test_keys_passwords_people_and_addresses_are_found_and_told_by_line_alone(tmp_path: Path, words: str) -> None:
    log = tmp_path / "server.txt"  # no name of a log, or the look through this run's would find it
    log.write_text(f"first\n{words}\n")
    (leak,) = leaks_in(log)
    assert leak.line == 2
    assert words not in str(leak)


@pytest.mark.parametrize(
    "words",
    ["network 203.0.113.0/24", "postgresql://db.example/oddstream", "key ods_live_abcdefghijkl", "sub_2c9a0e"],
)
def test_what_may_be_logged_is_not_taken_for_a_leak(tmp_path: Path, words: str) -> None:
    log = tmp_path / "server.txt"  # no name of a log, or the look through this run's would find it
    log.write_text(words)
    assert list(leaks_in(log)) == []
