"""Samples as tasks: how many people judge each, and in which order, as the config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from labeling_ui.known_tasks import read_gold
from labeling_ui.store import Store
from pipeline.label_config import LabelSection
from pipeline.records import Prompt, SampleSet


def add_tasks(
    store: Store,
    samples: Sequence[SampleSet],
    prompts: Sequence[Prompt],
    section: LabelSection,
    questions: Mapping[str, str],
    data_root: str | Path = ".",
) -> int:
    """The number of tasks that were new; exactly these samples are current afterwards.

    Raises:
        UserError: the gold file below ``data_root`` is unusable.
    """
    gold = [] if section.gold is None else read_gold(Path(data_root) / section.gold)
    with store.together():
        count = store.add_tasks(
            samples,
            questions,
            section.instructions_told,
            purpose=section.purpose,
            overlap=section.overlap,
            shared_fraction=section.shared_fraction,
            priorities={prompt.prompt_id: prompt.priority for prompt in prompts},
        )
        store.add_known_tasks(gold, section.practice_tasks)
    return count
