"""Alembic's way in: runs the migrations on the connection that the service has opened.

https://alembic.sqlalchemy.org/en/latest/cookbook.html, "Sharing a Connection across one or more
programmatic migration commands".
"""

from alembic import context

from services.policy.outbound.database import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
