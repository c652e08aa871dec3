"""executions know their strategy and their estimated fee

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


def upgrade() -> None:
    for statement in EXECUTIONS.split(";\n"):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP INDEX executions_by_strategy")
    op.execute("ALTER TABLE executions DROP COLUMN strategy_id, DROP COLUMN estimated_fee_micros")
