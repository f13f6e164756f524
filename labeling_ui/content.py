"""One hash over what a label database would export, cheap enough for ``align status``.

Only the standard library is imported here, so that the command line can tell whether labels have
changed without loading an ORM. Notes and times are no part of it: they do not leave the database.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

_IN_USE = "task.active AND task.kind NOT IN ('practice', 'gold')"

# JSON is compared as the text that was stored, which both kinds of database keep.
_JUDGMENTS = """
SELECT task.identity, submission.id, labeler.pseudonym,
       CAST(submission.confirmed_contradiction AS INTEGER), submission.confidence,
       CAST(submission.display_order AS TEXT), submission.instructions_version,
       judgment.position, judgment.rating, judgment.rank, CAST(judgment.answers AS TEXT)
FROM judgment
JOIN submission ON submission.id = judgment.submission_id
JOIN task ON task.id = submission.task_id
JOIN labeler ON labeler.id = submission.labeler_id
WHERE {in_use} AND labeler.active AND NOT (
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
WHERE {in_use} AND labeler.active
"""

DEMONSTRATIONS = """
SELECT demonstration.id, labeler.pseudonym, demonstration.kind, demonstration.edited_from,
       demonstration.prompt, demonstration.response
FROM demonstration
JOIN labeler ON labeler.id = demonstration.labeler_id
WHERE demonstration.state = 'done' AND labeler.active
"""


def hash_content(
    rows_of: Callable[[str], Iterable[Sequence[Any]]], *, earliest_tables: bool = False
) -> str:
    """A SHA-256 in hexadecimal, the same for the same labels in whatever order they are stored.

    The rows' hashes are added up, so that neither memory nor an order is needed for them.

    Args:
        rows_of: runs a query and gives its rows, whose last value is a text.
        earliest_tables: the tables are those of revision 0001, without kinds of tasks and without
            demonstrations; the hash is that which the next revision's have.
    """
    in_use = "task.active" if earliest_tables else _IN_USE
    queries = [_JUDGMENTS.format(in_use=in_use), _SKIPS.format(in_use=in_use)]
    queries += [] if earliest_tables else [DEMONSTRATIONS]
    sums = [_sum_of_hashes(rows_of(query)) for query in queries] + [0] * (3 - len(queries))
    return hashlib.sha256(ascii(sums).encode()).hexdigest()


def _sum_of_hashes(rows: Iterable[Sequence[Any]]) -> int:
    total = 0
    for *values, text in rows:
        # ascii() writes no line break, and the same in every version of Python; it is too slow for
        # the text, which comes last.
        line = f"{values!a}\n{text}".encode()
        total += int.from_bytes(hashlib.sha256(line).digest(), "big")
    return total % 2**256


def sqlite_content_hash(path: str | Path) -> str | None:
    """``Store.content_hash()`` of a SQLite file without opening a store; None if there is none.

    Raises:
        UserError: the file is no label database.
    """
    if not Path(path).exists() or not Path(path).stat().st_size:  # created and then killed
        return None
    try:
        with closing(sqlite3.connect(Path(path).absolute(), timeout=30)) as connection:
            connection.execute("BEGIN")  # one state of the database for all queries
            names = "SELECT 1 FROM sqlite_master WHERE name = 'demonstration'"
            earliest = connection.execute(names).fetchone() is None
            return hash_content(connection.execute, earliest_tables=earliest)
    except sqlite3.Error as error:
        fix = "restore the file from a copy, or name another one as label.database."
        raise UserError(path, f"is no usable label database ({error}).", fix) from None
