"""executions know their strategy and fee; outcomes of signals, and the touch one quote later

Revision ID: 0007
Revises: 0006
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

EXECUTIONS = """
ALTER TABLE executions
    ADD COLUMN strategy_id text COLLATE "C",
    ADD COLUMN estimated_fee_micros bigint;
COMMENT ON COLUMN executions.estimated_fee_micros IS 'by the fee schedule of then; a reported fee goes first';
CREATE INDEX executions_by_strategy ON executions (strategy_id, create_time, execution_id)
    WHERE strategy_id IS NOT NULL
"""

OUTCOMES = """
CREATE TABLE signal_outcomes (
    signal_id text COLLATE "C" PRIMARY KEY REFERENCES signals ON DELETE CASCADE,
    strategy_id text COLLATE "C" NOT NULL,
    kind_version integer NOT NULL,
    params_digest text NOT NULL,
    data_origin text NOT NULL,
    trigger_time timestamptz NOT NULL,
    venue text NOT NULL,
    venues text[] NOT NULL,
    horizon smallint,
    cluster text COLLATE "C" NOT NULL,
    grade_revision integer,
    void boolean,
    edge_micros bigint,
    next_edge_micros bigint,
    fair_micros bigint,
    price_micros bigint,
    happened boolean
) WITH (fillfactor = 85);
COMMENT ON TABLE signal_outcomes IS 'what the track record is computed from: a narrow row a signal';
COMMENT ON COLUMN signal_outcomes.cluster IS 'event, or subject without one: its signals are no independent draws';
COMMENT ON COLUMN signal_outcomes.next_edge_micros IS 'at the touch one quote later';
COMMENT ON COLUMN signal_outcomes.happened IS 'whether the leg''s outcome came, against fair and price';
CREATE INDEX signal_outcomes_by_strategy
    ON signal_outcomes (strategy_id, kind_version, data_origin, trigger_time);

CREATE TABLE next_quotes (
    signal_id text COLLATE "C" NOT NULL REFERENCES signals ON DELETE CASCADE,
    leg_number smallint NOT NULL,
    market_id text COLLATE "C" NOT NULL,
    after_time timestamptz NOT NULL,
    bid_price_micros bigint,
    ask_price_micros bigint,
    quote_time timestamptz,
    PRIMARY KEY (signal_id, leg_number)
) WITH (fillfactor = 85);
COMMENT ON TABLE next_quotes IS 'of each leg the first book with two sides after the row that triggered its signal';
CREATE INDEX next_quotes_waiting ON next_quotes (after_time) WHERE quote_time IS NULL
"""

# Signals of before: their next quotes were not kept, and what was graded is taken over with its settlement of now.
FILL = """
INSERT INTO signal_outcomes
SELECT s.signal_id, s.strategy_id, (s.body->>'version')::int, s.body->>'params_digest', s.data_origin,
    timestamptz 'epoch' + (s.body->>'input_time_us')::bigint * interval '1 microsecond',
    s.body->>'venue', s.venues,
    CASE WHEN g.left_us IS NULL THEN NULL WHEN g.left_us < 3600000000 THEN 1 WHEN g.left_us < 86400000000 THEN 2
        WHEN g.left_us < 604800000000 THEN 3 ELSE 4 END,
    coalesce(s.event_id, s.body->>'subject_id'),
    (s.grade->>'revision')::int, (s.grade->>'void')::boolean, (s.grade->>'realized_edge_micros')::bigint, NULL,
    CASE WHEN g.known THEN CASE g.outcome WHEN 0 THEN g.fair ELSE g.payout - g.fair END * 1000000 / g.payout END,
    CASE WHEN g.known THEN g.price * 1000000 / g.payout END,
    CASE WHEN g.known THEN (g.paid = g.payout) = (g.outcome = 0) END
FROM signals AS s CROSS JOIN LATERAL (
    SELECT (s.body->>'lockup_until_us')::bigint - (s.body->>'input_time_us')::bigint AS left_us,
        (s.body->>'fair_value_micros')::bigint AS fair,
        (s.body->'legs'->0->>'outcome_index')::int AS outcome,
        (s.body->'legs'->0->>'limit_price_micros')::bigint AS price
) AS l LEFT JOIN markets AS m ON m.market_id = s.market_ids[1] CROSS JOIN LATERAL (
    SELECT l.*, (m.body->>'payout_micros')::bigint AS payout, (m.settlement->>'yes_payout_micros')::bigint AS paid,
        NOT (s.grade->>'void')::boolean AND json_array_length(s.body->'legs') = 1
        AND NOT (m.settlement->>'void')::boolean
        AND (m.settlement->>'yes_payout_micros')::bigint IN (0, (m.body->>'payout_micros')::bigint) AS known
) AS g
WHERE s.body->>'version' IS NOT NULL
"""


def upgrade() -> None:
    for script in (EXECUTIONS, OUTCOMES, FILL):
        for statement in script.split(";\n"):
            op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE next_quotes, signal_outcomes")
    op.execute("DROP INDEX executions_by_strategy")
    op.execute("ALTER TABLE executions DROP COLUMN strategy_id, DROP COLUMN estimated_fee_micros")
