"""How the service does, as GetSystemStatus tells it."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from oddstream.cli.json_lines import rfc3339
from oddstream.cli.views.administration import scope_words
from oddstream.cli.views.tables import FOLD, KEEP, RIGHT, facts, heading, rows_table
from oddstream.cli.words import enum_word
from oddstream.v1 import feed_status_pb2, pipeline_run_pb2, system_status_pb2, venue_pb2

_STYLES = {"up": "green", "live": "green", "succeeded": "green", "closed": "green", "absent": "dim"}


def system_page(target: str, status: system_status_pb2.SystemStatus) -> RenderableType:
    parts: list[RenderableType] = [_server(target, status)]
    if status.degraded_features:
        parts += [
            heading("What doesn't work as it should"),
            *(Text(f"  {w}", "yellow") for w in status.degraded_features),
        ]
    parts += [heading("Parts"), _components(status.components), heading("Venues"), _venues(status.venues)]
    if status.halts:
        parts += [heading("Halts in force"), _halts(status)]
    if status.last_runs:
        parts += [heading("Last runs"), _runs(status.last_runs)]
    return Group(*parts)


def _server(target: str, status: system_status_pb2.SystemStatus) -> Table:
    log, leader = status.signal_log, status.leader
    return facts(
        [
            ("server", f"{target}, version {status.version}, schema {status.schema_revision}"),
            ("since", rfc3339(status.start_time)[:19].replace("T", " ")),
            ("signal log", f"{log.oldest_sequence} to {log.head_sequence} of {log.data_set_id}"),
            ("streams", f"{log.stream_count}, the slowest {log.maximum_stream_lag} events behind"),
            ("leader", f"{leader.holder} in epoch {leader.epoch}" if leader.holder else "nobody"),
            ("backtests", f"{status.queue_depth} wait or run"),
        ]
    )


def _components(components: Iterable[system_status_pb2.ComponentStatus]) -> Table:
    table = rows_table("part", "state", ("lag", RIGHT), ("", FOLD))
    for part in components:
        lag = f"{part.lag.ToMilliseconds() / 1000:.1f} s" if part.HasField("lag") else ""
        table.add_row(part.name, _word(system_status_pb2.ComponentState, part.state), lag, Text(part.detail))
    return table


def _venues(venues: Iterable[system_status_pb2.VenueStatus]) -> Table:
    table = rows_table(
        "venue",
        "feed",
        ("age", RIGHT),
        "breaker",
        ("gaps", RIGHT),
        ("markets", RIGHT),
        ("set aside", RIGHT),
        ("", FOLD),
    )
    for venue in venues:
        age = f"{venue.feed_age.ToMilliseconds() / 1000:.1f} s" if venue.HasField("feed_age") else ""
        table.add_row(
            str(enum_word(venue_pb2.Venue.DESCRIPTOR, venue.venue)).lower(),
            _word(feed_status_pb2.FeedState, venue.feed_status.state),
            age,
            _word(system_status_pb2.BreakerState, venue.breaker_state),
            str(venue.gap_count),
            str(venue.followed_market_count),
            str(venue.quarantined_count),
            Text(venue.feed_status.detail),
        )
    return table


def _halts(status: system_status_pb2.SystemStatus) -> Table:
    table = rows_table(("id", KEEP), "reaches", ("why", FOLD))
    for halt in status.halts:
        table.add_row(halt.halt_id, scope_words(halt.scope), Text(halt.note))
    return table


def _runs(runs: Iterable[pipeline_run_pb2.PipelineRun]) -> Table:
    table = rows_table("stage", "venue", "state", ("when", KEEP), ("", FOLD))
    for run in runs:
        venue = str(enum_word(venue_pb2.Venue.DESCRIPTOR, run.venue)).lower() if run.venue else "all"
        table.add_row(
            str(enum_word(pipeline_run_pb2.PipelineStage.DESCRIPTOR, run.stage)).lower(),
            venue,
            _word(pipeline_run_pb2.PipelineRunState, run.state),
            rfc3339(run.create_time)[:19].replace("T", " "),
            Text(run.error or ", ".join(f"{name} {count}" for name, count in sorted(run.counts.items()))),
        )
    return table


def _word(enum: type, number: int) -> Text:
    word = str(enum_word(enum.DESCRIPTOR, number)).lower()  # type: ignore[attr-defined]  # every generated enum has it
    return Text(word, style=_STYLES.get(word, "yellow"))
