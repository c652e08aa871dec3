"""The contract under test: its files, its descriptors with comments, and the tools that judge it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(sys.executable).parent

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def run_tool() -> Run:
    """Runs a program of the project's environment, e.g. ``run_tool("buf", "lint")``; never raises on a status."""

    def run(program: str, *arguments: str, cwd: Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(TOOLS / program), *arguments],
            cwd=cwd,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=110,
        )

    return run


@pytest.fixture(scope="session")
def described_contract(run_tool: Run, tmp_path_factory: pytest.TempPathFactory) -> FileDescriptorSet:
    """Our own files of the contract as buf compiles them now, with comments."""
    image = tmp_path_factory.mktemp("contract") / "image.binpb"
    built = run_tool("buf", "build", "--path", "proto/oddstream/v1", "--exclude-imports", "-o", str(image))
    assert built.returncode == 0, built.stdout + built.stderr
    return FileDescriptorSet.FromString(image.read_bytes())
