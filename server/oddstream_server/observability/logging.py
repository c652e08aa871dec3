"""JSON lines with the correlation id of the call or run they belong to.

Our own lines go through structlog straight to bytes; lines of libraries come through the standard logging module and
leave in the same shape.
"""

import asyncio
import atexit
import logging
import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from oddstream_server.application.calls.request import current_request

SECRET_WORDS = ("authorization", "password", "secret", "token", "private_key", "api_key", "database_url", "redis_url")
"""A field whose name contains one of these is never written; ids and prefixes have other names."""
_HELD_SECONDS, _HELD_CALLS = 0.05, 256
_CallEnd = tuple[float, Callable[..., dict[str, object]], tuple[object, ...]]
"""When, and of what its line is made how."""
SAFE_FIELDS = frozenset({"page_token_present", "resume_token_present"})


def _drop_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    for name in event:
        if _is_secret(name):
            event[name] = "[removed]"
    return event


@lru_cache(maxsize=1024)
def _is_secret(name: str) -> bool:
    """Names are few and come back with each line; looking for the words each time cost a third of a call's chain."""
    return name not in SAFE_FIELDS and any(word in name.lower() for word in SECRET_WORDS)


# What an exception's or a library's text may carry, whatever field it is in. The plain bytes are looked for first: a
# line rarely has one, and looking costs a hundredth of an expression.
_IN_TEXTS: tuple[tuple[bytes, re.Pattern[bytes], bytes], ...] = (
    (b"://", re.compile(rb"(://)[^/\s\"@:]*:[^/\s\"@]*@"), rb"\1[removed]@"),
    (b"=", re.compile(rb"(?i)\b(password|passwd|pwd|secret|token|api_?key)=[^\s\"&,;\\]+"), rb"\1=[removed]"),
    (b"earer ", re.compile(rb"(?i)(bearer )[^\s\",\\]+"), rb"\1[removed]"),
    (b"ods_", re.compile(rb"(ods_(?:live|test)_[a-z2-7]{12})_[0-9A-Za-z]{49}"), rb"\1_[removed]"),
    (b"eyJ", re.compile(rb"eyJ[\w-]{8,}\.eyJ[\w-]{8,}(?:\.[\w-]*)?"), b"[removed]"),
    (
        b"PRIVATE KEY",
        re.compile(rb'-----BEGIN [A-Z ]*PRIVATE KEY-----[^"]*?(?:-----END [A-Z ]*PRIVATE KEY-----|(?=")|$)'),
        b"[removed]",
    ),
    (b"@", re.compile(rb"[\w.%+-]+@[\w-]+(?:\.[\w-]+)+"), b"[address removed]"),
)


def without_secrets(line: bytes) -> bytes:
    """A line without passwords in URLs, keys, tokens, private keys and e-mail addresses. The second net: fields that
    name a secret are removed before, but an exception's text may hold one too."""
    for hint, pattern, instead in _IN_TEXTS:
        if hint in line:
            line = pattern.sub(instead, line)
    return line


class _LineWriter:
    """Appends whole lines to a file descriptor; several processes may share one file opened for append."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.RLock()  # what the garbage collector ends may log in the middle of this
        self._held = bytearray()
        self._calls: deque[_CallEnd] = deque()
        """Ended, and not yet written out as lines."""
        self._flushed_by: asyncio.AbstractEventLoop | None = None
        """The loop that will write what is held."""
        atexit.register(self.flush)

    def msg(self, message: bytes | str) -> None:
        self.hold(message if isinstance(message, bytes) else message.encode())
        self.flush()

    def hold(self, line: bytes) -> None:
        whole = without_secrets(line) + b"\n"
        with self._lock:
            self._render_calls()
            self._held += whole

    def soon(self, ended: "_CallEnd") -> None:
        """Write a call's line with those of the next 50 ms: a system call for each costs more than the line, and lines
        made one after the other cost a fifth of what they cost between two calls.
        """
        self._calls.append(ended)
        loop = asyncio._get_running_loop()
        if loop is None or len(self._calls) >= _HELD_CALLS:
            self.flush()
        elif self._flushed_by is not loop:
            self._flushed_by = loop
            loop.call_later(_HELD_SECONDS, self.flush)

    def _render_calls(self) -> None:
        calls, process = self._calls, _CallLines.process
        while calls:
            instant, make, values = calls.popleft()
            fields = make(*values)
            fields["event"], fields["level"] = "call ended", "info"
            fields["time"], fields["process"] = datetime.fromtimestamp(instant, UTC), process
            line = orjson.dumps(fields, option=orjson.OPT_UTC_Z)
            # Our own fields. All of a caller's in it is a correlation id, which may be a key or a token.
            if b"ods_" in line or b"eyJ" in line:
                line = without_secrets(line)
            self._held += line + b"\n"

    def flush(self) -> None:
        with self._lock:
            self._flushed_by = None
            self._render_calls()
            held, self._held = self._held, bytearray()
            view = memoryview(held)
            while view:
                view = view[os.write(self._fd, view) :]

    debug = info = warning = error = critical = exception = log = fatal = failure = err = msg


class _Forward(logging.Handler):
    """Hands a library's record to the same writer."""

    def __init__(self, render: Callable[[logging.LogRecord], bytes | str], writer: _LineWriter) -> None:
        super().__init__()
        self._render = render
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.msg(self._render(record))
        except Exception:
            self.handleError(record)


def _add_call(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The ids of the call that this task serves."""
    request = current_request.get()
    if request is not None and request.correlation_id:
        event.setdefault("correlation_id", request.correlation_id)
        event.setdefault("trace_id", request.trace_id)
    return event


class _CallLines:
    """The line that each call ends with: most of the log, so it takes the shortest way."""

    writer: ClassVar[_LineWriter | None] = None
    """None where lines are for people, or of a higher level alone."""
    process: ClassVar[str] = ""


def log_call(make: Callable[..., dict[str, object]], *values: object) -> None:
    """Log that a call has ended, within 50 ms.

    :param make: makes the line's fields of the values when the line is written; none may name a secret.
    """
    writer = _CallLines.writer
    if writer is None:
        structlog.get_logger().info("call ended", **make(*values))
    else:
        writer.soon((time.time(), make, values))


def _dumps(value: object, **_: Any) -> bytes:
    return orjson.dumps(value, default=repr)


def configure_logging(*, level: str, json: bool, file: Path | None, process: str) -> None:
    """Set up this process's logging; call once, before the first line.

    :param file: where lines are appended (mode 0600, folders made); None is stderr.
    :param process: the worker's name (``serve-0``, ``pipeline``, ``supervisor``), on every line.
    """
    if file is None:
        fd = sys.stderr.fileno()
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    writer = _LineWriter(fd)
    threshold = getattr(logging, level.upper())

    def _add_process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_call,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _add_process,
        structlog.processors.StackInfoRenderer(),
        _drop_secrets,
    ]
    # Never the locals of a frame: a key or a password may be one.
    tracebacks = structlog.processors.ExceptionRenderer(
        structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    )
    colors = file is None and sys.stderr.isatty()
    final: list[Processor] = (
        [tracebacks, structlog.processors.JSONRenderer(serializer=_dumps)]
        if json
        else [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)]
    )
    _CallLines.writer = writer if json and threshold <= logging.INFO else None
    _CallLines.process = process
    structlog.configure(
        processors=[*shared, *final],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: writer,
        cache_logger_on_first_use=True,
    )

    def render(record: logging.LogRecord) -> bytes | str:
        event: EventDict = {"event": record.getMessage(), "logger": record.name}
        if record.exc_info:
            event["exc_info"] = record.exc_info
        name = record.levelname.lower()
        result: Any = event
        for processor in (*shared, *final):
            result = processor(None, name, result)
        return result  # type: ignore[no-any-return]  # the last processor renders to bytes or str

    root = logging.getLogger()
    root.handlers[:] = [_Forward(render, writer)]
    root.setLevel(max(threshold, logging.INFO))
    for noisy in ("aiohttp.access", "alembic", "sqlalchemy.engine", "grpc._cython.cygrpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)
