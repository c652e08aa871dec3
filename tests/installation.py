"""A whole installation as its operator has it: ``oddstream-server run`` in a folder of its own, on ports of its own."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.log_check import keep_logs

START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Installation:
    """One data folder with its ports; started, killed and stopped any number of times.

    Simulated data by default, denser than a venue's so that tests have traffic.
    """

    def __init__(self, root: Path, settings: Mapping[str, str] | None = None) -> None:
        self.root = root
        self.data_dir = root / "data"
        self.grpc_port = free_port()
        self.operations_port = free_port()
        self.key = ""
        self.said = ""
        self._settings = dict(settings or {})
        self._process: subprocess.Popen[str] | None = None

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> Path:
        return self.root / "server.jsonl"

    def environment(self) -> dict[str, str]:
        """Nothing of this machine but where its basic programs are: an empty home, no database server on PATH."""
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        return {
            "HOME": str(home),
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "ODDSTREAM_DATA_DIR": str(self.data_dir),
            "ODDSTREAM_GRPC_PORT": str(self.grpc_port),
            "ODDSTREAM_OPERATIONS_PORT": str(self.operations_port),
            "ODDSTREAM_VENUES": "simulated",
            "ODDSTREAM_DRAIN_SECONDS": "0",
            "ODDSTREAM_GRACE_SECONDS": "2",
            "ODDSTREAM_LOG_FILE": str(self.log),
            **{f"ODDSTREAM_{name.upper()}": value for name, value in self._settings.items()},
        }

    def start(self) -> str:
        """Start and wait until it says what to type next; answers what it said."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "oddstream_server", "run"],
            env=self.environment(),
            cwd=self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        said = self._read_until("Ctrl-C drains")
        found = re.search(r"admin key +(ods_live_\w+)", said)
        if found:
            self.key = found[1]
        self.said = said
        return said

    def _read_until(self, words: str) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        said = ""
        while words not in said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._process.stdout.fileno(), 65536).decode() if ready else ""
            if not chunk:
                tail = self.log.read_text()[-4000:] if self.log.exists() else ""
                raise AssertionError(f"the server did not say {words!r}; it said:\n{said}\nits log ends:\n{tail}")
            said += chunk
        return said

    def kill(self) -> None:
        """kill -9 of the supervisor alone; whatever it leaves is the kernel's and the next start's business."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._close_output()

    def stop(self, signum: signal.Signals = signal.SIGINT) -> str:
        """Stop as Ctrl-C does; answers the last words."""
        assert self._process is not None
        self._process.send_signal(signum)
        last, _ = self._process.communicate(timeout=60)
        return last

    def end(self) -> None:
        """Whatever state it is in: gone."""
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(signal.SIGTERM)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        self._close_output()
        for pid in self.leftovers():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _close_output(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()

    def leftovers(self) -> list[int]:
        """Processes that still have to do with the folder: by their environment, their words or where they work."""
        needle = str(self.data_dir).encode()
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                told = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if needle in told + os.fsencode((entry / "cwd").readlink()):
                    found.append(int(entry.name))
        return sorted(found)

    def state(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.get("/state"))
        return body

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.operations_port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def log_lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextlib.contextmanager
def installation(settings: Mapping[str, str] | None = None) -> Iterator[Installation]:
    """A fresh one, not yet started, and nothing of it left at the end."""
    root = Path(tempfile.mkdtemp(prefix="oddstream-tests-"))
    root.chmod(0o711)  # so that the user nobody, who runs PostgreSQL for root, can pass
    made = Installation(root, settings)
    try:
        yield made
    finally:
        made.end()
        keep_logs(root)
        shutil.rmtree(root, ignore_errors=True)
