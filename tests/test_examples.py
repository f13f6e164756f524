"""The example gold file: a lead would stand by it, and so does the world's own rubric."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

from labeling_ui.known_tasks import read_gold
from pipeline.tinyworld import Rubric, build_world

GOLD = Path(__file__).parents[1] / "examples" / "gold_tinyworld.jsonl"


def test_the_gold_tasks_are_ordered_as_the_rubric_orders_them() -> None:
    rubric = Rubric(build_world(0))
    for row in read_gold(GOLD):
        verdicts = [rubric.judge(row.prompt, r.text, r.finished) for r in row.responses]
        for question, answers in row.answers.items():
            assert answers == [verdict.flags[question] for verdict in verdicts], row.prompt_id
        # Facts differ from run to run, and no labeler can know them.
        taken_off = [
            sum(points for name, points in verdict.penalties.items() if name != "wrong_fact")
            for verdict in verdicts
        ]
        for a, b in combinations(range(len(row.ranks)), 2):
            better = (taken_off[a] > taken_off[b]) - (taken_off[a] < taken_off[b])
            said = (row.ranks[a] > row.ranks[b]) - (row.ranks[a] < row.ranks[b])
            assert better * said >= 0, (row.prompt_id, a, b)
