"""Environments of their own for oracles that need another Python: made once with uv, kept in the user's cache."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PYTHON = "3.13"
REQUIREMENTS = ("kalshi-python-async==3.34.0", "polymarket-client==0.14.0")


class NotAvailable(Exception):
    """The environment can't be made here; the message says why."""


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    name = hashlib.sha256("\n".join((PYTHON, *REQUIREMENTS)).encode()).hexdigest()[:16]
    return Path(root).expanduser() / "oddstream" / "oracles" / name


def _uv() -> Path:
    return Path(sys.executable).with_name("uv")


def _run(*command: str | Path) -> str:
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotAvailable(f"{command[0]} {command[1]} failed ({type(error).__name__})") from error
    return done.stdout.strip()


def _interpreter() -> Path:
    """A Python of the version that the SDKs need, of the machine's; none is downloaded."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or "~/.pyenv").expanduser()
    found = sorted(pyenv.glob(f"versions/{PYTHON}.*/bin/python"))
    if found:
        return found[-1]
    return Path(_run(_uv(), "python", "find", "--no-python-downloads", PYTHON))


def python() -> Path:
    """The interpreter of the oracles' environment, made if it isn't there yet.

    :raises NotAvailable: no such Python at hand, or the packages can't be had.
    """
    folder = _cache()
    interpreter, ready = folder / "bin" / "python", folder / "ready"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.exists():
            _run(_uv(), "venv", "--quiet", "--clear", "--python", _interpreter(), folder)
            _run(_uv(), "pip", "install", "--quiet", "--python", interpreter, *REQUIREMENTS)
            ready.touch()
    return interpreter


def ask(questions: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the SDKs' models make of bodies; see :mod:`tests.venues.sdk_oracle`."""
    done = subprocess.run(
        [python(), Path(__file__).with_name("sdk_oracle.py")],
        input="\n".join(json.dumps(question) for question in questions),
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    return {answer["name"]: answer for answer in answers}
