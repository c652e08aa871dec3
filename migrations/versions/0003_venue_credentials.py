"""credentials for venues, sealed

Revision ID: 0003
Revises: 0002
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Only additions, so that the version before goes on working on this schema.


def upgrade() -> None:
    op.execute(
        """
CREATE TABLE venue_credentials (
    venue text PRIMARY KEY,
    sealed bytea NOT NULL,
    wrapped_data_key bytea NOT NULL,
    wrapping_key text NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
)"""
    )
    op.execute(
        "COMMENT ON TABLE venue_credentials IS 'API keys of venues: each sealed with a data key of its own, which is "
        "wrapped by a key that is not in the database'"
    )
    op.execute(
        "COMMENT ON COLUMN venue_credentials.wrapping_key IS 'name and version of the key that unwraps the data key'"
    )


def downgrade() -> None:
    op.execute("DROP TABLE venue_credentials")
