"""recorded depth, its place in the archive, and the history of links

Revision ID: 0006
Revises: 0005
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLES = """
CREATE TABLE books_live (
    receive_time timestamptz NOT NULL,
    epoch bigint NOT NULL,
    market_key integer NOT NULL,
    bid_prices_micros bigint[] NOT NULL,
    bid_sizes_micros bigint[] NOT NULL,
    ask_prices_micros bigint[] NOT NULL,
    ask_sizes_micros bigint[] NOT NULL
) PARTITION BY RANGE (receive_time);
COMMENT ON TABLE books_live IS 'books of followed markets, sampled: of each the best levels, best first';
CREATE UNIQUE INDEX books_live_by_market ON books_live (market_key, receive_time);
CREATE INDEX books_live_by_time ON books_live USING brin (receive_time) WITH (pages_per_range = 32);

ALTER TABLE archive_days
    ADD COLUMN book_count bigint NOT NULL DEFAULT 0,
    ADD COLUMN book_file text,
    ADD COLUMN book_sha256 text;

CREATE TABLE market_link_changes (
    link_id text COLLATE "C" NOT NULL REFERENCES market_links ON DELETE CASCADE,
    revision integer NOT NULL,
    state text NOT NULL,
    change_time timestamptz NOT NULL,
    PRIMARY KEY (link_id, revision)
);
COMMENT ON TABLE market_link_changes IS 'when a link was confirmed and when no longer: backtests use it as it was then';
INSERT INTO market_link_changes (link_id, revision, state, change_time)
SELECT link_id, coalesce((body->>'revision')::int, 1), state,
       timestamptz 'epoch' + (body->>'review_time_us')::bigint * interval '1 microsecond'
FROM market_links WHERE body->>'review_time_us' IS NOT NULL
"""


def upgrade() -> None:
    for statement in TABLES.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE market_link_changes")
    op.execute("ALTER TABLE archive_days DROP COLUMN book_count, DROP COLUMN book_file, DROP COLUMN book_sha256")
    op.execute("DROP TABLE books_live")
