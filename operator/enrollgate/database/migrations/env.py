"""Alembic's entry: runs the migrations on the connection that `migrate` opened."""

from alembic import context

configuration = context.config
context.configure(
    connection=configuration.attributes["connection"],
    version_table=configuration.attributes["version_table"],
    target_metadata=None,
)
context.run_migrations()
