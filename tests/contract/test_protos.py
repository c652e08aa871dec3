"""The files of the contract: lint, compatibility with the last release, and what is generated from them."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def _last_release(root: Path) -> Path:
    """The descriptor image of the newest release."""
    releases = (root / "proto" / "releases").glob("v*.binpb")
    return max(releases, key=lambda path: tuple(int(part) for part in re.findall(r"\d+", path.stem)))


@pytest.fixture
def copied_contract(root: Path, tmp_path: Path) -> Path:
    """A copy of the contract that a test may spoil."""
    shutil.copy(root / "buf.yaml", tmp_path)
    shutil.copytree(root / "proto", tmp_path / "proto", ignore=shutil.ignore_patterns("*.py", "*.lock"))
    return tmp_path


def _spoil(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert text.count(old) == 1, f"{file.name} has {old!r} {text.count(old)} times"
    file.write_text(text.replace(old, new))


def test_the_protos_pass_lint(run_tool: Run) -> None:
    lint = run_tool("buf", "lint")
    assert lint.returncode == 0, lint.stdout + lint.stderr


def test_lint_finds_a_field_without_a_comment(run_tool: Run, copied_contract: Path) -> None:
    comment = "  // It is the book's epoch, which grows at each resnapshot.\n"
    _spoil(copied_contract / "proto/oddstream/v1/quote.proto", comment, "")
    lint = run_tool("buf", "lint", cwd=copied_contract)
    assert lint.returncode != 0
    assert 'Field "epoch" should have a non-empty comment' in lint.stdout


def test_lint_can_not_be_switched_off_by_a_comment(run_tool: Run, copied_contract: Path) -> None:
    _spoil(
        copied_contract / "proto/oddstream/v1/quote.proto",
        "  int64 ingest_sequence = 9;",
        "  // buf:lint:ignore FIELD_LOWER_SNAKE_CASE\n  int64 ingestSequence = 9;",
    )
    lint = run_tool("buf", "lint", cwd=copied_contract)
    assert lint.returncode != 0
    assert "should be lower_snake_case" in lint.stdout


def test_our_own_package_has_no_exception_from_lint_or_from_breaking_rules(root: Path) -> None:
    settings = (root / "buf.yaml").read_text()
    assert re.findall(r"ignore(?:_only)?:\n((?:\s+- .*\n)+)", settings) == ["        - proto/third_party\n"]
    assert "except" not in settings
    assert "disallow_comment_ignores: true" in settings


def test_the_protos_are_formatted(run_tool: Run) -> None:
    formatted = run_tool("buf", "format", "--diff", "--exit-code")
    assert formatted.returncode == 0, formatted.stdout


def test_the_contract_breaks_nothing_of_the_last_release(root: Path, run_tool: Run) -> None:
    breaking = run_tool("buf", "breaking", "--against", str(_last_release(root)), "--exclude-imports")
    assert breaking.returncode == 0, breaking.stdout + breaking.stderr


@pytest.mark.parametrize(
    ("file", "old", "new", "finding"),
    [
        ("quote.proto", "  int64 epoch = 6;", "  string epoch = 6;", "changed type"),
        ("quote.proto", "  int64 epoch = 6;", "  int64 epoch = 60;", "was deleted"),
        ("signal.proto", "  SIGNAL_STATE_EXPIRED = 4;", "  SIGNAL_STATE_LAPSED = 4;", "changed name"),
        ("market_service.proto", "rpc GetEvent(", "rpc FetchEvent(", "was deleted"),
    ],
    ids=["type", "number", "enum value", "rpc"],
)
def test_a_planted_break_is_found(
    root: Path, run_tool: Run, copied_contract: Path, file: str, old: str, new: str, finding: str
) -> None:
    _spoil(copied_contract / "proto/oddstream/v1" / file, old, new)
    breaking = run_tool(
        "buf", "breaking", "--against", str(_last_release(root)), "--exclude-imports", cwd=copied_contract
    )
    assert breaking.returncode != 0
    assert finding in breaking.stdout


def test_what_is_committed_is_what_the_protos_make(root: Path, run_tool: Run) -> None:
    check = run_tool("uv", "run", "--quiet", "--script", str(root / "proto/generate.py"), "--check")
    if check.returncode != 0 and re.search("Failed to fetch|dns error|Could not connect", check.stderr):
        pytest.skip("the generators are not installed and PyPI can't be reached")
    assert check.returncode == 0, check.stdout + check.stderr


def test_a_stub_edited_by_hand_or_left_behind_is_found(root: Path, run_tool: Run, copied_contract: Path) -> None:
    stubs, transport = Path("clients/python/oddstream/v1"), Path("server/oddstream_server/transport")
    for name in ("buf.gen.yaml", "buf.gen.internal.yaml", "proto/generate.py", "proto/generate.py.lock"):
        shutil.copy(root / name, copied_contract / name)
    shutil.copytree(root / stubs, copied_contract / stubs)
    shutil.copytree(root / transport, copied_contract / transport)
    with (copied_contract / stubs / "quote_pb2.pyi").open("a") as stub:
        stub.write("EDITED: int\n")
    (copied_contract / stubs / "removed_pb2.py").write_text("")
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = str(copied_contract / "proto/generate.py")
    check = run_tool("uv", "run", "--quiet", "--script", script, "--check", cwd=copied_contract, PATH=tools)
    if check.returncode != 0 and re.search("Failed to fetch|dns error|Could not connect", check.stderr):
        pytest.skip("the generators are not installed and PyPI can't be reached")
    assert check.returncode == 1, check.stderr
    assert [line for line in check.stderr.splitlines() if "is not what the protos make" in line] == [
        f"{stubs}/quote_pb2.pyi is not what the protos make",
        f"{stubs}/removed_pb2.py is not what the protos make",
    ]
