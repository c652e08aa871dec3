"""administration: audit log, halts, settings of strategies, subjects, retention, executions

Revision ID: 0002
Revises: 0001
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# Only additions, so that the version before goes on working on this schema.

AUDIT = """
CREATE TABLE audit_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    sequence bigint NOT NULL DEFAULT 0,
    hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    last_create_time timestamptz,
    oldest_sequence bigint NOT NULL DEFAULT 1,
    oldest_previous_hash bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex')
);
COMMENT ON TABLE audit_head IS 'numbers and hashes are handed out under its lock, so their order is that of commits';
COMMENT ON COLUMN audit_head.oldest_previous_hash IS 'what the oldest row that retention left must carry';
INSERT INTO audit_head DEFAULT VALUES;

CREATE TABLE audit_entries (
    sequence bigint PRIMARY KEY,
    create_time timestamptz NOT NULL,
    actor text COLLATE "C" NOT NULL,
    api_key_id text COLLATE "C",
    peer_network text NOT NULL,
    method text COLLATE "C" NOT NULL,
    outcome text NOT NULL,
    request_digest text NOT NULL,
    resource text COLLATE "C" NOT NULL,
    before jsonb,
    after jsonb,
    correlation_id text NOT NULL,
    previous_hash bytea NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX audit_entries_by_time ON audit_entries (create_time);
CREATE INDEX audit_entries_by_actor ON audit_entries (actor, sequence);
CREATE INDEX audit_entries_by_key ON audit_entries (api_key_id, sequence) WHERE api_key_id IS NOT NULL;
CREATE INDEX audit_entries_by_method ON audit_entries (method, sequence);
CREATE INDEX audit_entries_by_resource ON audit_entries (resource, sequence);

CREATE FUNCTION audit_entries_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- Retention alone may delete, and it says so for the length of its own transaction.
    IF TG_OP = 'DELETE' AND current_setting('oddstream.audit_retention', true) = 'on' THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_entries_rows_stay BEFORE UPDATE OR DELETE ON audit_entries
    FOR EACH ROW EXECUTE FUNCTION audit_entries_stay();
CREATE TRIGGER audit_entries_table_stays BEFORE TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION audit_entries_stay();
REVOKE ALL ON audit_entries, audit_head FROM PUBLIC;
REVOKE UPDATE, TRUNCATE ON audit_entries FROM CURRENT_USER;
"""

CONTROLS = """
ALTER TABLE ingest_lanes ADD COLUMN controls_revision bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN ingest_lanes.controls_revision IS 'grows with halts, withdrawals and settings of strategies';

ALTER TABLE leases ADD COLUMN report jsonb;
COMMENT ON COLUMN leases.report IS 'how the holder does, in its own words, as of its last renewal';

CREATE TABLE halts (
    halt_id text COLLATE "C" PRIMARY KEY,
    reach text NOT NULL CHECK (reach IN ('everything', 'venue', 'kind')),
    target text NOT NULL,
    note text NOT NULL,
    ordered_by text NOT NULL,
    create_time timestamptz NOT NULL,
    lift_time timestamptz
);
COMMENT ON COLUMN halts.target IS 'the venue or the kind; empty for everything';
CREATE UNIQUE INDEX halts_in_force ON halts (reach, target) WHERE lift_time IS NULL;

CREATE TABLE strategy_settings (
    strategy_id text COLLATE "C" PRIMARY KEY,
    revision integer NOT NULL,
    enabled boolean NOT NULL,
    params jsonb NOT NULL,
    params_revision integer NOT NULL,
    update_time timestamptz NOT NULL
);
COMMENT ON TABLE strategy_settings IS 'a strategy without a row runs with its defaults';
CREATE TABLE strategy_setting_revisions (
    strategy_id text COLLATE "C" NOT NULL,
    revision integer NOT NULL,
    enabled boolean NOT NULL,
    params jsonb NOT NULL,
    params_revision integer NOT NULL,
    update_time timestamptz NOT NULL,
    PRIMARY KEY (strategy_id, revision)
);

ALTER TABLE pipeline_runs ALTER COLUMN begin_time DROP NOT NULL;
ALTER TABLE pipeline_runs ADD COLUMN create_time timestamptz NOT NULL DEFAULT now();
ALTER TABLE pipeline_runs ADD COLUMN requested_by text;
UPDATE pipeline_runs SET create_time = begin_time;
CREATE INDEX pipeline_runs_by_create_time ON pipeline_runs (create_time, run_id);
CREATE UNIQUE INDEX pipeline_runs_queued ON pipeline_runs (stage, coalesce(venue, '')) WHERE state = 'queued';
"""

PEOPLE = """
CREATE TABLE subjects (
    subject_id text COLLATE "C" PRIMARY KEY,
    email_index bytea,
    name_sealed bytea,
    email_sealed bytea,
    create_time timestamptz NOT NULL
);
COMMENT ON TABLE subjects IS 'the people who own keys; all that is personal is sealed, and found by a blind index';
CREATE INDEX subjects_by_email ON subjects (email_index) WHERE email_index IS NOT NULL;

CREATE TABLE erasures (
    subject_id text COLLATE "C" PRIMARY KEY,
    key_ids text[] COLLATE "C" NOT NULL,
    erase_time timestamptz NOT NULL
);
COMMENT ON TABLE erasures IS 'who was erased, by pseudonym; a file beside the database carries the same over a restore';

ALTER TABLE idempotency_requests ADD COLUMN subject_id text COLLATE "C";
COMMENT ON COLUMN idempotency_requests.subject_id IS 'whom the answer tells of, so that it goes when they are erased';

ALTER TABLE api_keys ADD COLUMN environment text NOT NULL DEFAULT 'live';
ALTER TABLE api_keys ADD COLUMN subject_id text COLLATE "C";
ALTER TABLE api_keys ADD COLUMN previous_secret_hmac bytea;
ALTER TABLE api_keys ADD COLUMN previous_pepper_version integer;
ALTER TABLE api_keys ADD COLUMN rotate_time timestamptz;
ALTER TABLE api_keys ADD COLUMN overlap_end_time timestamptz;
ALTER TABLE api_keys ADD COLUMN revision integer NOT NULL DEFAULT 1;
COMMENT ON COLUMN api_keys.owner IS 'a label for operators, without personal data';
CREATE INDEX api_keys_by_subject ON api_keys (subject_id) WHERE subject_id IS NOT NULL;

CREATE TABLE retention_rules (
    subject text PRIMARY KEY,
    keep_seconds bigint CHECK (keep_seconds >= 3600),
    basis text NOT NULL,
    update_time timestamptz NOT NULL
);
COMMENT ON TABLE retention_rules IS 'kinds of data whose retention was changed; the others have the release''s default';
COMMENT ON COLUMN retention_rules.keep_seconds IS 'NULL keeps for ever';
"""

EXECUTIONS = """
CREATE TABLE executions (
    execution_id text COLLATE "C" PRIMARY KEY,
    venue text NOT NULL,
    venue_fill_id text COLLATE "C" NOT NULL,
    market_id text COLLATE "C" NOT NULL,
    outcome_index smallint NOT NULL,
    action text NOT NULL,
    price_micros bigint NOT NULL,
    size_micros bigint NOT NULL,
    fee_micros bigint,
    liquidity text NOT NULL,
    venue_time timestamptz NOT NULL,
    signal_id text COLLATE "C",
    leg_number smallint,
    venue_order_id text NOT NULL,
    client_order_id text NOT NULL,
    owner text COLLATE "C" NOT NULL,
    slippage_micros bigint,
    create_time timestamptz NOT NULL,
    UNIQUE (venue, venue_fill_id)
);
CREATE INDEX executions_by_owner ON executions (owner, create_time, execution_id);
CREATE INDEX executions_by_time ON executions (create_time, execution_id);
CREATE INDEX executions_by_market ON executions (market_id, create_time, execution_id);
CREATE INDEX executions_by_signal ON executions (signal_id) WHERE signal_id IS NOT NULL;
"""

DOWN = """
DROP TABLE executions, retention_rules, erasures, subjects, strategy_setting_revisions, strategy_settings, halts;
DROP TABLE audit_entries, audit_head;
DROP FUNCTION audit_entries_stay();
ALTER TABLE idempotency_requests DROP COLUMN subject_id;
ALTER TABLE leases DROP COLUMN report;
DROP INDEX api_keys_by_subject;
ALTER TABLE api_keys DROP COLUMN revision, DROP COLUMN overlap_end_time, DROP COLUMN rotate_time,
    DROP COLUMN previous_pepper_version, DROP COLUMN previous_secret_hmac, DROP COLUMN subject_id,
    DROP COLUMN environment;
DROP INDEX pipeline_runs_queued, pipeline_runs_by_create_time;
DELETE FROM pipeline_runs WHERE begin_time IS NULL;
ALTER TABLE pipeline_runs DROP COLUMN requested_by, DROP COLUMN create_time;
ALTER TABLE pipeline_runs ALTER COLUMN begin_time SET NOT NULL;
ALTER TABLE ingest_lanes DROP COLUMN controls_revision;
"""


def upgrade() -> None:
    for script in (AUDIT, CONTROLS, PEOPLE, EXECUTIONS):
        _run(script)


def downgrade() -> None:
    _run(DOWN)


def _run(script: str) -> None:
    # The driver takes several statements at once only without parameters, which op.execute does not offer.
    connection = op.get_bind().connection.dbapi_connection
    assert connection is not None
    connection.run_async(lambda driver: driver.execute(script))
