"""Labels that come in: all or none, nothing twice, and out again as they came."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from labeling_ui import exports
from labeling_ui.accounts import Accounts
from labeling_ui.desk import Desk
from labeling_ui.imports import Imported
from labeling_ui.store import Progress, Store, open_store
from labeling_ui.tables import Assignment, Event, Labeler, Task
from pipeline.errors import UserError
from pipeline.label_export import write_ours, write_summary, write_trl
from pipeline.label_import import LabelFiles, read_kwise, read_ours, read_trl
from pipeline.records import Demonstration, Ranking, Skip, read_rows, write_dicts, write_rows
from tests.labeling_ui.conftest import Places
from tests.labeling_ui.judging import QUESTIONS, filled, judge, sample_set, shown
from tests.labeling_ui.test_exports import worked_on


def export(store: Store, folder: Path, selection: exports.Selection = exports.CURRENT) -> bytes:
    """The bytes of all files of an export, names included."""
    folder.mkdir()
    with store.reading() as session:
        counts = write_ours(
            folder,
            exports.rankings(session, selection),
            exports.skips(session, selection, with_responses=True),
            exports.demonstrations(session, selection),
            lambda versions: exports.guidelines(session, versions),
        )
    write_summary(folder, "ours", counts, {})
    return b"".join(file.name.encode() + file.read_bytes() for file in sorted(folder.iterdir()))


def bring(store: Store, files: LabelFiles) -> Imported:
    return store.import_labels(
        rankings=files.rankings,
        skips=files.skips,
        demonstrations=files.demonstrations,
        guidelines=files.guidelines,
    )


def ranking(name: str, labeler: str = "anna", size: int = 3, **changes: Any) -> Ranking:
    sample = sample_set(name, size)
    values: dict[str, Any] = {
        "submission_id": f"s-{name}-{labeler}",
        "prompt_id": name,
        "prompt": sample.prompt,
        "labeler": labeler,
        "responses": [
            {"response_id": r.response_id, "text": r.text, "policy": r.policy}
            for r in sample.responses
        ],
        "ratings": [4] * size,
        "ranks": [1] * size,
    }
    return Ranking.model_validate(values | changes)


def located(rows: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(f"file:{number}", row) for number, row in enumerate(rows, start=1)]


# --- round trips ----------------------------------------------------------------------------------


def test_an_export_comes_out_of_an_empty_store_as_it_went_in(
    new_place: Places, tmp_path: Path
) -> None:
    first, second = worked_on(new_place(), tmp_path), open_store(new_place())
    everything = exports.Selection(round="all", notes=True)
    before = export(first, tmp_path / "first", everything)
    done = bring(second, read_ours(tmp_path / "first"))
    lines = {f.name: f.read_bytes().count(b"\n") for f in (tmp_path / "first").iterdir()}
    assert lines["guidelines.jsonl"] == 1
    assert (done.rankings, done.skips, done.demonstrations) == tuple(
        lines[f"{name}.jsonl"] for name in ("rankings", "skips", "demonstrations")
    )
    assert export(second, tmp_path / "second", exports.Selection(notes=True)) == before
    # Once more, and into the store where it comes from: all is there.
    total = done.rankings + done.skips + done.demonstrations
    for store in (second, first):
        assert bring(store, read_ours(tmp_path / "first")) == Imported(duplicates=total)
    assert export(first, tmp_path / "again", everything) == before


def test_what_is_exported_without_notes_is_known_again(new_place: Places, tmp_path: Path) -> None:
    store = worked_on(new_place(), tmp_path)
    export(store, tmp_path / "out")
    done = bring(store, read_ours(tmp_path / "out"))
    assert (done.rankings, done.skips, done.demonstrations, done.unknown_tasks) == (0, 0, 0, 0)
    assert done.duplicates > 9


texts = st.text(st.characters(codec="utf-8"), max_size=12)
spoken = texts.map(lambda text: f"?{text}\u202e\0\"'")  # never blank


@st.composite
def rankings_and_skips(draw: st.DrawFn) -> tuple[list[Ranking], list[Skip]]:
    """What labelers made of some tasks, in the order of an export: by task, then by pseudonym."""
    rankings: list[Ranking] = []
    skips: list[Skip] = []
    for task in range(draw(st.integers(1, 4))):
        size = draw(st.integers(2, 9))
        responses = [
            {
                "response_id": f"{task}-{i}",
                "text": draw(texts),
                "policy": "sft",
                "finished": draw(st.booleans()),
            }
            for i in range(size)
        ]
        prompt = draw(spoken)
        for labeler in ("B", "a", "ü"):
            about = {"prompt_id": f"p{task}", "prompt": prompt, "responses": responses}
            about |= {"submission_id": f"{task}{labeler}", "labeler": labeler}
            end = draw(st.sampled_from(["ranking", "skip", "nothing"]))
            if end == "skip":
                skips.append(Skip.model_validate({**about, "reason": "unclear"}))
            elif end == "ranking":
                numbers = st.lists(st.integers(1, size), min_size=size, max_size=size)
                answers = st.sampled_from([True, False, None])
                judged = {
                    "ranks": draw(numbers),
                    "ratings": draw(numbers.map(lambda n: [min(rank, 7) for rank in n])),
                    "answers": {
                        draw(spoken): draw(st.lists(answers, min_size=size, max_size=size))
                    },
                    "confirmed_contradiction": True,
                    "display_order": draw(st.none() | st.permutations(range(size)).map(list)),
                }
                rankings.append(Ranking.model_validate({**about, **judged}))
    return rankings, skips


@settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(rows=rankings_and_skips())
def test_whatever_is_valid_comes_out_as_it_went_in(
    rows: tuple[list[Ranking], list[Skip]], new_place: Places
) -> None:
    rankings, skips = rows
    with closing(open_store(new_place())) as store:
        done = store.import_labels(rankings=located(rankings), skips=located(skips))
        assert (done.rankings, done.skips) == (len(rankings), len(skips))
        with store.reading() as session:
            assert [Ranking.model_validate(row) for row in exports.rankings(session)] == rankings
            again = exports.skips(session, with_responses=True)
            assert [Skip.model_validate(row) for row in again] == skips


def test_trl_pairs_come_out_as_they_went_in(new_place: Places, tmp_path: Path) -> None:
    """Twice the same pair, both orders of one, equal texts, an empty one, no order of any kind."""
    pairs = [
        ("Why?", "Because.", "No."),
        ("Zzz?", "a\0\u202eb", "  spaces "),
        ("Why?", "Because.", "No."),
        ("Why?", "No.", "Because."),
        ("Why?", "Same.", "Same."),
        (" Why? ", "", "é" * 3000),
    ]
    rows = [{"prompt": p, "chosen": c, "rejected": r} for p, c, r in pairs]
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "pairs.jsonl"
    write_dicts(path, rows)
    store = open_store(new_place())
    assert bring(store, read_trl(path)) == Imported(rankings=6, unknown_tasks=6)
    assert bring(store, read_trl(tmp_path / "in")) == Imported(duplicates=6)
    (tmp_path / "out").mkdir()
    with store.reading() as session:
        counts, ties = write_trl(
            tmp_path / "out", exports.rankings(session), exports.demonstrations(session)
        )
    assert (counts, ties) == ({"pairs.jsonl": 6}, 0)
    assert (tmp_path / "out" / "pairs.jsonl").read_bytes() == path.read_bytes()


def test_ranked_rows_of_others_are_read_by_their_columns(place: str, tmp_path: Path) -> None:
    rows = [
        {"q": "Why?", "more": "", "a": ["x", "y", "z", "x"], "r": [3, 1, 2, 3], "who": "ü"},
        {"q": "Why?", "more": "now", "a": ["x", "y"], "r": [1, 1], "who": 7},
        {"q": "Why?", "more": "now", "a": ["x", "x"], "r": [1, 2], "who": None},
    ]
    write_dicts(tmp_path / "k.jsonl", rows)
    columns = [
        "prompt_columns:q,more",
        "responses_column:a",
        "ranks_column:r",
        "labeler_column:who",
    ]
    store = open_store(place)
    files = read_kwise(tmp_path / "k.jsonl", columns)
    assert bring(store, files) == Imported(rankings=2, unknown_tasks=2)
    assert files.left_out == {"rows of equal responses": 1}
    found = [
        (row.prompt, [r.text for r in row.responses], row.ranks, row.labeler)
        for row in store.rankings()
    ]
    assert found == [
        ("Why?", ["x", "y", "z"], [3, 1, 2], "ü"),
        ("Why?\nnow", ["x", "y"], [1, 1], "7"),
    ]
    assert bring(store, read_kwise(tmp_path / "k.jsonl", columns)) == Imported(duplicates=2)


def test_labels_of_a_run_without_what_they_are_of_find_their_tasks(
    new_place: Places, tmp_path: Path
) -> None:
    """The files in ``labels/``: a skip does not say which responses it was of."""
    first, second = (filled(new_place(), count=4) for _ in range(2))
    ann = first.add_labeler("ann", "ann").id
    judge(first, ann, shown(first, ann))
    Desk(first).skip(ann, shown(first, ann).lease, "unclear")
    (tmp_path / "labels").mkdir()
    first.export(tmp_path / "labels")
    done = bring(second, read_ours(tmp_path / "labels"))
    assert (done.rankings, done.skips, done.unknown_tasks) == (1, 1, 0)
    assert second.progress() == first.progress() == Progress(done=1, open=2, skipped=1)
    assert second.skips() == first.skips()
    third = open_store(new_place())
    assert bring(third, read_ours(tmp_path / "labels")).unknown_tasks == 2
    assert third.skips() == first.skips()


# --- what is refused ------------------------------------------------------------------------------


def test_the_same_id_with_other_content_is_refused_and_nothing_is_imported(place: str) -> None:
    store = open_store(place)
    rows = [ranking("a"), ranking("b"), ranking("a", "bert")]
    assert store.import_labels(rankings=located(rows)).rankings == 3
    digest = store.content_hash()
    other = ranking("b", ranks=[1, 2, 2])
    written = Demonstration(prompt="?", response="!", demonstration_id="d")
    skip = Skip(submission_id="k", prompt_id="c", prompt="c", labeler="anna", reason="no")
    new = ranking("new")
    for changed, message in (
        ({"rankings": [new, other]}, "file:2: submission s-b-anna comes twice"),
        (
            {"rankings": [new, ranking("a", submission_id="again")]},
            "file:2: is a second ranking of a by anna",
        ),
        (
            {"rankings": [new], "skips": [skip, skip.model_copy(update={"reason": "yes"})]},
            "file:2: submission k comes twice",
        ),
        (
            {"demonstrations": [written, written.model_copy(update={"response": "?"})]},
            "file:2: demonstration d comes twice",
        ),
    ):
        with pytest.raises(UserError, match=message):
            store.import_labels(**{name: located(given) for name, given in changed.items()})
        assert store.content_hash() == digest
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Task)) == 2
        assert session.scalar(select(func.count()).select_from(Event)) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labeler": "a\nb", "submission_id": "b"}, "labeler: at most 200 characters that"),
        ({"submission_id": "x" * 201}, "submission_id: at most 200"),
        ({"prompt_id": "a\0"}, "prompt_id: a character of code 0"),
        ({"prompt": "x" * 20_000_000}, "prompt: 20,000,000 characters, more than 10,000,000"),
        ({"seconds": float("nan")}, "seconds: nan is no time"),
    ],
)
def test_what_no_database_keeps_is_refused(
    place: str, changes: dict[str, Any], message: str
) -> None:
    store = open_store(place)
    with pytest.raises(UserError, match=f"^file:2: {message}"):
        store.import_labels(rankings=located([ranking("a"), ranking("b", **changes)]))
    assert store.rankings() == []


def test_a_labeler_skips_or_ranks_a_task_but_not_both(place: str) -> None:
    store = filled(place)
    ann = store.add_labeler("ann", "ann").id
    Desk(store).skip(ann, shown(store, ann).lease, "unclear")
    row = ranking("p0", "ann")
    row = row.model_copy(update={"prompt": "Prompt p0"})
    with pytest.raises(UserError, match="is of p0, which ann has skipped"):
        store.import_labels(rankings=located([row]))


def test_labels_of_a_script_that_is_set_aside_are_refused(place: str) -> None:
    store = filled(place)
    store.add_labeler("robot", "robot", scripted=True)
    store.keep_scripted([])
    with pytest.raises(UserError, match="file:1: is by robot, a script whose labels are set aside"):
        store.import_labels(rankings=located([ranking("p0", "robot")]))


# --- tasks, labelers, the queue -------------------------------------------------------------------


def test_an_unknown_prompt_is_used_and_shown_to_nobody(place: str) -> None:
    store = filled(place, count=2)
    ann = store.add_labeler("ann").id
    done = store.import_labels(rankings=located([ranking("p0", "x"), ranking("unknown", "x")]))
    assert done == Imported(rankings=2, unknown_tasks=1)
    assert store.progress() == Progress(done=2, open=1, skipped=0)
    assert shown(store, ann).prompt_id == "p1"
    judge(store, ann, shown(store, ann))
    assert Desk(store).next_task(ann) is None
    names = [(row.prompt_id, row.labeler) for row in store.rankings()]
    assert names[0] == ("p0", "x")
    assert names[2] == ("unknown", "x")
    # Neither other samples nor the same ones take it out of use.
    store.add_tasks([sample_set("other")], QUESTIONS, "Be fair.")
    assert [row.prompt_id for row in store.rankings()] == ["unknown"]
    assert shown(store, ann).prompt_id == "other"


def test_a_task_of_earlier_samples_comes_into_use_for_its_labels(place: str) -> None:
    store = open_store(place)
    store.add_tasks([sample_set("p0")], QUESTIONS, "Be fair.", overlap=5)
    ann = store.add_labeler("ann", "ann").id
    judge(store, ann, shown(store, ann))
    bob = store.add_labeler("bob").id
    assert shown(store, bob).prompt_id == "p0"  # begun, and not ended
    store.add_tasks([sample_set("new")], QUESTIONS, "Be fair.")
    assert store.import_labels(rankings=located(store.rankings())) == Imported()
    row = ranking("p0", "x").model_copy(update={"prompt": "Prompt p0"})
    assert store.import_labels(rankings=located([row])) == Imported(rankings=1, unknown_tasks=1)
    assert [(one.prompt_id, one.labeler) for one in store.rankings()] == [
        ("p0", "ann"), ("p0", "x"),
    ]  # fmt: skip
    assert shown(store, bob).prompt_id == "new"
    assert store.progress(people_only=True) == Progress(done=1, open=1, skipped=0)


def test_an_imported_task_is_not_open_whoever_judged_it(place: str) -> None:
    store = filled(place, count=1)
    store.add_labeler("script", "script-1", scripted=True)
    store.import_labels(rankings=located([ranking("elsewhere", "script-1")]))
    assert store.progress(people_only=True) == Progress(done=1, open=1, skipped=0)


def test_a_person_gets_no_task_that_they_have_ended_elsewhere(place: str) -> None:
    store = filled(place, count=3)
    store.add_tasks(
        [sample_set(f"p{i}") for i in range(3)], QUESTIONS, "Be fair.", shared_fraction=1.0
    )
    ann, bob = (store.add_labeler(name, name).id for name in ("ann", "bob"))
    begun = shown(store, ann)
    assert begun.prompt_id == "p0"
    rows = [ranking(f"p{i}", "ann").model_copy(update={"prompt": f"Prompt p{i}"}) for i in (0, 1)]
    skip = Skip(
        submission_id="k", prompt_id="p2", prompt="Prompt p2", labeler="ann", reason="unclear"
    )
    store.import_labels(rankings=located(rows), skips=located([skip]))
    assert Desk(store).next_task(ann) is None
    assert not Desk(store).can_undo(ann)
    with pytest.raises(UserError, match="not before you any more"):
        judge(store, ann, begun)
    assert shown(store, bob).prompt_id == "p0"
    with store.reading() as session:
        assert session.scalars(select(Assignment.labeler_id)).all() == [bob]
        assert session.scalars(select(Task.judged).order_by(Task.position)).all() == [1, 1, 0]


def test_an_imported_pseudonym_is_nobody_who_signs_in(place: str) -> None:
    store = open_store(place)
    accounts = Accounts(store)
    token = accounts.add("Ann")
    accounts.choose_password(token, "correct horse battery")
    with store.reading() as session:
        known = session.scalars(select(Labeler)).one()
    rows = [ranking("a", known.pseudonym), ranking("a", "admin")]
    store.import_labels(rankings=located(rows))
    with store.reading() as session:
        people = session.scalars(select(Labeler).order_by(Labeler.id)).all()
        owners = [row["labeler"] for row in exports.rankings(session)]
    assert [one.pseudonym for one in people] == [known.pseudonym, "admin"]
    assert sorted(owners) == sorted([known.pseudonym, "admin"])
    assert [account.name for account in accounts.list()] == ["Ann"]
    assert accounts.sign_in("file: admin", "correct horse battery", "1") is None
    assert accounts.sign_in("admin", "correct horse battery", "1") is None
    with pytest.raises(UserError, match="unknown"):
        accounts.reset("file: admin")


# --- the file of a run ----------------------------------------------------------------------------


def test_a_runs_file_replaces_its_own_rankings_and_rests_the_others(
    place: str, tmp_path: Path
) -> None:
    """``label.source: file``: exactly these rankings are current."""
    store = filled(place, count=1)
    robot = store.add_labeler("robot", "robot", scripted=True).id
    judge(store, robot, shown(store, robot))
    own = store.rankings()
    store.import_labels(rankings=located([ranking("elsewhere", "x")]))
    store.keep_scripted([])
    write_rows(tmp_path / "file.jsonl", [*own, ranking("f")])
    store.import_rankings(read_rows(tmp_path / "file.jsonl", Ranking))
    assert store.rankings() == [*own, ranking("f")]
    assert store.progress().open == 0
    store.import_rankings([ranking("f", ranks=[1, 2, 2])])
    assert store.rankings() == [ranking("f", ranks=[1, 2, 2])]
    store.add_tasks([sample_set("p0")], QUESTIONS, "Be fair.")
    assert [row.prompt_id for row in store.rankings()] == ["p0", "elsewhere"]
