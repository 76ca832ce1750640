"""Alembic's script for migrating a store, on the connection and in the transaction of `paretune.serving.store.database`."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
with context.begin_transaction():
    context.run_migrations()
