"""Alembic's entry: runs the migrations on the connection that ``oddstream_server.storage.migrate`` hands over."""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import ScriptDirectory

connection = context.config.attributes["connection"]
report = context.config.attributes["report"]
script = ScriptDirectory.from_config(context.config)
total = len(list(script.walk_revisions()))


def tell(ctx: MigrationContext, step: MigrationInfo, heads: Collection[Any], run_args: Mapping[str, Any]) -> None:
    """One line a migration."""
    # Our revisions are numbers that count up from 0001.
    revision = script.get_revision(step.up_revision_id or "")
    assert revision is not None
    verb = "migrated" if step.is_upgrade else "took back"
    report(f"{verb} the database: {revision.revision} {revision.doc} ({int(revision.revision)} of {total})")


context.configure(connection=connection, transaction_per_migration=True, on_version_apply=tell)
with context.begin_transaction():
    context.run_migrations()
