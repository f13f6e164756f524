"""Opening a label database: what is refused, what is left alone, what is brought up to date."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from benchmarks.postgres_server import PostgresServer
from labeling_ui.content import sqlite_content_hash
from labeling_ui.database import REVISION, VERSION_TABLE, open_engine
from labeling_ui.migrations import known_revisions
from labeling_ui.store import open_store
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
