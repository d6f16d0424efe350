"""Alembic's door: runs the versions on the connection that `service.database` hands over."""

from alembic import context

from opensafely_lab.site.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transactional_ddl=True,
    render_as_batch=True,
)
context.run_migrations()
