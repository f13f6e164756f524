"""Samples as tasks: how many people judge each, and in which order, as the config says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labeling_ui.store import Store
from pipeline.label_config import LabelSection
from pipeline.records import Prompt, SampleSet


def add_tasks(
    store: Store,
    samples: Sequence[SampleSet],
    prompts: Sequence[Prompt],
    section: LabelSection,
    questions: Mapping[str, str],
) -> int:
    """The number of tasks that were new; exactly these samples are current afterwards."""
    return store.add_tasks(
        samples,
        questions,
        section.instructions_told,
        purpose=section.purpose,
        overlap=section.overlap,
        shared_fraction=section.shared_fraction,
        priorities={prompt.prompt_id: prompt.priority for prompt in prompts},
    )
