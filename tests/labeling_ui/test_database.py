"""Opening a label database: what is refused, what is left alone, what is brought up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from benchmarks.postgres_server import PostgresServer
from labeling_ui.content import sqlite_content_hash
from labeling_ui.database import REVISION, VERSION_TABLE, _as_url, open_engine
from labeling_ui.migrations import _config, known_revisions
from labeling_ui.store import Progress, open_store
from labeling_ui.tables import Base
from pipeline.errors import UserError
from tests.labeling_ui.judging import filled, judge, shown


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    path.write_bytes(b"these are not the labels you are looking for" * 100)
    before = path.read_bytes()
    with pytest.raises(UserError, match="no usable label database"):
        open_store(path)
    assert path.read_bytes() == before


def test_a_database_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "photos.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photo (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(UserError, match="table photo"):
        open_store(path)
    assert path.read_bytes() == before


def test_a_corrupt_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    filled(str(path), count=200).close()
    damaged = bytearray(path.read_bytes())
    for start in range(4096, len(damaged), 4096):  # the head of every page but the first
        damaged[start : start + 64] = b"\xff" * 64
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"labels\.db"):
        open_store(path)


def test_a_database_from_before_there_were_migrations_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE store_info (key TEXT, value TEXT)")
    with pytest.raises(UserError, match=r"earlier version.*label\.file"):
        open_store(path)


def test_a_newer_schema_is_refused(place: str) -> None:
    store = open_store(place)
    with store.writing() as session:
        statement = f"UPDATE {VERSION_TABLE} SET version_num = '9999'"
        session.connection().exec_driver_sql(statement)
    store.close()
    with pytest.raises(UserError, match="schema version 9999"):
        open_store(place)


def test_the_file_is_private_durable_and_opens_by_url(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "labels.db"
    store = open_store(f"sqlite:///{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    with store.reading() as session:
        connection = session.connection()
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
    assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}


def test_the_migrations_make_what_the_tables_say(place: str) -> None:
    engine = open_engine(place)
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []
    assert known_revisions()[0] == REVISION


def test_opening_again_keeps_everything(place: str) -> None:
    store = filled(place)
    ann = store.add_labeler("ann").id
    judge(store, ann, shown(store, ann))
    digest = store.content_hash()
    store.close()
    assert open_store(place).content_hash() == digest


def test_a_database_that_is_not_there_has_no_hash_and_stays_absent(tmp_path: Path) -> None:
    assert sqlite_content_hash(tmp_path / "absent.db") is None
    assert not (tmp_path / "absent.db").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://nobody@127.0.0.1:1/labels", "check label.database, and that the server"),
        ("mysql://nobody@localhost/labels", "label database"),
        ("nonsense://", "label database"),
        ("postgresql://user:PLANTED@127.0.0.1:1/labels", "is no usable label database"),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line_without_its_password(url: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        open_store(url)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "PLANTED" not in str(error.value)


def test_a_server_that_goes_away_and_comes_back_is_found_again(postgres: PostgresServer) -> None:
    store = filled(postgres.create("gone"), count=4)
    ann = store.add_labeler("ann").id
    first = judge(store, ann, shown(store, ann))
    task = shown(store, ann)
    postgres.stop()
    try:
        with pytest.raises(Exception, match=r"connect|closed|server|terminat"):
            judge(store, ann, task)
    finally:
        postgres.start()
    second = judge(store, ann, task)
    assert [row.submission_id for row in store.rankings()] == [first, second]


def test_a_database_of_the_first_revision_keeps_all_that_it_held(place: str) -> None:
    engine = create_engine(_as_url(place))
    with engine.begin() as connection:
        migrations = _config()
        migrations.attributes["connection"] = connection
        command.upgrade(migrations, "0001")
        for statement in FIRST_REVISION:
            connection.exec_driver_sql(statement)
    engine.dispose()
    store = open_store(place)
    with store.reading() as session:
        tasks = session.connection().exec_driver_sql("SELECT prompt_id, kind, round FROM task")
        kinds = sorted(tuple(row) for row in tasks)
    assert kinds == [("own", "sampled", 1), ("read", "imported", 1)]
    ann = store.add_labeler("ann").id
    assert store.judged_by(ann) == 2
    assert sorted(row.prompt_id for row in store.rankings()) == ["own", "read"]
    assert store.progress(people_only=True) == Progress(done=2, open=0, skipped=0)


# Two tasks that ann has judged: one here, one in a file that was imported.
FIRST_REVISION = [
    "INSERT INTO labeler (id, name, pseudonym, role, scripted, active, disabled, created_at) "
    "VALUES (1, 'ann', 'labeler-1', 'labeler', false, true, false, '2026-01-01')",
    *(
        statement
        for number, name in enumerate(("own", "read"), start=1)
        for statement in (
            "INSERT INTO task (id, identity, prompt_id, prompt, position, active, priority, "
            f"overlap, shared, judged, skipped, created_at) "
            f"VALUES ({number}, '{name}', '{name}', 'Why?', "
            f"{number}, true, 0, 1, false, 1, 0, '2026-01-01')",
            *(
                "INSERT INTO response (task_id, position, response_id, text, policy, finished) "
                f"VALUES ({number}, {place}, '{name}-{place}', 'So.', 'sft', true)"
                for place in range(2)
            ),
            "INSERT INTO submission (id, task_id, labeler_id, imported, confirmed_contradiction) "
            f"VALUES ('s{number}', {number}, 1, {str(name == 'read').lower()}, false)",
            *(
                "INSERT INTO judgment (submission_id, position, rating, rank, answers) "
                f"VALUES ('s{number}', {place}, {5 - place}, {place + 1}, '{{}}')"
                for place in range(2)
            ),
        )
    ),
    "INSERT INTO assignment (id, task_id, labeler_id, display_order, lease, leased_at, expires_at, "
    "ended_at, draft_seq, created_at) VALUES (1, 1, 1, '[0, 1]', 'x', 0, 1, 1, 0, '2026-01-01')",
]
