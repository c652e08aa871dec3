import json
import subprocess
import sys
from pathlib import Path

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


def test_the_level_decides_and_a_log_file_is_closed_to_others(tmp_path):
    file = tmp_path / "logs" / "server.jsonl"
    assert [entry["event"] for entry in lines(file, "debug")] == ["call", "its words", "quiet", "careful", "failed"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert "quiet" not in [entry["event"] for entry in lines(tmp_path / "other.jsonl")]
