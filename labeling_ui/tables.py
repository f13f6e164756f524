"""The tables of the label database. Row ids never leave it; what is exported is in ``store``.

A task is a prompt with its K responses. An assignment shows it to one labeler in one shuffled
order; a submission or a skip ends it. Positions are canonical (the order of ``samples.jsonl``).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, CheckConstraint, ForeignKey, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

SCHEMA_VERSION = "1"


class Base(DeclarativeBase):
    """Constraint names are fixed so that a later migration can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {dict[str, Any]: JSON, dict[str, str]: JSON, list[int]: JSON}


class StoreInfo(Base):
    """What tells a label database from any other: the row ``schema_version``."""

    __tablename__ = "store_info"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class Labeler(Base):
    """Who judges. ``name`` stays in the database; ``pseudonym`` is what an export carries.

    A labeler who is not active is a scripted one of an earlier configuration: its judgments are
    kept, but they neither count as done nor leave the database.
    """

    __tablename__ = "labeler"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    pseudonym: Mapped[str] = mapped_column(unique=True)
    scripted: Mapped[bool] = mapped_column(default=False)
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[str]


class SignInLink(Base):
    """A one-time link. Only the SHA-256 of its token is kept."""

    __tablename__ = "sign_in_link"
    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"))
    expires_at: Mapped[float]
    used_at: Mapped[float | None]


class SignInSession(Base):
    """A browser that is signed in. Only the SHA-256 of its cookie is kept."""

    __tablename__ = "sign_in_session"
    sid_sha256: Mapped[str] = mapped_column(primary_key=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"))
    expires_at: Mapped[float]


class Guideline(Base):
    """The instructions and yes/no questions in force; ``version`` is a hash of both."""

    __tablename__ = "guideline"
    version: Mapped[str] = mapped_column(primary_key=True)
    instructions: Mapped[str]
    questions: Mapped[dict[str, str]]
    created_at: Mapped[str]


class Task(Base):
    """A prompt with its responses. ``identity`` is a hash of all that is judged.

    An inactive task belongs to samples that are no longer current: it is neither shown nor
    exported, and comes back with its judgments when its samples do.
    """

    __tablename__ = "task"
    id: Mapped[int] = mapped_column(primary_key=True)
    identity: Mapped[str] = mapped_column(unique=True)
    prompt_id: Mapped[str]
    prompt: Mapped[str]
    position: Mapped[int] = mapped_column(index=True)
    active: Mapped[bool] = mapped_column(default=True)
    guideline_version: Mapped[str | None] = mapped_column(ForeignKey("guideline.version"))
    created_at: Mapped[str]
    responses: Mapped[list[Response]] = relationship(order_by="Response.position")
    guideline: Mapped[Guideline | None] = relationship()


class Response(Base):
    """One response of a task. ``policy`` is never sent to a browser."""

    __tablename__ = "response"
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    response_id: Mapped[str]
    text: Mapped[str]
    policy: Mapped[str]
    finished: Mapped[bool]


class Assignment(Base):
    """A task as one labeler sees it: ``display_order[i]`` is the position of the i-th shown."""

    __tablename__ = "assignment"
    __table_args__ = (UniqueConstraint("task_id", "labeler_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), index=True)
    display_order: Mapped[list[int]]
    created_at: Mapped[str]


class Submission(Base):
    """One labeler's judgment of one task, whole."""

    __tablename__ = "submission"
    __table_args__ = (UniqueConstraint("task_id", "labeler_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), index=True)
    imported: Mapped[bool] = mapped_column(default=False)
    confirmed_contradiction: Mapped[bool]
    confidence: Mapped[str | None]
    note: Mapped[str | None]
    seconds: Mapped[float | None]
    display_order: Mapped[list[int] | None]
    instructions_version: Mapped[str | None]
    created_at: Mapped[str | None]
    task: Mapped[Task] = relationship()
    labeler: Mapped[Labeler] = relationship()
    judgments: Mapped[list[Judgment]] = relationship(
        order_by="Judgment.position", cascade="all, delete-orphan"
    )


class Judgment(Base):
    """What a submission says of one response. ``answers`` maps a question to true, false, null."""

    __tablename__ = "judgment"
    __table_args__ = (
        CheckConstraint("rating BETWEEN 1 AND 7", name="rating"),
        CheckConstraint("rank >= 1", name="rank"),
    )
    submission_id: Mapped[str] = mapped_column(ForeignKey("submission.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    rating: Mapped[int]
    rank: Mapped[int]
    answers: Mapped[dict[str, Any]]


class SkippedTask(Base):
    """A task that a labeler would not judge, and why."""

    __tablename__ = "skipped_task"
    __table_args__ = (UniqueConstraint("task_id", "labeler_id"),)
    id: Mapped[str] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), index=True)
    reason: Mapped[str]
    note: Mapped[str | None]
    created_at: Mapped[str]
    task: Mapped[Task] = relationship()
    labeler: Mapped[Labeler] = relationship()
