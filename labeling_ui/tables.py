"""The tables of the label database. Row ids never leave it; what is exported is in ``store``.

A task is a prompt with its K responses. An assignment shows it to one labeler in one shuffled
order and leases it to them for a while; a submission or a skip ends it. Positions are canonical
(the order of ``samples.jsonl``). Changes to the tables are steps in ``migrations/versions``.
"""

from __future__ import annotations

import re
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    Dialect,
    ForeignKey,
    Index,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

KNOWN_KINDS = ("practice", "gold")  # of tasks whose answer is known


class Verbatim(TypeDecorator[str]):
    """Any text as it is. PostgreSQL has no NUL: it is stored as ESC 0, and ESC as ESC ESC."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        """What is stored."""
        return value and value.replace("\x1b", "\x1b\x1b").replace("\0", "\x1b0")

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        """What was given."""
        meant = {"\x1b\x1b": "\x1b", "\x1b0": "\0"}
        return value and re.sub("\x1b[\x1b0]", lambda found: meant[found[0]], value)


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


class Labeler(Base):
    """Who judges. ``name`` stays in the database; ``pseudonym`` is what an export carries.

    A labeler who is not active is a scripted one of an earlier configuration: its judgments are
    kept, but they neither count as done nor leave the database. A disabled one is a person who may
    not sign in any more, and whose judgments count. ``password_hash`` is Argon2's, None until the
    labeler has chosen a password. ``practiced_at``: when they passed the practice, None before.
    """

    __tablename__ = "labeler"
    __table_args__ = (CheckConstraint("role IN ('labeler', 'lead', 'admin')", name="role"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    pseudonym: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str] = mapped_column(default="labeler")
    password_hash: Mapped[str | None]
    scripted: Mapped[bool] = mapped_column(default=False)
    active: Mapped[bool] = mapped_column(default=True)
    disabled: Mapped[bool] = mapped_column(default=False)
    practiced_at: Mapped[str | None]
    created_at: Mapped[str]


class SignInLink(Base):
    """A one-time link; only the SHA-256 of its token is kept.

    ``purpose`` is ``enter`` (signs in at once) or ``invite`` (lets the labeler choose a password).
    """

    __tablename__ = "sign_in_link"
    token_sha256: Mapped[str] = mapped_column(primary_key=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"))
    purpose: Mapped[str]
    expires_at: Mapped[float]
    used_at: Mapped[float | None]


class SignInSession(Base):
    """A browser that is signed in. Only the SHA-256 of its cookie is kept."""

    __tablename__ = "sign_in_session"
    sid_sha256: Mapped[str] = mapped_column(primary_key=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), index=True)
    expires_at: Mapped[float]


class SignInFailures(Base):
    """Wrong passwords in a row, by account or by address: what sign-in is slowed down by."""

    __tablename__ = "sign_in_failures"
    key: Mapped[str] = mapped_column(primary_key=True)
    count: Mapped[int]
    last_at: Mapped[float]


class Guideline(Base):
    """The instructions and yes/no questions in force; ``version`` is a hash of all of it."""

    __tablename__ = "guideline"
    version: Mapped[str] = mapped_column(primary_key=True)
    purpose: Mapped[str]
    instructions: Mapped[str]
    questions: Mapped[dict[str, str]]
    created_at: Mapped[str]


class Task(Base):
    """A prompt with its responses. ``identity`` is a hash of all that is judged.

    An inactive task belongs to samples that are no longer current: it is neither shown nor
    exported, and comes back with its judgments when its samples do.

    It is complete when ``overlap`` people have ended it, and then goes to nobody else, unless it
    is ``shared``: that one goes to everybody. ``judged`` and ``skipped`` count the people who have
    ended it; they are counted anew whenever one does.

    ``kind``: ``sampled`` tasks are the run's own; ``imported`` ones came with judgments from a file
    and are shown to nobody; ``practice`` and ``gold`` ones have an answer that is known
    (``KnownAnswer``): every labeler gets them, and they are neither counted nor exported.
    ``round``: the how-manieth set of samples brought it.
    """

    __tablename__ = "task"
    __table_args__ = (Index("ix_task_queue", "active", "kind", "priority", "position"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    identity: Mapped[str] = mapped_column(unique=True)
    prompt_id: Mapped[str]
    prompt: Mapped[str] = mapped_column(Verbatim)
    position: Mapped[int] = mapped_column(index=True)
    kind: Mapped[str] = mapped_column(default="sampled", server_default="sampled")
    round: Mapped[int] = mapped_column(default=1, server_default="1")
    active: Mapped[bool] = mapped_column(default=True)
    priority: Mapped[int] = mapped_column(default=0)
    overlap: Mapped[int] = mapped_column(default=1)
    shared: Mapped[bool] = mapped_column(default=False)
    judged: Mapped[int] = mapped_column(default=0)
    skipped: Mapped[int] = mapped_column(default=0)
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
    text: Mapped[str] = mapped_column(Verbatim)
    policy: Mapped[str]
    finished: Mapped[bool]


class KnownAnswer(Base):
    """What a practice or gold task should be judged like, by canonical place; ``why`` in words."""

    __tablename__ = "known_answer"
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"), primary_key=True)
    ratings: Mapped[list[int]]
    ranks: Mapped[list[int]]
    answers: Mapped[dict[str, Any]]
    why: Mapped[str | None] = mapped_column(Verbatim)


class Assignment(Base):
    """A task as one labeler sees it: ``display_order[i]`` is the position of the i-th shown.

    ``lease`` is the random name by which the labeler's browser calls it. It keeps the task from
    others between ``leased_at`` and ``expires_at`` (seconds since the epoch); a time that lies
    ahead of the clock keeps nothing, since then the clock was wrong. ``draft`` is unfinished work,
    the ``draft_seq``-th that the page ``draft_page`` sent. ``ended_at``: when it was submitted or
    skipped.
    """

    __tablename__ = "assignment"
    __table_args__ = (UniqueConstraint("task_id", "labeler_id"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    task_id: Mapped[int] = mapped_column(ForeignKey("task.id"))
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), index=True)
    display_order: Mapped[list[int]]
    lease: Mapped[str] = mapped_column(unique=True)
    leased_at: Mapped[float]
    expires_at: Mapped[float]
    ended_at: Mapped[float | None]
    draft: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    draft_page: Mapped[str | None]
    draft_seq: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[str]
    task: Mapped[Task] = relationship()
    labeler: Mapped[Labeler] = relationship()


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
    note: Mapped[str | None] = mapped_column(Verbatim)
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
    note: Mapped[str | None] = mapped_column(Verbatim)
    created_at: Mapped[str]
    task: Mapped[Task] = relationship()
    labeler: Mapped[Labeler] = relationship()


class Demonstration(Base):
    """A response that a labeler wrote, or is writing.

    ``task_id``: the task whose prompt it answers, None where the labeler wrote the prompt, too.
    ``kind``: ``given`` for a task's prompt; an own one is ``plain``, ``few-shot`` or ``user-based``
    (Ouyang et al. 2022, section 3.2). ``edited_from``: the response_id of the sampled response that
    it was begun with. ``state``: ``draft``, ``done``, ``skipped``, ``withdrawn``, or ``replaced``
    by a later text. An edit is a draft of its own, ``<id>.<hex>``: what was done stays so until the
    edit is. While it is a draft, ``leased_at`` and ``expires_at`` keep the prompt from others, as
    an assignment's do. ``draft_page`` and ``draft_seq``: as an assignment's.
    """

    __tablename__ = "demonstration"
    id: Mapped[str] = mapped_column(primary_key=True)
    labeler_id: Mapped[int] = mapped_column(ForeignKey("labeler.id"), index=True)
    task_id: Mapped[int | None] = mapped_column(ForeignKey("task.id"), index=True)
    kind: Mapped[str]
    prompt: Mapped[str] = mapped_column(Verbatim)
    response: Mapped[str] = mapped_column(Verbatim)
    edited_from: Mapped[str | None]
    state: Mapped[str]
    imported: Mapped[bool] = mapped_column(default=False)
    seconds: Mapped[float | None]
    draft_page: Mapped[str | None]
    draft_seq: Mapped[int] = mapped_column(default=0)
    leased_at: Mapped[float]
    expires_at: Mapped[float]
    created_at: Mapped[str]
    task: Mapped[Task | None] = relationship()
    labeler: Mapped[Labeler] = relationship()


class Event(Base):
    """What was done to labels and accounts, and by whom; rows are only ever added.

    A judgment that its labeler took back stands here whole, in ``detail``.
    """

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(primary_key=True)
    at: Mapped[str]
    labeler_id: Mapped[int | None] = mapped_column(ForeignKey("labeler.id"), index=True)
    action: Mapped[str]
    detail: Mapped[dict[str, Any]]
