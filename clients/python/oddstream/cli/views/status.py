"""How the service does: what its operations port and its signal stream tell, side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from oddstream.cli import json_lines, words
from oddstream.cli.views.tables import FOLD, RIGHT, facts, heading, rows_table
from oddstream.v1 import feed_status_pb2, signal_service_pb2


@dataclass(frozen=True, slots=True)
class SystemView:
    """What answered; None with words where a part didn't."""

    target: str
    stream: signal_service_pb2.WatchSignalsResponse | None
    stream_words: str
    operations_address: str
    operations: Mapping[str, Any] | None
    operations_words: str

    @property
    def workers(self) -> dict[str, Mapping[str, Any]]:
        """Of the operations port, by name; empty for a worker that doesn't answer it."""
        workers = (self.operations or {}).get("workers")
        if not isinstance(workers, Mapping):
            return {}
        return {str(name): state if isinstance(state, Mapping) else {} for name, state in workers.items()}

    @property
    def pipeline(self) -> Mapping[str, Any]:
        return self.workers.get("pipeline", {})

    def answered(self) -> bool:
        return self.stream is not None or self.operations is not None


def status_json(view: SystemView) -> dict[str, Any]:
    """One JSON object: ``stream`` is the first message of WatchSignals, ``operations`` the port's own JSON."""
    return {
        "target": view.target,
        "stream": None if view.stream is None else json_lines.plain(view.stream),
        "stream_error": view.stream_words or None,
        "operations": view.operations,
        "operations_error": view.operations_words or None,
    }


def status_page(view: SystemView, now_us: int, columns: int) -> RenderableType:
    return Group(
        _server(view),
        heading("Venues"),
        _venues(view, now_us, columns),
        heading("Pipeline"),
        _pipeline(view),
        heading("Serving"),
        _serving(view),
    )


def _good(good: object, yes: str, no: str) -> Text:
    return Text(yes, "green") if good else Text(no, "bold red")


def _server(view: SystemView) -> Table:
    state = view.operations
    pairs: list[tuple[str, object]] = [
        ("gRPC", Text(f"{view.target}  ").append(_good(view.stream is not None, "streams", view.stream_words))),
    ]
    if state is None:
        pairs.append(("operations", Text(f"{view.operations_address}  ").append(view.operations_words, "yellow")))
    else:
        ready = Text("draining", "yellow") if state.get("draining") else _good(state.get("ready"), "ready", "not ready")
        pairs += [
            ("operations", Text(f"{view.operations_address}  ").append(ready)),
            ("version", state.get("version")),
        ]
    if view.stream is not None:
        pairs.append(("signal log", f"{view.stream.started.data_set_id}, head {view.stream.head_sequence:,}"))
    return facts(pairs)


def _venues(view: SystemView, now_us: int, columns: int) -> RenderableType:
    told = view.pipeline.get("venues")
    venues: dict[str, Mapping[str, Any]] = {}
    if isinstance(told, Mapping):
        venues = {str(name): state for name, state in told.items() if isinstance(state, Mapping)}
    pushed = {words.venue(s.venue): s for s in view.stream.feed_statuses} if view.stream is not None else {}
    if not venues and not pushed:
        return Text("nothing is known of any venue", style="yellow")
    table = rows_table(
        "venue",
        "feed",
        ("last data", RIGHT),
        ("epoch", RIGHT),
        ("gaps", RIGHT),
        "breaker",
        ("markets", RIGHT),
        *([("detail", FOLD)] if columns >= 100 else []),
    )
    for name in sorted({*venues, *pushed}):
        state, status = venues.get(name, {}), pushed.get(name)
        feed = str(state.get("state") or (words.word(feed_status_pb2.FeedState, status.state) if status else "-"))
        age_us = _whole(state.get("last_receive_age_us"))
        if age_us is None and status is not None and status.HasField("last_receive_time"):
            age_us = max(0, now_us - status.last_receive_time.ToMicroseconds())
        epoch = state.get("epoch", status.epoch if status else None)
        table.add_row(
            name,
            Text(feed.upper(), "green" if feed.upper() == "LIVE" else "bold red"),
            "-" if age_us is None else words.ago(age_us),
            "-" if epoch is None else str(epoch),
            _shown(state.get("gaps")),
            _breaker(state.get("breaker")),
            _shown(state.get("markets")),
            *([Text(str(state.get("detail") or (status.detail if status else "")), "dim")] if columns >= 100 else []),
        )
    return table


def _breaker(state: object) -> Text:
    name = _shown(state).lower()
    return Text(name, "bold red" if name == "open" else "yellow" if name.startswith("half") else "")


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _pipeline(view: SystemView) -> RenderableType:
    state = view.pipeline
    if not state:
        why = "the pipeline worker doesn't answer" if view.operations is not None else "only the operations port tells"
        return Text(why, style="bold red" if view.operations is not None else "yellow")
    queue, capacity = _whole(state.get("queue")), _whole(state.get("queue_capacity"))
    filling = None if queue is None else f"{queue:,}" + (f" of {capacity:,}" if capacity else "")
    batch_us = _whole(state.get("last_batch_age_us"))
    return facts(
        [
            ("state", _good(state.get("ready"), "ready", "not ready")),
            ("leader", _good(state.get("leader"), "this server", "another server, or none yet")),
            ("lease epoch", state.get("epoch")),
            ("queue", filling),
            ("ingest", Text("paused: the disk is almost full", "bold red") if state.get("ingest_paused") else None),
            ("last batch", None if batch_us is None else words.ago(batch_us)),
        ]
    )


def _serving(view: SystemView) -> RenderableType:
    workers = {name: state for name, state in view.workers.items() if name != "pipeline"}
    if not workers:
        return Text("only the operations port tells", style="yellow")
    heads = {name: _whole(state.get("head_sequence")) for name, state in workers.items()}
    furthest = max((head for head in heads.values() if head is not None), default=0)
    if view.stream is not None:
        furthest = max(furthest, view.stream.head_sequence)
    table = rows_table("worker", "state", ("streams", RIGHT), ("head", RIGHT), ("behind", RIGHT), "database", "redis")
    for name, state in sorted(workers.items()):
        head = heads[name]
        behind = "-" if head is None else f"{max(0, furthest - head):,}"
        table.add_row(
            name,
            _good(state.get("ready"), "ready", "not ready" if state else "not answering"),
            _streams(state.get("streams")),
            _shown(head),
            behind,
            _connections(state),
            _part(state.get("redis")),
        )
    return table


def _streams(told: object) -> str:
    """A number, or numbers by kind."""
    if isinstance(told, Mapping):
        return ", ".join(f"{_shown(count)} {kind}" for kind, count in told.items()) or "0"
    return _shown(told)


def _connections(state: Mapping[str, Any]) -> Text:
    used, most = _whole(state.get("database_connections")), _whole(state.get("database_connections_maximum"))
    if used is None:
        return _part(state.get("database"))
    full = most is not None and used >= most
    return Text(f"{used} of {most} busy" if most else f"{used} busy", "yellow" if full else "")


def _part(state: object) -> Text:
    if state is None:
        return Text("-", "dim")
    if isinstance(state, bool):
        return _good(state, "up", "down")
    return Text(str(state), "green" if str(state).lower() in ("up", "ok", "ready") else "bold red")
