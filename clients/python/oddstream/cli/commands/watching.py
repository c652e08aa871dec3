"""Following the signals: as JSON lines into a pipe, or as a live table on a terminal."""

import contextlib
import queue
import select
import shutil
import sys
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime

import typer
from rich.live import Live

from oddstream.cli import json_lines, words
from oddstream.cli.commands.choices import start_point
from oddstream.cli.failures import break_words
from oddstream.cli.session import Session, leave_the_pipe, say, usage_error
from oddstream.cli.views.board import Board
from oddstream.cli.views.feeds import feed_words
from oddstream.client import Client
from oddstream.errors import OddstreamError
from oddstream.v1 import feed_status_pb2, market_pb2, market_service_pb2, signal_pb2, signal_service_pb2
from oddstream.watching.signals import FileCheckpoint, SignalCursor
from oddstream.watching.watches import Watch

REFRESH_SECONDS = 0.25

SignalWatch = Watch[signal_pb2.SignalEvent, SignalCursor]


@dataclass(frozen=True, slots=True)
class WatchOptions:
    filter: signal_pb2.SignalFilter
    start: str
    checkpoint: str | None
    include_simulated: bool


def _open(client: Client, options: WatchOptions, observer: "_Notices | _Screen") -> SignalWatch:
    checkpoint = FileCheckpoint(options.checkpoint) if options.checkpoint else None
    try:
        held = checkpoint is not None and checkpoint.load() is not None
    except ValueError:
        usage_error(
            f"{options.checkpoint} holds no position", "remove the file to start anew, or restore it from a copy"
        )
    except OSError as error:
        usage_error(
            f"{options.checkpoint} can't be read: {error.strerror}", "name a file in a folder that you may write"
        )
    return client.watch_signals(
        options.filter,
        start=None if held else start_point(options.start, client, datetime.now(UTC)),
        checkpoint=checkpoint,
        include_simulated=options.include_simulated,
        on_message=observer.message,
        on_break=observer.broken,
    )


class _Notices:
    """What people should know beside the events, on stderr."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._states: dict[int, int] = {}
        self._down = False

    def message(self, message: signal_service_pb2.WatchSignalsResponse) -> None:
        if self._down:
            self._down = False
            say("connected again; nothing was missed")
        for status in message.feed_statuses:
            live = status.state == feed_status_pb2.FEED_STATE_LIVE
            if self._states.get(status.venue, feed_status_pb2.FEED_STATE_LIVE) != status.state:
                now_us = time.time_ns() // 1000
                say(
                    f"feed of {words.venue(status.venue)} is live again"
                    if live
                    else feed_words(status.venue, status, now_us)
                )
            self._states[status.venue] = status.state

    def broken(self, error: OddstreamError | None, pause_seconds: float) -> None:
        if not self._down:
            say(f"{break_words(error, self._target)}; trying again until it answers")
        self._down = True


def watch_lines(session: Session, options: WatchOptions) -> None:
    """One JSON object an event, until the reader goes away or Ctrl-C."""
    with session.client() as client:
        opened = _open(client, options, _Notices(session.address))
        _close_with_reader(opened)
        try:
            for event in opened:
                print(json_lines.line(json_lines.plain(event)), flush=True)
        finally:
            opened.close()
    if _reader_is_gone(0):
        leave_the_pipe()


def _reader_is_gone(timeout_ms: int | None) -> bool:
    """:param timeout_ms: how long to wait for that; None for ever."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):  # an embedding program put something without a file in its place
        return False
    return any(state & (select.POLLERR | select.POLLNVAL) for _, state in poll.poll(timeout_ms))


def _close_with_reader(opened: SignalWatch) -> None:
    """End the watch when the pipe's reader ends, even while no event comes that could run into it."""

    def wait() -> None:
        if _reader_is_gone(None):
            opened.close()

    threading.Thread(target=wait, name="pipe's reader", daemon=True).start()


class _Screen:
    """The board, shared between the thread that reads the stream and the one that draws."""

    def __init__(self, session: Session) -> None:
        self.board = Board(session.address)
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.error: OddstreamError | None = None
        self._target = session.address

    def message(self, message: signal_service_pb2.WatchSignalsResponse) -> None:
        with self.lock:
            self.board.take_message(message, _now_us())

    def broken(self, error: OddstreamError | None, pause_seconds: float) -> None:
        with self.lock:
            self.board.take_break(break_words(error, self._target), pause_seconds, _now_us())

    def read(self, opened: SignalWatch) -> None:
        try:
            for event in opened:
                with self.lock:
                    self.board.take_event(event, _now_us())
        except OddstreamError as error:
            self.error = error
        finally:
            self.ended.set()


def watch_table(session: Session, options: WatchOptions) -> None:
    """The live table, until Ctrl-C."""
    console = session.console()
    with session.client() as client:
        screen = _Screen(session)
        opened = _open(client, options, screen)
        titles = _Titles(client, screen)
        reader = threading.Thread(target=screen.read, args=(opened,), name="signals", daemon=True)
        reader.start()
        threading.Thread(target=titles.run, name="titles", daemon=True).start()
        try:
            with Live(console=console, auto_refresh=False, transient=False, vertical_overflow="crop") as live:
                while not screen.ended.wait(REFRESH_SECONDS):
                    size = shutil.get_terminal_size()
                    with screen.lock:
                        live.update(screen.board.render(_now_us(), console.width, size.lines), refresh=True)
                        titles.ask(screen.board)
        finally:
            opened.close()
            titles.stop()
    if screen.error is not None:
        raise screen.error
    raise typer.Exit(0)


def _now_us() -> int:
    return time.time_ns() // 1000


class _Titles:
    """Looks up what people call a market or an event, once each, without holding up the table."""

    def __init__(self, client: Client, screen: _Screen) -> None:
        self._client = client
        self._screen = screen
        self._asked: set[str] = set()
        self._wanted: queue.Queue[tuple[str, bool] | None] = queue.Queue()

    def ask(self, board: Board) -> None:
        for row in board.rows.values():
            signal = row.event.signal
            if signal.subject_id not in self._asked:
                self._asked.add(signal.subject_id)
                self._wanted.put((signal.subject_id, signal.direction == signal_pb2.SIGNAL_DIRECTION_BASKET))

    def stop(self) -> None:
        self._wanted.put(None)

    def run(self) -> None:
        while (wanted := self._wanted.get()) is not None:
            subject_id, is_event = wanted
            title = ""
            # A title is a courtesy: where it can't be had the id is shown. ValueError is a channel closed meanwhile.
            with contextlib.suppress(OddstreamError, ValueError):
                title = self._event(subject_id) if is_event else self._market(subject_id)
            with self._screen.lock:
                self._screen.board.titles[subject_id] = title

    def _event(self, event_id: str) -> str:
        request = market_service_pb2.GetEventRequest(event_id=event_id)
        title: str = self._client.markets.GetEvent(request).event.title
        return title

    def _market(self, market_id: str) -> str:
        request = market_service_pb2.GetMarketRequest(market_id=market_id, view=market_pb2.MARKET_VIEW_BASIC)
        title: str = self._client.markets.GetMarket(request).market.title
        return title
