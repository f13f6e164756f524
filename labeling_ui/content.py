"""One hash over what a label database would export, cheap enough for ``align status``.

Only the standard library is imported here, so that the command line can tell whether labels have
changed without loading an ORM. Notes and times are no part of it: they do not leave the database.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

_JUDGMENTS = """
SELECT task.identity, submission.id, labeler.pseudonym, submission.confirmed_contradiction,
       submission.confidence, submission.display_order, submission.instructions_version,
       judgment.position, judgment.rating, judgment.rank, judgment.answers
FROM judgment
JOIN submission ON submission.id = judgment.submission_id
JOIN task ON task.id = submission.task_id
JOIN labeler ON labeler.id = submission.labeler_id
WHERE task.active AND labeler.active AND NOT (
    labeler.scripted AND (
        EXISTS (SELECT 1 FROM submission AS other JOIN labeler AS person
                ON person.id = other.labeler_id
                WHERE other.task_id = task.id AND person.active AND NOT person.scripted)
        OR EXISTS (SELECT 1 FROM skipped_task AS other JOIN labeler AS person
                   ON person.id = other.labeler_id
                   WHERE other.task_id = task.id AND person.active AND NOT person.scripted)
    )
)
"""

_SKIPS = """
SELECT task.identity, skipped_task.id, labeler.pseudonym, skipped_task.reason
FROM skipped_task
JOIN task ON task.id = skipped_task.task_id
JOIN labeler ON labeler.id = skipped_task.labeler_id
WHERE task.active AND labeler.active
"""


def hash_content(rows_of: Callable[[str], Iterable[Sequence[Any]]]) -> str:
    """A SHA-256 in hexadecimal, the same for the same labels in whatever order they are stored.

    Args:
        rows_of: runs a query and gives its rows.
    """
    digest = hashlib.sha256()
    for query in (_JUDGMENTS, _SKIPS):
        for line in sorted(_canonical(row) for row in rows_of(query)):
            digest.update(line.encode() + b"\n")
        digest.update(b"\n")
    return digest.hexdigest()


def _canonical(row: Sequence[Any]) -> str:
    return json.dumps([_decoded(value) for value in row], sort_keys=True)


def _decoded(value: Any) -> Any:
    """JSON columns come as text from SQLite's driver and as objects from others."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, bool) else value


def sqlite_content_hash(path: str | Path) -> str | None:
    """``Store.content_hash()`` of a SQLite file without opening a store; None if there is none.

    Raises:
        UserError: the file is no label database.
    """
    if not Path(path).exists() or not Path(path).stat().st_size:  # created and then killed
        return None
    try:
        with closing(sqlite3.connect(Path(path).absolute(), timeout=30)) as connection:
            return hash_content(lambda query: connection.execute(query))
    except sqlite3.Error as error:
        fix = "restore the file from a copy, or name another one as label.database."
        raise UserError(path, f"is no usable label database ({error}).", fix) from None
