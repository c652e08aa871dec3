"""The tables and columns that queries name through SQLAlchemy Core.

``migrations/`` makes them, with their keys, indexes and partitions; a test holds the two against each other. Ticks,
candles and the log's entries are read and written by the driver itself and have no entry here.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, TIMESTAMP

metadata = MetaData()


class Instant(TypeDecorator[int]):
    """An instant in ``timestamptz``: int microseconds since the Unix epoch, converted by the driver's own codec."""

    impl = TIMESTAMP(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: int | None, _dialect: Dialect) -> Any:
        if value is not None and not isinstance(value, int):
            raise TypeError(f"an instant is an int of microseconds, got {type(value).__name__}")
        return value


events = Table(
    "events",
    metadata,
    Column("event_id", Text, primary_key=True),
    Column("venue", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("series_id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", JSONB, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("update_time", Instant, nullable=False),
)

markets = Table(
    "markets",
    metadata,
    Column("market_id", Text, primary_key=True),
    Column("venue", Text, nullable=False),
    Column("event_id", Text),
    Column("state", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("series_id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("close_time", Instant),
    Column("volume_micros", BigInteger),
    Column("open_interest_micros", BigInteger),
    Column("body", JSONB, nullable=False),
    Column("settlement", JSONB(none_as_null=True)),
    Column("digest", LargeBinary, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("update_time", Instant, nullable=False),
)

market_rules = Table(
    "market_rules",
    metadata,
    Column("market_id", Text, primary_key=True),
    Column("rules_digest", Text, primary_key=True),
    Column("rules_text", Text, nullable=False),
    Column("first_seen_time", Instant, nullable=False),
)

settlements = Table(
    "settlements",
    metadata,
    Column("market_id", Text, primary_key=True),
    Column("revision", Integer, primary_key=True),
    Column("market_state", Text, nullable=False),
    Column("settlement_state", Text, nullable=False),
    Column("yes_payout_micros", BigInteger),
    Column("void", Boolean, nullable=False),
    Column("determined_time", Instant),
    Column("known_time", Instant, nullable=False),
    Column("paid_time", Instant),
)

market_links = Table(
    "market_links",
    metadata,
    Column("link_id", Text, primary_key=True),
    Column("market_id", Text, nullable=False),
    Column("other_market_id", Text, nullable=False),
    Column("relation", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("body", JSONB, nullable=False),
)

feed_status = Table(
    "feed_status",
    metadata,
    Column("venue", Text, primary_key=True),
    Column("state", Text, nullable=False),
    Column("last_receive_time", Instant),
    Column("epoch", BigInteger, nullable=False),
    Column("change_time", Instant, nullable=False),
    Column("detail", Text, nullable=False),
    Column("market_ids", ARRAY(Text), nullable=False),
)

feed_status_changes = Table(
    "feed_status_changes",
    metadata,
    Column("change_id", BigInteger, primary_key=True),
    *(Column(c.name, c.type, nullable=c.nullable) for c in feed_status.columns),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("row_id", BigInteger, primary_key=True),
    Column("venue", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("payload_digest", LargeBinary, nullable=False),
    Column("receive_time", Instant, nullable=False),
    Column("last_receive_time", Instant, nullable=False),
    Column("times", BigInteger, nullable=False),
)

pipeline_runs = Table(
    "pipeline_runs",
    metadata,
    Column("run_id", Text, primary_key=True),
    Column("venue", Text),
    Column("stage", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("begin_time", Instant),
    Column("end_time", Instant),
    Column("counts", JSONB, nullable=False),
    Column("error", Text),
    Column("create_time", Instant, nullable=False),
    Column("requested_by", Text),
)

signal_log_head = Table(
    "signal_log_head",
    metadata,
    Column("only_row", Boolean, primary_key=True),
    Column("data_set_id", Text, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("last_create_time", Instant),
    Column("oldest_sequence", BigInteger, nullable=False),
    Column("partitioned_to", BigInteger, nullable=False),
    Column("system_identifier", BigInteger, nullable=False),
    Column("timeline", Integer, nullable=False),
    Column("database_oid", BigInteger, nullable=False),
)

signals = Table(
    "signals",
    metadata,
    Column("signal_id", Text, primary_key=True),
    Column("sequence", BigInteger, nullable=False, unique=True),
    Column("opportunity_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("strategy_id", Text, nullable=False),
    Column("event_id", Text),
    Column("direction", Text, nullable=False),
    Column("data_origin", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("made_by", Text, nullable=False),
    Column("venues", ARRAY(Text), nullable=False),
    Column("market_ids", ARRAY(Text), nullable=False),
    Column("opening_strength_ppm", Integer, nullable=False),
    Column("opening_net_edge_micros", BigInteger),
    Column("create_time", Instant, nullable=False),
    Column("end_time", Instant),
    Column("grade", JSONB(none_as_null=True)),
    Column("body", JSON, nullable=False),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("secret_hmac", LargeBinary, nullable=False),
    Column("pepper_version", Integer, nullable=False),
    Column("role", SmallInteger, nullable=False),
    Column("scopes", JSONB, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("expire_time", Instant),
    Column("revoke_time", Instant),
    Column("last_used_time", Instant),
    Column("environment", Text, nullable=False),
    Column("subject_id", Text),
    Column("previous_secret_hmac", LargeBinary),
    Column("previous_pepper_version", Integer),
    Column("rotate_time", Instant),
    Column("overlap_end_time", Instant),
    Column("revision", Integer, nullable=False),
)

audit_entries = Table(
    "audit_entries",
    metadata,
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("create_time", Instant, nullable=False),
    Column("actor", Text, nullable=False),
    Column("api_key_id", Text),
    Column("peer_network", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("request_digest", Text, nullable=False),
    Column("resource", Text, nullable=False),
    Column("before", JSONB(none_as_null=True)),
    Column("after", JSONB(none_as_null=True)),
    Column("correlation_id", Text, nullable=False),
    Column("previous_hash", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

halts = Table(
    "halts",
    metadata,
    Column("halt_id", Text, primary_key=True),
    Column("reach", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("note", Text, nullable=False),
    Column("ordered_by", Text, nullable=False),
    Column("create_time", Instant, nullable=False),
    Column("lift_time", Instant),
)

subjects = Table(
    "subjects",
    metadata,
    Column("subject_id", Text, primary_key=True),
    Column("email_index", LargeBinary),
    Column("name_sealed", LargeBinary),
    Column("email_sealed", LargeBinary),
    Column("create_time", Instant, nullable=False),
)
