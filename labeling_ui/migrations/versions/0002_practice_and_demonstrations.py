"""Practice and gold tasks, demonstrations, rounds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# What came with its judgments from a file and was never shown to anybody.
_MARK_IMPORTED = """
UPDATE task SET kind = 'imported'
WHERE EXISTS (SELECT 1 FROM submission WHERE submission.task_id = task.id AND submission.imported)
AND NOT EXISTS (SELECT 1 FROM assignment WHERE assignment.task_id = task.id)
"""


def upgrade() -> None:
    op.add_column("labeler", sa.Column("practiced_at", sa.String(), nullable=True))
    op.add_column("task", sa.Column("kind", sa.String(), server_default="sampled", nullable=False))
    op.add_column("task", sa.Column("round", sa.Integer(), server_default="1", nullable=False))
    op.drop_index("ix_task_queue", "task")
    op.create_index("ix_task_queue", "task", ["active", "kind", "priority", "position"])
    op.execute(_MARK_IMPORTED)
    op.create_table(
        "known_answer",
        sa.Column("task_id", sa.Integer(), nullable=False),
        sa.Column("ratings", sa.JSON(), nullable=False),
        sa.Column("ranks", sa.JSON(), nullable=False),
        sa.Column("answers", sa.JSON(), nullable=False),
        sa.Column("why", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_known_answer_task_id")),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_known_answer")),
    )
    op.create_table(
        "demonstration",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("labeler_id", sa.Integer(), nullable=False),
        sa.Column("task_id", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("edited_from", sa.String(), nullable=True),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("imported", sa.Boolean(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=True),
        sa.Column("draft_page", sa.String(), nullable=True),
        sa.Column("draft_seq", sa.Integer(), nullable=False),
        sa.Column("leased_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("created_at", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(
            ["labeler_id"], ["labeler.id"], name=op.f("fk_demonstration_labeler_id")
        ),
        sa.ForeignKeyConstraint(["task_id"], ["task.id"], name=op.f("fk_demonstration_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_demonstration")),
    )
    for column in ("labeler_id", "task_id"):
        op.create_index(op.f(f"ix_demonstration_{column}"), "demonstration", [column])
