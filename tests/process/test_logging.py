import json
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from oddstream_server.observability.logging import without_secrets

SCRIPT = """
import logging, sys
from pathlib import Path
import structlog
from oddstream_server.observability.logging import configure_logging

configure_logging(level=sys.argv[2], json=True, file=Path(sys.argv[1]) if sys.argv[1] else None, process="serve-0")
log = structlog.get_logger()
with structlog.contextvars.bound_contextvars(correlation_id="c-1"):
    log.info("call", method="GetMarket", duration_us=12)
    logging.getLogger("a.library").warning("its %s", "words")
log.debug("quiet")
log.warning("careful", authorization="Bearer planted", database_url="postgresql://u:planted@h", key_id="key_1")
key = "ods_live_" + "planted"
try:
    raise ValueError("inner")
except ValueError:
    log.exception("failed")
"""

CALLS = """
import asyncio, sys
from pathlib import Path
import structlog
from oddstream_server.observability.logging import configure_logging, log_call

file = Path(sys.argv[1])
configure_logging(level="info", json=True, file=file, process="serve-0")

async def main():
    log_call(dict, {"correlation_id": "c-1"})
    log_call(dict, {"correlation_id": "ods_live_abcdefghijkl_" + "p" * 49})
    print(len(file.read_text().splitlines()))
    structlog.get_logger().info("later, and after them", correlation_id="c-2")
    print(len(file.read_text().splitlines()))

asyncio.run(main())
"""


def lines(file: Path | None, level: str = "info") -> list[dict[str, object]]:
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(file or ""), level], capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in (file.read_text() if file else run.stderr).splitlines()]


def test_every_line_is_json_with_time_level_process_and_correlation_id_our_own_and_a_librarys_alike():
    own, library, *_ = lines(None)
    assert own["event"] == "call"
    assert own["duration_us"] == 12
    assert library["event"] == "its words"
    assert library["logger"] == "a.library"
    for line in (own, library):
        assert line["process"] == "serve-0"
        assert line["correlation_id"] == "c-1"
        assert str(line["time"]).endswith("Z")
    assert (own["level"], library["level"]) == ("info", "warning")


def test_fields_that_name_secrets_are_removed_and_ids_stay():
    line = next(entry for entry in lines(None) if entry["event"] == "careful")
    assert "planted" not in json.dumps(line)
    assert line["key_id"] == "key_1"


def test_an_exception_carries_its_traceback_as_data():
    line = lines(None)[-1]
    assert line["event"] == "failed"
    assert line["exception"][0]["exc_type"] == "ValueError"  # type: ignore[index]  # a JSON array


def test_the_variables_of_a_frame_are_never_written():
    assert "planted" not in json.dumps(lines(None))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("postgresql://app:planted@db/oddstream?a=1", "postgresql://[removed]@db/oddstream?a=1"),
        ("redis://:planted@cache:6379/0", "redis://[removed]@cache:6379/0"),
        ("connect failed: host=db user=app password=planted dbname=x", "password=[removed] dbname=x"),
        ("https://login.example/t?token=planted&a=1", "?token=[removed]&a=1"),
        ("authorization: Bearer planted", "Bearer [removed]"),
        (f"key ods_live_abcdefghijkl_{'p' * 49}", "key ods_live_abcdefghijkl_[removed]"),
        ("eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJwbGFudGVkIn0.cGxhbnRlZA got", "[removed] got"),
        ("-----BEGIN EC PRIVATE KEY-----\nplanted\n-----END EC PRIVATE KEY-----\nafter", "[removed]\nafter"),
        ("-----BEGIN PRIVATE KEY-----\nplanted without an end", "[removed]"),
        ("Key (owner_email)=(ada.planted@example.org) exists", "(owner_email)=([address removed]) exists"),
    ],
)
def test_secrets_in_the_text_of_an_exception_or_of_a_library_are_removed(text: str, left: str) -> None:
    kept = without_secrets(orjson.dumps({"exc_value": text})).decode()
    assert orjson.dumps(left)[1:-1].decode() in kept
    assert "planted" not in kept
    assert "p" * 49 not in kept
    assert json.loads(kept), "the line stays JSON"


def test_what_is_no_secret_stays_as_it_is() -> None:
    line = b'{"method":"/oddstream.v1.X/Y","url":"https://api.example/markets?limit=3","key":"ods_live_abcdefghijkl"}'
    assert without_secrets(line) == line


def test_the_level_decides_and_a_log_file_is_closed_to_others(tmp_path):
    file = tmp_path / "logs" / "server.jsonl"
    assert [entry["event"] for entry in lines(file, "debug")] == ["call", "its words", "quiet", "careful", "failed"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert "quiet" not in [entry["event"] for entry in lines(tmp_path / "other.jsonl")]


def test_a_call_is_logged_whole_and_a_key_that_came_as_a_correlation_id_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "calls.jsonl"
    run = subprocess.run([sys.executable, "-c", CALLS, str(file)], capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["correlation_id"] for line in found] == ["c-1", "ods_live_abcdefghijkl_[removed]", "c-2"]
    assert [line["event"] for line in found] == ["call ended", "call ended", "later, and after them"]
    assert found[0]["level"] == "info"
    assert found[0]["process"] == "serve-0"
    assert str(found[0]["time"]).endswith("Z")
    assert run.stdout.split() == ["0", "3"], "lines of calls wait for a moment, and for no longer than the next line"
