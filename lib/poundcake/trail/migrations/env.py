"""What Alembic runs its revisions in. The connection comes from poundcake.trail.migrations."""

from alembic import context
from sqlalchemy import text

# Written out, as in the revisions: schema.py goes on changing.
_UPDATE = text("UPDATE poundcake_meta SET value = :value WHERE name = 'schema'")
_INSERT = text("INSERT INTO poundcake_meta (name, value) VALUES ('schema', :value)")


def note(ctx, step, **_):
    """poundcake_meta says it too, in the same transaction: it is what the pack reads."""
    value = {"value": str(int(step.up_revision_id))}
    if not ctx.connection.execute(_UPDATE, value).rowcount:
        ctx.connection.execute(_INSERT, value)
    if not step.is_stamp:
        context.config.attributes["applied"](step.up_revision)


connection = context.config.attributes["connection"]
if connection.dialect.name != "sqlite":
    # Alembic only commits transactions that it began. On SQLite the caller's is the one for all.
    connection.commit()
context.configure(connection=connection, transaction_per_migration=True, on_version_apply=note)
with context.begin_transaction():
    context.run_migrations()
