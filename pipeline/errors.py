"""The one exception a user meets: one line saying where, what, and what to do."""

from __future__ import annotations

EXIT_CODE = 2


class UserError(Exception):
    """A mistake the user can mend. The command line prints it as one line and exits with 2.

    Args:
        where: the file, line or configuration key at fault, such as ``rankings.jsonl:7``.
        problem: what is wrong, with the value that was found.
        fix: what to do about it, as an imperative.
    """

    def __init__(self, where: object, problem: str, fix: str) -> None:
        self.where = str(where)
        self.problem = problem
        self.fix = fix
        super().__init__(f"{self.where}: {problem} Fix: {fix}")
