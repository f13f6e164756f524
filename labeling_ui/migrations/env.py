"""What alembic runs: the steps that are missing, on the connection it was given."""

from __future__ import annotations

from alembic import context

from labeling_ui.database import VERSION_TABLE
from labeling_ui.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite cannot alter a table: it is copied
)
context.run_migrations()
