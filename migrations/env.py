"""Alembic's entry: runs the migrations on the connection that ``oddstream_server.storage.migrate`` hands over."""

from alembic import context
from alembic.script import ScriptDirectory

connection = context.config.attributes["connection"]
report = context.config.attributes["report"]
script = ScriptDirectory.from_config(context.config)
total = len(list(script.walk_revisions()))


def tell(*, step, **_rest):  # type: ignore[no-untyped-def]  # Alembic's callback has no public types
    """One line a migration."""
    done = step.up_revision
    number = int(done.revision)
    verb = "migrated" if step.is_upgrade else "took back"
    report(f"{verb} the database: {done.revision} {done.doc} ({number} of {total})")


context.configure(connection=connection, transaction_per_migration=True, on_version_apply=tell)
with context.begin_transaction():
    context.run_migrations()
