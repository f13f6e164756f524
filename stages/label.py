"""Collects the rankings of the sampled responses: from a script, the browser, or a file.

    python -m stages.label configs/quickstart.yaml
    accelerate launch -m stages.label configs/quickstart.yaml

Reads samples and data; writes labels/ (``rankings.jsonl``, ``skips.jsonl``,
``demonstrations.jsonl``), the export of the label database ``runs/<name>/labels.db``. With source
``browser`` it stops while tasks are open: people judge them with ``align label``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from labeling_ui.desk import Desk
from labeling_ui.store import Store, Task, open_store
from labeling_ui.tasks import add_tasks
from pipeline.artifacts import read_manifest
from pipeline.config import RunConfig
from pipeline.errors import UserError
from pipeline.judges import Judge, OverlapJudge, RubricJudge, ScriptedLabeler, make_labelers
from pipeline.label_config import INSTRUCTGPT_QUESTIONS
from pipeline.records import Prompt, Ranking, SampleSet, read_rows
from pipeline.stage_context import CONFIG_FILE, StageContext, open_stage
from pipeline.tinyworld import QUESTIONS, build_world
from stages.chain import STORE_FILE, store_digest
from stages.cli import stage_main

VERSION = 1
TASKS_AT_ONCE = 50  # scripted judgments in one transaction


class LabelsPending(Exception):  # noqa: N818 (waiting is no error)
    """Tasks are open that people have to judge: not an error, but the run cannot go on.

    Args:
        open_count: how many tasks are open.
        database: where they are.
        run_folder: the run that waits.
    """

    def __init__(self, open_count: int, database: str | Path, run_folder: Path) -> None:
        self.open_count = open_count
        self.database = str(database)
        tasks = "1 task is" if open_count == 1 else f"{open_count} tasks are"
        config = run_folder / CONFIG_FILE
        super().__init__(
            f"{tasks} open for labeling in the browser: align label {config}. "
            f"Then go on with: align run {config}"
        )


def run(config: RunConfig, run_folder: Path) -> None:
    """Completes the label database and publishes its export as ``labels/``.

    Raises:
        LabelsPending: source is browser and tasks are open; nothing is published.
        UserError: the database or the file of labels is unusable, or holds no ranking.
    """
    section = config.label
    database = section.database or run_folder / STORE_FILE
    refuse_lost_store(config, run_folder)
    with open_stage("label", config, run_folder) as stage, closing(open_store(database)) as store:
        path = stage.input("samples") / "samples.jsonl"
        if section.file is not None:
            import_file(store, stage.data_root / section.file)
        else:
            samples = read_rows(path, SampleSet)
            prompts = read_rows(stage.input("data") / "prompts.jsonl", Prompt)
            asked = label_questions(config)
            add_tasks(store, samples, prompts, config.label, asked, stage.data_root)
            if section.source == "scripted":
                label_by_script(store, samples, stage)
            else:
                store.keep_scripted([])
        open_count = store.progress().open
        if open_count:
            raise LabelsPending(open_count, database, run_folder)
        # Before the export: a label that comes in between makes labels/ stale, not lost.
        stage.record_input("store", store.content_hash())
        counts = store.export(stage.output)
        if not counts["rankings.jsonl"]:
            raise UserError(database, "holds no ranking.", "judge at least one task.")


def refuse_lost_store(config: RunConfig, run_folder: Path) -> None:
    """Stops a run whose label database is gone: ``labels/`` may be the last copy of people's work.

    Raises:
        UserError: labels were published from a database that is not there.
    """
    published = read_manifest(run_folder / "labels")
    if published is None or "store" not in published.inputs:
        return
    if store_digest(config, run_folder) is None:
        raise UserError(
            config.label.database or run_folder / STORE_FILE,
            "is gone, but labels/ was exported from it.",
            "restore it; to label from the beginning, delete labels/.",
        )


def label_questions(config: RunConfig) -> dict[str, str]:
    """The yes/no questions of a run: the configured ones, else those of the embedded world, else
    InstructGPT's, which no script can answer."""
    if config.label.questions is not None:
        return config.label.questions
    if config.data.tinyworld is not None:
        return QUESTIONS
    return INSTRUCTGPT_QUESTIONS if config.label.source == "browser" else {}


def import_file(store: Store, path: Path) -> None:
    """The rankings of a file become the store's only ones that are current."""
    rankings = read_rows(path, Ranking)
    with store.together():  # a bad row leaves the store as it was
        store.add_tasks([], {}, "")
        store.keep_scripted([])
        store.import_rankings(rankings)


def label_by_script(store: Store, samples: Sequence[SampleSet], stage: StageContext) -> None:
    """Scripted labelers judge every open task, in turns by the order of the tasks.

    Judgments of scripted labelers of another configuration are set aside; people's are kept.
    """
    section = stage.config.label
    path = stage.input("data") / "prompts.jsonl"
    prompts = {prompt.prompt_id: prompt for prompt in read_rows(path, Prompt)}
    by_responses = {(s.prompt_id, *(r.response_id for r in s.responses)): s for s in samples}
    scripted = make_labelers(section.labelers, _judge(stage.config), stage.seed)
    names = [_account_name(labeler, stage) for labeler in scripted]
    accounts = [store.add_labeler(name, _pseudonym(name), scripted=True).id for name in names]
    store.keep_scripted(names)
    desk = Desk(store)
    turns = _turns(store, len(scripted))
    with stage.progress(len(turns), "judgments") as progress:
        for start in range(0, len(turns), TASKS_AT_ONCE):
            batch = turns[start : start + TASKS_AT_ONCE]
            with store.together():
                for task_id, turn in batch:
                    task = desk.take(accounts[turn], task_id)
                    if task is not None:  # else it has judged this one before
                        _judge_task(
                            desk, accounts[turn], scripted[turn], task, by_responses, prompts
                        )
            progress.advance(len(batch))


def _turns(store: Store, labelers: int) -> list[tuple[int, int]]:
    """Who judges what, as ``(task, labeler)``: in turns by the order of the tasks.

    A task that needs several goes to those that follow until it has them, a shared one to all.
    """
    turns = [
        (task.task_id, (task.position + place) % labelers)
        for task in store.unfinished()
        for place in range(labelers if task.overlap > 1 else 1)
    ]
    return turns + [(task, turn) for task in store.shared_tasks() for turn in range(labelers)]


def _judge_task(
    desk: Desk,
    labeler_id: int,
    labeler: ScriptedLabeler,
    task: Task,
    samples: Mapping[tuple[str, ...], SampleSet],
    prompts: Mapping[str, Prompt],
) -> None:
    ids = task.canonical([response.response_id for response in task.responses])
    sample = samples[(task.prompt_id, *ids)]
    responses = [(response.text, response.finished) for response in sample.responses]
    judgement = labeler.label(_prompt_of(sample, prompts), responses)
    desk.submit(
        labeler_id,
        task.lease,
        ratings=task.displayed(judgement.ratings),
        ranks=task.displayed(judgement.ranks),
        answers={k: task.displayed(v) for k, v in judgement.answers.items() if k in task.questions},
        seconds=judgement.seconds,
    )


def _judge(config: RunConfig) -> Judge:
    if config.label.judge == "overlap":
        return OverlapJudge()
    return RubricJudge(build_world(config.seed))


def _prompt_of(sample: SampleSet, prompts: Mapping[str, Prompt]) -> Prompt:
    prompt = prompts.get(sample.prompt_id)
    if prompt is None or prompt.prompt != sample.prompt:
        raise UserError(
            f"prompt {sample.prompt_id}",
            "stands in samples but not in data/prompts.jsonl.",
            "sample again from the current data.",
        )
    return prompt


def _account_name(labeler: ScriptedLabeler, stage: StageContext) -> str:
    """A name that changes with everything a scripted label depends on but the task."""
    section = stage.config.label
    told = json.dumps([section.instructions_told, list(label_questions(stage.config).items())])
    guideline = hashlib.sha256(told.encode()).hexdigest()[:8]
    settings = (section.judge, stage.config.seed, section.labelers, guideline, VERSION)
    return f"{labeler.name} {'/'.join(str(value) for value in settings)}"


def _pseudonym(name: str) -> str:
    return f"{name.split()[0]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


if __name__ == "__main__":
    stage_main("label")
