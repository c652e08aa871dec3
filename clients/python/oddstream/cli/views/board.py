"""The live table of signals: what came in, and how it looks now."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from oddstream.cli import words
from oddstream.cli.views.feeds import feed_words
from oddstream.cli.views.tables import KEEP, MARK_STYLE, RIGHT, rows_table
from oddstream.v1 import feed_status_pb2, signal_pb2, signal_service_pb2

FADE_US = 5_000_000
WIDE_COLUMNS, KIND_COLUMNS = 130, 150

_ENDED = {
    signal_pb2.SIGNAL_EVENT_TYPE_SUPERSEDED,
    signal_pb2.SIGNAL_EVENT_TYPE_WITHDRAWN,
    signal_pb2.SIGNAL_EVENT_TYPE_EXPIRED,
    signal_pb2.SIGNAL_EVENT_TYPE_GRADED,
}


@dataclass
class _Row:
    event: signal_pb2.SignalEvent
    first_sequence: int
    """Of the opportunity on this board: a row keeps its place over revisions, so that it can be read."""
    ended_us: int | None = None


@dataclass
class Board:
    """Takes what the stream brings and shows the opportunities that are open, the newest first.

    Times are microseconds of the local clock; the server's clock, by which signals expire, is kept as an offset.
    """

    target: str
    titles: dict[str, str] = field(default_factory=dict)
    """Titles of markets and events by id, for people; filled by whoever looks them up."""
    rows: dict[str, _Row] = field(default_factory=dict)
    feeds: dict[int, feed_status_pb2.FeedStatus] = field(default_factory=dict)
    head_sequence: int = 0
    through_sequence: int = 0
    events_seen: int = 0
    clock_offset_us: int = 0
    connected: bool = False
    ever_connected: bool = False
    break_words: str = ""
    next_try_us: int = 0
    reconnects: int = 0

    def take_message(self, message: signal_service_pb2.WatchSignalsResponse, now_us: int) -> None:
        """What a message says beside its events."""
        if not self.connected and self.ever_connected:
            self.reconnects += 1
        self.connected = self.ever_connected = True
        self.head_sequence = max(self.head_sequence, message.head_sequence)
        self.through_sequence = max(self.through_sequence, message.through_sequence)
        if message.HasField("send_time"):
            self.clock_offset_us = message.send_time.ToMicroseconds() - now_us
        for status in message.feed_statuses:
            self.feeds[status.venue] = status

    def take_break(self, why: str, pause_seconds: float, now_us: int) -> None:
        self.connected = False
        self.break_words = why
        self.next_try_us = now_us + int(pause_seconds * 1_000_000)

    def take_event(self, event: signal_pb2.SignalEvent, now_us: int) -> None:
        self.events_seen += 1
        opportunity = event.signal.opportunity_id
        row = self.rows.get(opportunity)
        if event.type in _ENDED:
            if row is not None and row.ended_us is None:
                self.rows[opportunity] = _Row(event, row.first_sequence, now_us)
        else:
            self.rows[opportunity] = _Row(event, event.sequence if row is None else row.first_sequence)

    def drop_faded(self, now_us: int) -> None:
        """Forget what ended some seconds ago; expiry that the server has not told yet counts too."""
        server_us = now_us + self.clock_offset_us
        for opportunity, row in list(self.rows.items()):
            ended_us = row.ended_us
            if ended_us is None and server_us >= (expired_us := row.event.signal.expire_time.ToMicroseconds()):
                ended_us = expired_us - self.clock_offset_us
            if ended_us is not None and now_us - ended_us >= FADE_US:
                del self.rows[opportunity]

    @property
    def open_count(self) -> int:
        return sum(row.ended_us is None for row in self.rows.values())

    def subjects(self) -> list[str]:
        """Ids on the board whose title isn't known."""
        return [s for row in self.rows.values() if (s := row.event.signal.subject_id) not in self.titles]

    def render(self, now_us: int, columns: int, lines: int) -> RenderableType:
        """The whole screen.

        :param columns: width of the terminal.
        :param lines: its height; what doesn't fit is counted.
        """
        self.drop_faded(now_us)
        wide = columns >= WIDE_COLUMNS
        banners = [*self._break_banner(now_us), *self._feed_banners(now_us)]
        newest = sorted(self.rows.values(), key=lambda row: row.first_sequence, reverse=True)
        taken = sum(-(-len(banner.plain) // columns) for banner in banners)
        space = max(1, lines - 6 - taken)
        fitting = newest[: space if wide else max(1, space // 2)]
        parts: list[RenderableType] = [self._head_line(), *banners]
        if fitting:
            parts.append(self._table(fitting, now_us, columns))
            if len(newest) > len(fitting):
                parts.append(Text(f"and {len(newest) - len(fitting)} more: a taller window shows them", style="dim"))
        elif self.connected:
            parts.append(Text("\nNo open opportunity right now. New ones appear here as they are published.", "dim"))
        return Group(*parts)

    def _head_line(self) -> Text:
        lag = self.head_sequence - self.through_sequence
        where = "up to date" if lag <= 0 else f"{lag:,} behind the head"
        line = Text("signals", style="bold", no_wrap=True, overflow="ellipsis")
        line.append(f"  {self.target}  ", "dim")
        if self.connected:
            line.append(where, "green" if lag <= 0 else "yellow")
            line.append(
                f"  head {self.head_sequence:,}  {self.open_count} open  {self.events_seen:,} events", "not bold"
            )
        if self.reconnects:
            line.append(f"  reconnected {self.reconnects}×", "dim")
        return line

    def _break_banner(self, now_us: int) -> Iterable[Text]:
        if self.connected:
            return
        if not self.break_words:
            yield Text(f"Connecting to {self.target} …", style="yellow")
            return
        wait = max(0, self.next_try_us - now_us) // 1_000_000
        notice = (
            f"RECONNECTING  {self.break_words}, next try in {wait}s; it resumes where it stopped"
            if self.ever_connected
            else f"NOT CONNECTED  {self.break_words}, next try in {wait}s; is the server running? `make run` starts one"
        )
        yield Text(notice, style="bold yellow")

    def _feed_banners(self, now_us: int) -> Iterable[Text]:
        for venue, status in sorted(self.feeds.items()):
            if status.state != feed_status_pb2.FEED_STATE_LIVE:
                text = feed_words(venue, status, now_us + self.clock_offset_us)
                yield Text(text, style="bold red")

    def _table(self, rows: list[_Row], now_us: int, columns: int) -> Table:
        wide, with_kind = columns >= WIDE_COLUMNS, columns >= KIND_COLUMNS
        server_us = now_us + self.clock_offset_us
        what: tuple[str, dict[str, object]] = ("what to do", {**KEEP, "ratio": 3})
        if wide:
            table = rows_table(
                ("age", RIGHT),
                "venue",
                what,
                ("about", {**KEEP, "ratio": 2}),
                *(["kind"] if with_kind else []),
                ("net edge", RIGHT),
                ("strength", RIGHT),
                ("left", RIGHT),
                ("rev", RIGHT),
                "state",
            )
        else:
            table = rows_table(("age", RIGHT), "venue", what, ("edge", RIGHT), ("str", RIGHT), ("left", RIGHT), "state")
        table.expand = True
        for row in rows:
            cells = _wide_cells(row, server_us, self.titles, with_kind) if wide else None
            table.add_row(*(cells or _narrow_cells(row, server_us, self.titles)))
        return table


def _state(row: _Row, server_us: int) -> Text:
    signal = row.event.signal
    if row.ended_us is None:
        if server_us >= signal.expire_time.ToMicroseconds():
            return Text("expired", "yellow")
        return Text("active", "green")
    if signal.state == signal_pb2.SIGNAL_STATE_WITHDRAWN:
        return Text("withdrawn", "yellow")
    return Text(words.signal_state(signal.state), "yellow")


def why_ended(signal: signal_pb2.Signal) -> str:
    """Empty where the signal wasn't withdrawn."""
    reason = words.word(signal_pb2.WithdrawReason, signal.withdraw_reason)
    return "" if reason == "UNSPECIFIED" else reason.removeprefix("GATE_").replace("_", " ").lower()


def what_to_do(signal: signal_pb2.Signal) -> Text:
    mark = words.origin_mark(signal.data_origin)
    text = Text()
    if mark:
        text.append(f"{mark} ", MARK_STYLE)
    return text.append(words.to_do(signal))


def _age_us(row: _Row, server_us: int) -> int:
    return max(0, server_us - row.event.signal.create_time.ToMicroseconds())


def _left(row: _Row, server_us: int, *, short: bool) -> str:
    if row.ended_us is not None:
        return "-"
    left_us = max(0, row.event.signal.expire_time.ToMicroseconds() - server_us)
    return words.short_span(left_us) if short else words.span(left_us // 1_000_000 * 1_000_000) if left_us else "0s"


def edge(signal: signal_pb2.Signal) -> str:
    return words.absent(signal.net_edge_micros if signal.HasField("net_edge_micros") else None, signed=True)


def _subject(signal: signal_pb2.Signal, titles: dict[str, str]) -> str:
    return titles.get(signal.subject_id) or signal.subject_id


def _wide_cells(row: _Row, server_us: int, titles: dict[str, str], with_kind: bool) -> list[Text]:
    signal = row.event.signal
    state = _state(row, server_us)
    if why := why_ended(signal):
        state.append(f": {why}")
    cells = [
        Text(words.short_span(_age_us(row, server_us))),
        Text(words.venue(signal.legs[0].venue) if signal.legs else "-"),
        what_to_do(signal),
        Text(_subject(signal, titles)),
        *([Text(signal.kind)] if with_kind else []),
        Text(edge(signal)),
        Text(f"{signal.strength:.2f}"),
        Text(_left(row, server_us, short=False)),
        Text(str(signal.revision)),
        state,
    ]
    return _faded(cells, row)


def _narrow_cells(row: _Row, server_us: int, titles: dict[str, str]) -> list[Text]:
    signal = row.event.signal
    state = _state(row, server_us)
    cells = [
        Text(words.short_span(_age_us(row, server_us))),
        Text(words.short_venue(signal.legs[0].venue) if signal.legs else "-"),
        what_to_do(signal).append(f"\n{why_ended(signal) or _subject(signal, titles)}", "dim"),
        Text(edge(signal)),
        Text(f"{signal.strength:.2f}"),
        Text(_left(row, server_us, short=True)),
        state.append(f"\nrev {signal.revision}", "dim"),
    ]
    return _faded(cells, row)


def _faded(cells: list[Text], row: _Row) -> list[Text]:
    if row.ended_us is not None:
        for cell in cells:
            cell.stylize("dim strike" if cell is cells[2] else "dim")
    return cells
