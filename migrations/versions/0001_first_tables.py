"""first tables

Revision ID: 0001
Revises:
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Ids compare byte by byte (COLLATE "C"), so that a keyset page never depends on the machine's locale.

CATALOG = """
CREATE TABLE events (
    event_id text COLLATE "C" PRIMARY KEY,
    venue text NOT NULL,
    category text NOT NULL,
    series_id text NOT NULL,
    title text NOT NULL,
    body jsonb NOT NULL,
    digest bytea NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);
CREATE INDEX events_by_venue ON events (venue, event_id);
CREATE INDEX events_by_category ON events (category, event_id);
CREATE INDEX events_by_series ON events (series_id, event_id);
CREATE INDEX events_by_title ON events USING gin (to_tsvector('simple', title));

CREATE TABLE markets (
    market_id text COLLATE "C" PRIMARY KEY,
    venue text NOT NULL,
    event_id text COLLATE "C",
    state text NOT NULL,
    category text NOT NULL,
    series_id text NOT NULL,
    title text NOT NULL,
    close_time timestamptz,
    volume_micros bigint,
    open_interest_micros bigint,
    body jsonb NOT NULL,
    settlement jsonb,
    digest bytea NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
) WITH (fillfactor = 80);
COMMENT ON COLUMN markets.body IS 'the market without state, settlement, volume and open interest';
CREATE INDEX markets_by_event ON markets (event_id, market_id);
CREATE INDEX markets_by_state ON markets (state, market_id);
CREATE INDEX markets_by_venue_and_state ON markets (venue, state, market_id);
CREATE INDEX markets_by_category ON markets (category, market_id);
CREATE INDEX markets_by_series ON markets (series_id, market_id);
CREATE INDEX markets_by_close_time ON markets (close_time);
CREATE INDEX markets_by_title ON markets USING gin (to_tsvector('simple', title));

CREATE TABLE market_rules (
    market_id text COLLATE "C" NOT NULL REFERENCES markets ON DELETE CASCADE,
    rules_digest text NOT NULL,
    rules_text text NOT NULL,
    first_seen_time timestamptz NOT NULL,
    PRIMARY KEY (market_id, rules_digest)
);
COMMENT ON TABLE market_rules IS 'every rules text that a market ever had';

CREATE TABLE settlements (
    market_id text COLLATE "C" NOT NULL REFERENCES markets ON DELETE CASCADE,
    revision integer NOT NULL,
    market_state text NOT NULL,
    settlement_state text NOT NULL,
    yes_payout_micros bigint,
    void boolean NOT NULL,
    determined_time timestamptz,
    known_time timestamptz NOT NULL,
    paid_time timestamptz,
    PRIMARY KEY (market_id, revision)
);
COMMENT ON TABLE settlements IS 'every revision of every settlement; the newest one is markets.settlement too';

CREATE TABLE market_links (
    link_id text COLLATE "C" PRIMARY KEY,
    market_id text COLLATE "C" NOT NULL,
    other_market_id text COLLATE "C" NOT NULL,
    relation text NOT NULL,
    state text NOT NULL,
    body jsonb NOT NULL
);
CREATE INDEX market_links_by_market ON market_links (market_id, link_id);
CREATE INDEX market_links_by_other_market ON market_links (other_market_id, link_id);
"""

TICKS = """
CREATE TABLE market_keys (
    market_key integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    market_id text COLLATE "C" NOT NULL UNIQUE
);
COMMENT ON TABLE market_keys IS 'numbers for ticks; minted at a market''s first tick, known to the catalog or not';

CREATE TABLE tick_sources (
    source_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue text NOT NULL,
    kind text NOT NULL,
    name text NOT NULL,
    UNIQUE (venue, kind, name)
);

CREATE TABLE ingest_lanes (
    lane smallint PRIMARY KEY,
    name text NOT NULL UNIQUE,
    epoch bigint NOT NULL DEFAULT 0,
    sequence bigint NOT NULL,
    watermarks jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE ingest_lanes IS 'last ingest sequence of each lane; live rows are written by the leader of that epoch';
COMMENT ON COLUMN ingest_lanes.watermarks IS 'latest receive time stored, by venue, in microseconds';
INSERT INTO ingest_lanes (lane, name, sequence) VALUES (1, 'live', 0), (2, 'import', 1000000000000000);

CREATE TABLE quotes (
    receive_time timestamptz NOT NULL,
    venue_time timestamptz,
    ingest_sequence bigint NOT NULL,
    source_key bigint NOT NULL,
    bid_price_micros bigint,
    bid_size_micros bigint,
    ask_price_micros bigint,
    ask_size_micros bigint,
    epoch bigint NOT NULL,
    market_key integer NOT NULL,
    source_id integer NOT NULL,
    lane smallint NOT NULL
) PARTITION BY LIST (lane);
CREATE TABLE quotes_live PARTITION OF quotes FOR VALUES IN (1) PARTITION BY RANGE (receive_time);
CREATE INDEX quotes_live_by_market ON quotes_live (market_key, receive_time, ingest_sequence);
CREATE INDEX quotes_live_by_sequence ON quotes_live (ingest_sequence);
CREATE INDEX quotes_live_by_time ON quotes_live USING brin (receive_time) WITH (pages_per_range = 32);
CREATE TABLE quotes_import PARTITION OF quotes FOR VALUES IN (2) PARTITION BY RANGE (receive_time);
CREATE UNIQUE INDEX quotes_import_by_market ON quotes_import (market_key, receive_time, source_id, source_key);
CREATE INDEX quotes_import_by_sequence ON quotes_import USING brin (ingest_sequence) WITH (pages_per_range = 32);
CREATE INDEX quotes_import_by_time ON quotes_import USING brin (receive_time) WITH (pages_per_range = 32);

CREATE TABLE trades (
    receive_time timestamptz NOT NULL,
    venue_time timestamptz,
    ingest_sequence bigint NOT NULL,
    price_micros bigint NOT NULL,
    size_micros bigint NOT NULL,
    market_key integer NOT NULL,
    source_id integer NOT NULL,
    lane smallint NOT NULL,
    taker_outcome_index smallint,
    block boolean NOT NULL,
    source_key text COLLATE "C" NOT NULL
) PARTITION BY LIST (lane);
CREATE TABLE trades_live PARTITION OF trades FOR VALUES IN (1) PARTITION BY RANGE (receive_time);
CREATE INDEX trades_live_by_market ON trades_live (market_key, receive_time, ingest_sequence);
CREATE INDEX trades_live_by_time ON trades_live USING brin (receive_time) WITH (pages_per_range = 32);
CREATE TABLE trades_import PARTITION OF trades FOR VALUES IN (2) PARTITION BY RANGE (receive_time);
CREATE INDEX trades_import_by_market ON trades_import (market_key, receive_time, ingest_sequence);
CREATE INDEX trades_import_by_time ON trades_import USING brin (receive_time) WITH (pages_per_range = 32);

CREATE TABLE trade_keys (
    market_key integer NOT NULL,
    source_id integer NOT NULL,
    source_key text COLLATE "C" NOT NULL,
    receive_time timestamptz NOT NULL,
    PRIMARY KEY (market_key, source_id, source_key)
);
CREATE INDEX trade_keys_by_time ON trade_keys USING brin (receive_time);
COMMENT ON TABLE trade_keys IS 'a trade fetched again later may have another partition: its identity is kept here';

CREATE TABLE candles (
    start_time timestamptz NOT NULL,
    market_key integer NOT NULL,
    interval_seconds integer NOT NULL,
    revision integer NOT NULL,
    trade_count integer NOT NULL,
    volume_micros bigint NOT NULL,
    trade_open bigint, trade_high bigint, trade_low bigint, trade_close bigint,
    trade_open_time timestamptz, trade_open_sequence bigint,
    trade_close_time timestamptz, trade_close_sequence bigint,
    bid_open bigint, bid_high bigint, bid_low bigint, bid_close bigint,
    bid_open_time timestamptz, bid_open_sequence bigint,
    bid_close_time timestamptz, bid_close_sequence bigint,
    ask_open bigint, ask_high bigint, ask_low bigint, ask_close bigint,
    ask_open_time timestamptz, ask_open_sequence bigint,
    ask_close_time timestamptz, ask_close_sequence bigint,
    PRIMARY KEY (market_key, interval_seconds, start_time)
) PARTITION BY RANGE (start_time);

CREATE TABLE import_positions (
    source_id integer PRIMARY KEY REFERENCES tick_sources,
    next_row bigint NOT NULL,
    total_rows bigint,
    first_sequence bigint,
    last_sequence bigint,
    first_time timestamptz,
    last_time timestamptz,
    candles_built boolean NOT NULL DEFAULT false,
    begin_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);
COMMENT ON TABLE import_positions IS 'how much of a file is stored; moves in the transaction that stores its rows';
"""

PIPELINE = """
CREATE TABLE leases (
    name text PRIMARY KEY,
    epoch bigint NOT NULL,
    holder text NOT NULL,
    expire_time timestamptz NOT NULL
);
INSERT INTO leases VALUES ('pipeline', 0, '', timestamptz 'epoch');

CREATE TABLE strategy_states (
    strategy_id text COLLATE "C" NOT NULL,
    subject_id text COLLATE "C" NOT NULL,
    ingest_sequence bigint NOT NULL,
    kernel bytea NOT NULL,
    opportunities bytea NOT NULL,
    PRIMARY KEY (strategy_id, subject_id)
) WITH (fillfactor = 70);
COMMENT ON COLUMN strategy_states.ingest_sequence IS 'head of the live lane at which the state was saved';

CREATE TABLE feed_status (
    venue text PRIMARY KEY,
    state text NOT NULL,
    last_receive_time timestamptz,
    epoch bigint NOT NULL,
    change_time timestamptz NOT NULL,
    detail text NOT NULL,
    market_ids text[] NOT NULL
);
CREATE TABLE feed_status_changes (
    change_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue text NOT NULL,
    state text NOT NULL,
    last_receive_time timestamptz,
    epoch bigint NOT NULL,
    change_time timestamptz NOT NULL,
    detail text NOT NULL,
    market_ids text[] NOT NULL
);
COMMENT ON TABLE feed_status_changes IS 'what was missed on a venue can never be replayed: the gaps stay on record';
CREATE INDEX feed_status_changes_by_venue ON feed_status_changes (venue, change_time);

CREATE TABLE quarantine (
    row_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    venue text NOT NULL,
    source text NOT NULL,
    reason text NOT NULL,
    detail text NOT NULL,
    payload bytea NOT NULL,
    payload_digest bytea NOT NULL,
    receive_time timestamptz NOT NULL,
    last_receive_time timestamptz NOT NULL,
    times bigint NOT NULL DEFAULT 1,
    UNIQUE (venue, source, reason, payload_digest)
);
CREATE INDEX quarantine_by_time ON quarantine (last_receive_time);

CREATE TABLE pipeline_runs (
    run_id text COLLATE "C" PRIMARY KEY,
    venue text,
    stage text NOT NULL,
    state text NOT NULL,
    begin_time timestamptz NOT NULL,
    end_time timestamptz,
    counts jsonb NOT NULL DEFAULT '{}',
    error text
);
CREATE INDEX pipeline_runs_by_time ON pipeline_runs (begin_time, run_id);
"""

SIGNALS = """
CREATE TABLE signal_log_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    data_set_id text NOT NULL,
    sequence bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    last_create_time timestamptz,
    oldest_sequence bigint NOT NULL DEFAULT 1,
    partitioned_to bigint NOT NULL DEFAULT 0,
    system_identifier bigint NOT NULL DEFAULT 0,
    timeline integer NOT NULL DEFAULT 0,
    database_oid bigint NOT NULL DEFAULT 0
);
COMMENT ON COLUMN signal_log_head.epoch IS 'the leader''s: an append with another one is refused';
COMMENT ON COLUMN signal_log_head.partitioned_to IS 'partitions hold sequences below this one';
INSERT INTO signal_log_head (data_set_id) VALUES ('');

CREATE TABLE signal_events (
    sequence bigint NOT NULL,
    create_time timestamptz NOT NULL,
    type text NOT NULL,
    signal_id text COLLATE "C" NOT NULL,
    body json NOT NULL,
    PRIMARY KEY (sequence)
) PARTITION BY RANGE (sequence);
COMMENT ON COLUMN signal_events.body IS 'the whole event as it was made; sequence and create time stand in columns';
CREATE INDEX signal_events_by_create_time ON signal_events (create_time, sequence);

CREATE TABLE signal_ids (
    event_key text COLLATE "C" PRIMARY KEY,
    sequence bigint NOT NULL
);
COMMENT ON TABLE signal_ids IS 'an event is taken once as long as its key is here: the replay horizon';
CREATE INDEX signal_ids_by_sequence ON signal_ids USING brin (sequence);

CREATE TABLE signals (
    signal_id text COLLATE "C" PRIMARY KEY,
    sequence bigint NOT NULL UNIQUE,
    opportunity_id text COLLATE "C" NOT NULL,
    kind text NOT NULL,
    strategy_id text NOT NULL,
    event_id text COLLATE "C",
    direction text NOT NULL,
    data_origin text NOT NULL,
    state text NOT NULL,
    made_by text NOT NULL,
    venues text[] NOT NULL,
    market_ids text[] COLLATE "C" NOT NULL,
    opening_strength_ppm integer NOT NULL,
    opening_net_edge_micros bigint,
    create_time timestamptz NOT NULL,
    end_time timestamptz,
    grade jsonb,
    body json NOT NULL
) WITH (fillfactor = 85);
COMMENT ON COLUMN signals.sequence IS 'of the event that made it';
COMMENT ON COLUMN signals.made_by IS 'type of that event: created or revised';
CREATE INDEX signals_active ON signals (sequence) WHERE state = 'active';
CREATE INDEX signals_by_event ON signals (event_id, sequence);
CREATE INDEX signals_by_strategy ON signals (strategy_id, sequence);
CREATE INDEX signals_by_kind ON signals (kind, sequence);
CREATE INDEX signals_by_opportunity ON signals (opportunity_id, sequence);
CREATE INDEX signals_by_create_time ON signals (create_time);
CREATE INDEX signals_by_market ON signals USING gin (market_ids);
"""

KEYS = """
CREATE TABLE api_keys (
    key_id text COLLATE "C" PRIMARY KEY,
    owner text NOT NULL,
    secret_hmac bytea NOT NULL,
    pepper_version integer NOT NULL,
    role smallint NOT NULL,
    scopes jsonb NOT NULL,
    create_time timestamptz NOT NULL,
    expire_time timestamptz,
    revoke_time timestamptz,
    last_used_time timestamptz
);

CREATE TABLE idempotency_requests (
    principal text NOT NULL,
    method text NOT NULL,
    request_id uuid NOT NULL,
    request_digest bytea NOT NULL,
    answer bytea,
    sealed_secret bytea,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (principal, method, request_id)
);
CREATE INDEX idempotency_requests_by_time ON idempotency_requests (create_time);
"""

TABLES = (
    "idempotency_requests, api_keys, signals, signal_ids, signal_events, signal_log_head, pipeline_runs, quarantine, "
    "feed_status_changes, feed_status, strategy_states, leases, import_positions, candles, trade_keys, trades, quotes, "
    "ingest_lanes, tick_sources, market_keys, market_links, settlements, market_rules, markets, events"
)


def upgrade() -> None:
    for script in (CATALOG, TICKS, PIPELINE, SIGNALS, KEYS):
        _run(script)


def downgrade() -> None:
    _run(f"DROP TABLE {TABLES}")


def _run(script: str) -> None:
    # The driver takes several statements at once only without parameters, which op.execute does not offer.
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None
    connection.run_async(lambda driver: driver.execute(script))
