"""No log of a whole test run holds a key, a password, an e-mail address or somebody's network address.

Every process under test, pytest's own included, logs into a file that is looked through when the run is over: files
below pytest's own temporary folder, and those that :func:`keep_logs` was told of because their folder goes with the
test. Under xdist each worker collects and the controller looks. A hit fails the run and names file and line, never what
was found.

A plugin: ``tests/conftest.py`` registers it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oddstream_server.application.keys.key_format import parse
from oddstream_server.observability.logging import configure_logging

_FOLDER_VARIABLE = "ODDSTREAM_TEST_LOGS"
_LOG_NAMES = ("*.jsonl", "*.log")
_numbers = itertools.count(1)

# Plain bytes are looked for first: an expression over megabytes of lines would take longer than the tests' own start.
_KEY = re.compile(rb"ods_(?:live|test)_[a-z2-7]{12}_[0-9A-Za-z]{49}")
_FORBIDDEN: tuple[tuple[str, bytes, re.Pattern[bytes]], ...] = (
    ("an API key", b"ods_", _KEY),
    ("an access token", b"eyJ", re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.")),
    ("a planted secret", b"lanted-", re.compile(rb"[Pp]lanted-[0-9A-Za-z]")),
    ("a private key", b"PRIVATE KEY", re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")),
    ("a password in a URL", b"://", re.compile(rb"[a-z]://[^/\s:@\"]*:[^@/\s\"\[]+@")),
    (
        "an e-mail address",
        b"@",
        re.compile(rb"[0-9A-Za-z._%+-]+@[0-9A-Za-z-]+\.(?:com|org|net|example|test|invalid)\b"),
    ),
    # Addresses that the tests' callers come from; the network of one may be logged.
    ("an address", b"203.0.113.", re.compile(rb"\b203\.0\.113\.(?:[1-9]\d*\b|0\b(?!/))")),
    ("an address", b"198.51.100.", re.compile(rb"\b198\.51\.100\.(?:[1-9]\d*\b|0\b(?!/))")),
)


@dataclass(frozen=True)
class Leak:
    file: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass(frozen=True)
class Looked:
    """What the look through all logs came to; size in bytes."""

    files: int
    size: int
    seconds: float
    found: list[str]


def leaks_in(file: Path) -> Iterator[Leak]:
    """What must not be in a log, with its line."""
    try:
        text = file.read_bytes()
    except OSError:
        return
    for what, hint, pattern in _FORBIDDEN:
        if hint not in text:
            continue
        for found in pattern.finditer(text):
            if pattern is _KEY and parse(found[0].decode()) is None:
                continue
            yield Leak(file, text.count(b"\n", 0, found.start()) + 1, what)


def keep_logs(folder: Path) -> None:
    """Keep the logs below a folder that is about to be removed until the run is over."""
    kept_in = os.environ.get(_FOLDER_VARIABLE)
    if kept_in is None:
        return
    for file in _logs_below(folder):
        kept = Path(kept_in) / f"{os.getpid()}-{next(_numbers)}-{file.name}"
        with contextlib.suppress(FileNotFoundError):
            try:
                kept.hardlink_to(file)
            except OSError:
                shutil.copyfile(file, kept)


def _logs_below(folder: Path) -> list[Path]:
    return [file for name in _LOG_NAMES for file in folder.rglob(name) if file.is_file()]


def pytest_configure(config: pytest.Config) -> None:
    if _FOLDER_VARIABLE not in os.environ:  # workers inherit the controller's
        os.environ[_FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="oddstream-test-logs-")
        config.stash[_OWN_FOLDER] = Path(os.environ[_FOLDER_VARIABLE])
    file = config.stash[_LOG] = Path(os.environ[_FOLDER_VARIABLE]) / f"{os.getpid()}-tests.jsonl"
    configure_logging(level="info", json=True, file=file, process="tests")


def pytest_runtest_setup(item: pytest.Item) -> None:
    item.stash[_LOGGED_BEFORE] = item.config.stash[_LOG].stat().st_size


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What our own code logged in this process stands below a failure, as captured output does."""
    report = yield
    if report.failed:
        with item.config.stash[_LOG].open("rb") as log:
            log.seek(item.stash.get(_LOGGED_BEFORE, 0))
            report.sections.append((f"Log lines of {report.when}", log.read()[-20_000:].decode(errors="replace")))
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    own = session.config.stash.get(_OWN_FOLDER, None)
    if own is None:
        return
    base = session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]  # no public name for it
    began = time.perf_counter()
    files = [*_logs_below(own), *_logs_below(base)]
    found = sorted({str(leak) for file in files for leak in leaks_in(file)})
    took = time.perf_counter() - began
    session.config.stash[_FOUND] = Looked(len(files), sum(file.stat().st_size for file in files), took, found)
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    note = session.config.rootpath / ".pytest_cache" / "leaks.txt"
    note.parent.mkdir(exist_ok=True)
    note.write_text("".join(f"{leak}\n" for leak in found))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    looked = config.stash.get(_FOUND, None)
    if looked is None:
        return
    if looked.found:
        terminalreporter.section("secrets in logs", red=True)
    for leak in looked.found:
        terminalreporter.write_line(leak)
    terminalreporter.write_line(
        f"{len(looked.found)} secrets in {looked.files} logs of this run "
        f"({looked.size / 1e6:.1f} MB looked through in {looked.seconds:.1f} s)"
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    own = config.stash.get(_OWN_FOLDER, None)
    if own is None:
        return
    os.environ.pop(_FOLDER_VARIABLE, None)
    looked = config.stash.get(_FOUND, None)
    if looked is None or not looked.found:  # else they are to be looked at
        shutil.rmtree(own, ignore_errors=True)


_OWN_FOLDER: pytest.StashKey[Path] = pytest.StashKey()
_LOG: pytest.StashKey[Path] = pytest.StashKey()
_LOGGED_BEFORE: pytest.StashKey[int] = pytest.StashKey()
_FOUND: pytest.StashKey[Looked] = pytest.StashKey()
