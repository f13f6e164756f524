"""The measures of quality as the dashboard shows them: read, computed, and with names and texts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeling_ui import tables
from labeling_ui.dashboard_progress import EXCERPT_CHARACTERS
from labeling_ui.judgments import read_judgments
from labeling_ui.store import Store
from labeling_ui.tables import Assignment, Guideline, KnownAnswer, Labeler, Submission, Task
from pipeline.label_quality import QualityReport, quality_report
from pipeline.label_spread import Spread, label_spread


@dataclass(frozen=True)
class Quality:
    """A report with what its pseudonyms, questions and tasks stand for.

    Attributes:
        names: of all labelers, by pseudonym.
        questions: texts by key.
        prompts: beginnings of the prompts of the tasks that the report names, by identity.
    """

    report: QualityReport
    spread: Spread
    names: Mapping[str, str]
    questions: Mapping[str, str]
    prompts: Mapping[str, str]


def read_stamp(store: Store) -> object:
    """What changes whenever the judgments do, without reading them."""
    with store.reading() as session:
        parts: Any = (
            select(func.count(), func.max(Submission.created_at)).select_from(Submission),
            select(func.count(Assignment.ended_at), func.max(Assignment.ended_at)),
            select(func.count(), func.sum(Task.judged)).where(Task.active),
            select(func.count(), func.max(KnownAnswer.task_id)).select_from(KnownAnswer),
            select(Labeler.pseudonym, Labeler.name, Labeler.active).order_by(Labeler.id),
        )
        return [session.execute(query).tuples().all() for query in parts]


def read_quality(store: Store) -> Quality:
    """All measures, from what the database holds now. Reads alone."""
    with store.reading() as session:
        judgments = read_judgments(session, gold=True)
    report, spread = quality_report(judgments), label_spread(judgments)
    del judgments  # before anything else needs room
    with store.reading() as session:
        names = session.execute(select(Labeler.pseudonym, Labeler.name)).tuples().all()
        return Quality(
            report=report,
            spread=spread,
            names=dict(names),
            questions=_questions(session),
            prompts=dict(_prompts(session, set(_named(report)))),
        )


def _questions(session: Session) -> dict[str, str]:
    used = select(Task.guideline_version).where(Task.active)
    query = select(Guideline.questions).where(Guideline.version.in_(used))
    questions: dict[str, str] = {}
    for asked in session.scalars(query.order_by(Guideline.created_at)):
        questions |= asked
    return questions


def _named(report: QualityReport) -> Iterator[str]:
    """The tasks that a report names."""
    for disagreement in report.disagreements:
        yield disagreement.task
    for flagged in report.flagged.values():
        for response in flagged.responses:
            yield response.task


def _prompts(session: Session, identities: Collection[str]) -> Sequence[tuple[str, str]]:
    excerpt = func.substr(Task.prompt, 1, EXCERPT_CHARACTERS, type_=tables.Verbatim())
    rows = session.execute(select(Task.identity, excerpt).where(Task.identity.in_(identities)))
    return rows.tuples().all()
