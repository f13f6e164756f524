"""Opening a label database: SQLite by path, or PostgreSQL by URL, checked before it is used.

On SQLite every transaction that may write begins with BEGIN IMMEDIATE, so that two processes
queue for the write lock instead of failing half-way, and a commit is on the disk
(``synchronous=FULL``) before anybody is told that a label is saved. On PostgreSQL whoever changes
what belongs to a task locks the task's row first (``desk``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Inspector,
    create_engine,
    event,
    inspect,
    make_url,
    text,
)
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from pipeline.errors import UserError

LOCK_WAIT_SECONDS = 30
CONNECT_SECONDS = 10
REVISION = "0002"  # the newest step in migrations/versions
VERSION_TABLE = "label_store_version"  # also what tells a label database from any other
_OLD_MARK = "store_info"  # of label databases from before there were migrations
_ADVISORY_LOCK = 0x616C69676E  # "align": one process at a time prepares a PostgreSQL database


def open_engine(url_or_path: str | Path) -> Engine:
    """An engine whose database holds our tables, as this version knows them.

    They are created where there are none; those of an earlier version are brought up to date.

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
            _prepare(connection, str(where))
        if _is_sqlite(url):
            _use_write_ahead_log(engine)
    except (DatabaseError, NoSuchModuleError, ImportError) as error:
        raise _unusable(str(where), error) from None
    except OSError as error:
        raise UserError(where, f"cannot be opened ({error.strerror}).", "check the path.") from None
    return engine


def _unusable(where: str, error: Exception) -> UserError:
    reason = str(getattr(error, "orig", None) or error).splitlines()[0]
    fix = "restore the file from a copy, or name another one as label.database."
    if "://" in where:
        fix = "check label.database, and that the server is up."
    if isinstance(error, ImportError):
        fix = 'install its driver: pip install "alignment-pipeline[postgres]".'
    return UserError(where, f"is no usable label database ({reason}).", fix)


def _as_url(url_or_path: str | Path) -> URL:
    if isinstance(url_or_path, str) and "://" in url_or_path:
        try:
            url = make_url(url_or_path)
        except (ArgumentError, ValueError):
            problem, fix = "is no database URL.", "write it as postgresql://user@host/database."
            raise UserError("label.database", problem, fix) from None
        plain = url.drivername in ("postgresql", "postgres")
        return url.set(drivername="postgresql+psycopg") if plain else url
    return URL.create("sqlite", database=str(url_or_path))


def _is_sqlite(url: URL) -> bool:
    return url.get_backend_name() == "sqlite"


def _create_private_file(path: Path) -> None:
    """Labels are personal data: the file is readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))


def _create_engine(url: URL) -> Engine:
    if not _is_sqlite(url):
        # Asked before each use whether it still answers: a server that was away is found again.
        return create_engine(
            url, pool_pre_ping=True, connect_args={"connect_timeout": CONNECT_SECONDS}
        )
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


def _prepare(connection: Connection, where: str) -> None:
    """Ours, at any revision, or empty: any other database is left as it is."""
    if connection.dialect.name == "sqlite":
        verdict = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar()
        if verdict != "ok":
            raise UserError(where, f"is a corrupt database ({verdict}).", "restore it from a copy.")
    elif connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
    else:
        problem = f"is of a kind that is not supported ({connection.dialect.name})."
        raise UserError(where, problem, "use SQLite or PostgreSQL.")
    found = _revision(connection, inspect(connection), where)
    if found == REVISION:
        return
    # With its parts it takes as long to load as everything else here.
    from labeling_ui.migrations import known_revisions, upgrade

    if found is not None and found not in known_revisions():
        raise UserError(
            where,
            f"has schema version {found}, this program knows {REVISION}.",
            "use the version of alignment-pipeline that wrote it.",
        )
    upgrade(connection)


def _revision(connection: Connection, inspector: Inspector, where: str) -> str | None:
    """The revision of a label database, None for an empty database.

    Raises:
        UserError: the database is another program's, or from before there were revisions.
    """
    names = inspector.get_table_names()
    if VERSION_TABLE in names:
        return connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    if _OLD_MARK in names:
        problem = "was written by an earlier version, whose tables cannot be brought up to date."
        fix = "move it away: its labels are in labels/, which label.file can name."
        raise UserError(where, problem, fix)
    if names:
        raise UserError(
            where,
            f"is a database of something else (it has the table {names[0]}).",
            "name another one as label.database.",
        )
    return None
