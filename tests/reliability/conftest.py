"""Data folders and holders of them, as real processes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from oddstream_server.embedded.launch.process import processes_in
from tests.log_check import keep_logs

_HOLDER = Path(__file__).with_name("services_holder.py")


class Holder:
    """A process that runs the embedded services of one data folder; `command` stands before the program's path."""

    def __init__(self, data_folder: Path, command: Sequence[str] = (sys.executable,)) -> None:
        self.process = subprocess.Popen(
            [*command, _HOLDER, data_folder], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self.said: dict[str, Any] = self._first_json()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _first_json(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise AssertionError(f"the holder ended ({self.process.wait()}) without a word")


@pytest.fixture(scope="session")
def made_data_folder() -> Iterator[Path]:
    """A data folder that a server has made and left: to be copied, since making one is most of a short test's time."""
    root = Path(tempfile.mkdtemp(prefix="oddstream-tests-"))
    root.chmod(0o711)
    try:
        made = subprocess.run(
            [sys.executable, _HOLDER, root / "data", "--leave-at-once"], capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stdout + made.stderr
        yield root / "data"
    finally:
        _end_all_below(root)
        keep_logs(root)
        shutil.rmtree(root)


@pytest.fixture
def new_data_folder() -> Iterator[Path]:
    """The path of a data folder that doesn't exist yet, where the user nobody could reach it."""
    root = Path(tempfile.mkdtemp(prefix="oddstream-tests-"))
    root.chmod(0o711)
    yield root / "data"
    _end_all_below(root)
    keep_logs(root)
    shutil.rmtree(root)


@pytest.fixture
def data_folder(new_data_folder: Path, made_data_folder: Path) -> Path:
    """A data folder with an empty database that no server holds, where the user nobody can reach it."""
    # cp keeps owners and modes, which shutil.copytree doesn't.
    subprocess.run(["cp", "-a", made_data_folder, new_data_folder], check=True)
    return new_data_folder


@pytest.fixture
def closed_folder() -> Iterator[Path]:
    """A folder like a root user's home: mode 0700."""
    root = Path(tempfile.mkdtemp(prefix="oddstream-tests-"))
    assert root.stat().st_mode & 0o077 == 0
    yield root
    _end_all_below(root)
    keep_logs(root)
    shutil.rmtree(root)


@pytest.fixture
def hold(request: pytest.FixtureRequest) -> Callable[..., Holder]:
    """Start a holder that is ended with the test."""

    def start(data_folder: Path, command: Sequence[str] = (sys.executable,)) -> Holder:
        holder = Holder(data_folder, command)
        request.addfinalizer(holder.end)
        return holder

    return start


def _end_all_below(root: Path) -> None:
    """End what a failed test left, so that it harms no other."""
    for program, folder in (("postgres", "postgres"), ("redis-server", "redis")):
        for place in root.rglob(folder):
            for pid in processes_in(place, program):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
