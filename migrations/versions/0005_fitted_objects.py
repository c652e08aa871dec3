"""tables that are fitted to the past, by version

Revision ID: 0005
Revises: 0004
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FITTED = """
CREATE TABLE fitted_objects (
    name text COLLATE "C" NOT NULL,
    version integer NOT NULL,
    layout integer NOT NULL,
    fit_time timestamptz NOT NULL,
    effective_time timestamptz NOT NULL,
    samples bigint NOT NULL,
    cells jsonb NOT NULL,
    PRIMARY KEY (name, version)
)
"""
COMMENT = "COMMENT ON TABLE fitted_objects IS 'strategies use them for rows after effective_time'"


def upgrade() -> None:
    op.execute(FITTED)
    op.execute(COMMENT)


def downgrade() -> None:
    op.execute("DROP TABLE fitted_objects")
