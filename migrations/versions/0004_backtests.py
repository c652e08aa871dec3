"""backtests, their jobs, and the archive of closed days

Revision ID: 0004
Revises: 0003
"""

import importlib.metadata
from importlib import resources

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# Only additions, so that the version before goes on working on this schema.

RUNS = """
CREATE TABLE backtest_runs (
    run_id text COLLATE "C" PRIMARY KEY,
    create_number bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    kind text NOT NULL,
    owner text NOT NULL,
    display_name text NOT NULL,
    spec jsonb NOT NULL,
    strategy_kinds text[] NOT NULL,
    set_count integer NOT NULL,
    state text NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    revision bigint NOT NULL DEFAULT 1,
    job_id bigint,
    frozen bytea,
    progress jsonb NOT NULL DEFAULT '{}',
    result jsonb,
    error jsonb,
    create_time timestamptz NOT NULL,
    start_time timestamptz,
    end_time timestamptz
) WITH (fillfactor = 70);
COMMENT ON TABLE backtest_runs IS 'backtests and sweeps';
COMMENT ON COLUMN backtest_runs.attempt IS 'the fence: whoever writes for an older attempt is refused';
COMMENT ON COLUMN backtest_runs.frozen IS 'a running sweep''s markets as they were known when it was cut';
CREATE INDEX backtest_runs_by_kind ON backtest_runs (kind, create_number);
CREATE INDEX backtest_runs_by_owner ON backtest_runs (kind, owner, create_number);
CREATE INDEX backtest_runs_unfinished ON backtest_runs (owner) WHERE state IN ('queued', 'running');

CREATE TABLE backtest_trades (
    run_id text COLLATE "C" NOT NULL REFERENCES backtest_runs ON DELETE CASCADE,
    trade_number bigint NOT NULL,
    kind text NOT NULL,
    market_id text COLLATE "C" NOT NULL,
    event_id text COLLATE "C",
    outcome_index smallint NOT NULL,
    bought boolean NOT NULL,
    entry_price_micros bigint NOT NULL,
    size_micros bigint NOT NULL,
    fee_micros bigint NOT NULL,
    slippage_micros bigint NOT NULL,
    maker boolean NOT NULL,
    exit text NOT NULL,
    exit_price_micros bigint NOT NULL,
    profit_micros bigint NOT NULL,
    strength_ppm integer NOT NULL,
    fair_value_micros bigint,
    signal_time timestamptz NOT NULL,
    entry_time timestamptz NOT NULL,
    exit_time timestamptz NOT NULL,
    PRIMARY KEY (run_id, trade_number)
);

CREATE TABLE backtest_curves (
    run_id text COLLATE "C" PRIMARY KEY REFERENCES backtest_runs ON DELETE CASCADE,
    points bytea NOT NULL
);
COMMENT ON COLUMN backtest_curves.points IS 'little-endian int64 of (time, equity, cash, locked), compressed by zlib';

CREATE TABLE backtest_shards (
    run_id text COLLATE "C" NOT NULL REFERENCES backtest_runs ON DELETE CASCADE,
    shard_number integer NOT NULL,
    market_ids text[] NOT NULL,
    row_count bigint NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    job_id bigint,
    done boolean NOT NULL DEFAULT false,
    PRIMARY KEY (run_id, shard_number)
);
COMMENT ON TABLE backtest_shards IS 'the parts of a running sweep; gone when it has ended';

CREATE TABLE backtest_parts (
    run_id text COLLATE "C" NOT NULL,
    set_number integer NOT NULL,
    shard_number integer NOT NULL,
    part bytea NOT NULL,
    PRIMARY KEY (run_id, set_number, shard_number),
    FOREIGN KEY (run_id, shard_number) REFERENCES backtest_shards ON DELETE CASCADE
);
COMMENT ON TABLE backtest_parts IS 'what a shard gave for a set: whoever takes it over goes on from here';

CREATE TABLE backtest_trials (
    data_key text PRIMARY KEY,
    trial_count bigint NOT NULL
);
COMMENT ON TABLE backtest_trials IS 'runs and parameter sets ever tried on the same input rows; outlives the runs';
"""

ARCHIVE = """
CREATE TABLE archive_days (
    venue text NOT NULL,
    day date NOT NULL,
    generation integer NOT NULL,
    quote_count bigint NOT NULL,
    trade_count bigint NOT NULL,
    quote_file text,
    quote_sha256 text,
    trade_file text,
    trade_sha256 text,
    dropped boolean NOT NULL DEFAULT false,
    archive_time timestamptz NOT NULL,
    PRIMARY KEY (venue, day)
);
COMMENT ON TABLE archive_days IS 'closed days in Parquet: the manifest, which each folder repeats beside its files';
COMMENT ON COLUMN archive_days.generation IS 'one more each time late rows made the files anew';
COMMENT ON COLUMN archive_days.dropped IS 'true where PostgreSQL may lack rows of the day, so that the files are read';
"""

TABLES = (
    "archive_days, backtest_trials, backtest_parts, backtest_shards, backtest_curves, backtest_trades, backtest_runs"
)

QUEUE_VERSION = "3.10."

DROP_QUEUE = """
DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs, procrastinate_workers CASCADE;
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT oid::regprocedure::text FROM pg_proc
                WHERE proname LIKE 'procrastinate\\_%' AND pronamespace = current_schema()::regnamespace
    LOOP
        EXECUTE 'DROP FUNCTION ' || name || ' CASCADE';
    END LOOP;
END;
$$;
DROP TYPE procrastinate_job_to_defer_v1, procrastinate_job_status, procrastinate_job_event_type;
"""


def upgrade() -> None:
    _run(queue_schema())
    _run(RUNS)
    _run(ARCHIVE)


def downgrade() -> None:
    _run(f"DROP TABLE {TABLES}")
    _run(DROP_QUEUE)


def queue_schema() -> str:
    """The job queue's own schema, of the version that this revision was made for."""
    installed = importlib.metadata.version("procrastinate")
    if not installed.startswith(QUEUE_VERSION):
        raise RuntimeError(
            f"this migration is for procrastinate {QUEUE_VERSION}x and found {installed}: install the pinned version, "
            "migrate, and then bring its schema further with a revision of its own"
        )
    return resources.files("procrastinate").joinpath("sql/schema.sql").read_text()


def _run(script: str) -> None:
    # The driver takes several statements at once only without parameters, which op.execute does not offer.
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None
    connection.run_async(lambda driver: driver.execute(script))
