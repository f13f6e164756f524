"""Opening a label database: SQLite by path, or any SQLAlchemy URL, checked before it is used.

On SQLite every transaction that may write begins with BEGIN IMMEDIATE, so that two processes
queue for the write lock instead of failing half-way, and a commit is on the disk
(``synchronous=FULL``) before anybody is told that a label is saved.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from labeling_ui.tables import SCHEMA_VERSION, Base
from pipeline.errors import UserError

LOCK_WAIT_SECONDS = 30


def open_engine(url_or_path: str | Path) -> Engine:
    """An engine whose database holds our tables; they are created where there are none.

    Raises:
        UserError: the file is corrupt, belongs to another program, was written by a newer
            version, or cannot be opened.
    """
    url = _as_url(url_or_path)
    where = url.database if _is_sqlite(url) else url.render_as_string(hide_password=True)
    try:
        if _is_sqlite(url):
            _create_private_file(Path(url.database or ""))
        engine = _create_engine(url)
        with engine.execution_options(write=True).begin() as connection:
            _check_and_create(connection, str(where))
        if _is_sqlite(url):
            _use_write_ahead_log(engine)
    except (DatabaseError, NoSuchModuleError, ImportError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        fix = "restore the file from a copy, or name another one as label.database."
        raise UserError(where, f"is no usable label database ({reason}).", fix) from None
    except OSError as error:
        raise UserError(where, f"cannot be opened ({error.strerror}).", "check the path.") from None
    return engine


def _as_url(url_or_path: str | Path) -> URL:
    if isinstance(url_or_path, str) and "://" in url_or_path:
        try:
            return make_url(url_or_path)
        except (ArgumentError, ValueError):
            raise UserError(
                "label.database", "is no database URL.", "write it as sqlite:///labels.db."
            ) from None
    return URL.create("sqlite", database=str(url_or_path))


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _create_private_file(path: Path) -> None:
    """Labels are personal data: the file is readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _create_engine(url: URL) -> Engine:
    if not _is_sqlite(url):
        return create_engine(url)
    engine = create_engine(url, connect_args={"timeout": LOCK_WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def _set_pragmas(dbapi_connection: Any, _record: object) -> None:
        dbapi_connection.isolation_level = None  # we begin transactions ourselves, below
        for pragma in ("synchronous=FULL", "foreign_keys=ON"):
            dbapi_connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _use_write_ahead_log(engine: Engine) -> None:
    """Readers do not wait for writers. The mode stays in the file, so it is set on ours only."""
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.close()
    finally:
        connection.close()


def _check_and_create(connection: Connection, where: str) -> None:
    """Ours or empty: any other database is left as it is."""
    if connection.dialect.name == "sqlite":
        verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if verdict != "ok":
            raise UserError(where, f"is a corrupt database ({verdict}).", "restore it from a copy.")
    names = inspect(connection).get_table_names()
    if names and "store_info" not in names:
        raise UserError(
            where,
            f"is a database of something else (it has the table {names[0]}).",
            "name another file as label.database.",
        )
    if not names:
        Base.metadata.create_all(connection)
        connection.execute(
            text("INSERT INTO store_info (key, value) VALUES ('schema_version', :version)"),
            {"version": SCHEMA_VERSION},
        )
        return
    found = connection.execute(
        text("SELECT value FROM store_info WHERE key = 'schema_version'")
    ).scalar()
    if found != SCHEMA_VERSION:
        raise UserError(
            where,
            f"has schema version {found}, this program knows {SCHEMA_VERSION}.",
            "use the version of alignment-pipeline that wrote it.",
        )
