"""Run by Alembic: apply the versions on the connection that `database.migrate` hands over."""

from alembic import context

from gpu_server.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,  # all of an upgrade or none of it
    render_as_batch=True,  # SQLite alters a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
