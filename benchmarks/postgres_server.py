"""A PostgreSQL server of its own in a temporary folder, for tests and measurements."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 30
# Its programs refuse to run as root: this account comes with the package.
ACCOUNT = "postgres"


@dataclass
class PostgresServer:
    """A server that listens on a socket in ``folder`` only."""

    programs: Path
    folder: Path
    options: tuple[str, ...] = ()
    process: subprocess.Popen[Any] | None = None

    def url(self, database: str) -> str:
        """The SQLAlchemy URL of a database of this server."""
        return f"postgresql://{ACCOUNT}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Starts the server and waits until it answers.

        After a crash it ends at once as long as a process of the old one holds its memory.
        """
        end = time.monotonic() + SECONDS
        self.process = self._spawn()
        while not self._answers():
            if time.monotonic() > end:
                raise RuntimeError("PostgreSQL did not start")
            time.sleep(0.05)
            if self.process.poll() is not None:
                self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[Any]:
        command = [self.programs / "postgres", "-D", self.folder / "data", "-k", self.folder]
        options = ("-c", "listen_addresses=", "-c", "max_connections=200", *self.options)
        return subprocess.Popen(
            [*map(str, command), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **_account(),
        )

    def stop(self, crash: bool = True) -> None:
        """Stops the server: at once, as a machine that fails would, or in good order.

        What was committed stays.
        """
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL if crash else signal.SIGINT)
            self.process.wait()
            self.process = None
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def create(self, database: str) -> str:
        """Makes an empty database; its URL."""
        import psycopg  # an extra of the package

        with psycopg.connect(host=str(self.folder), user=ACCOUNT, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}"')  # type: ignore[arg-type]
        return self.url(database)

    def _answers(self) -> bool:
        command = [self.programs / "pg_isready", "-q", "-h", self.folder, "-U", ACCOUNT]
        return subprocess.run([*map(str, command)], check=False).returncode == 0

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.programs / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            **_account(),
        )


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's programs on this machine, or None."""
    script = ROOT / "tests" / "find_postgres.sh"
    found = (
        os.environ.get("ALIGN_POSTGRES")
        or subprocess.run(
            ["sh", str(script)], capture_output=True, text=True, check=True
        ).stdout.strip()
    )
    return Path(found) if found else None


@contextmanager
def postgres_server(programs: Path, *options: str) -> Generator[PostgresServer]:
    """A running server, with ``options`` of its own; what it wrote is removed in the end."""
    folder = Path(tempfile.mkdtemp(prefix="align-pg-"))
    server = PostgresServer(programs, folder, options)
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, ACCOUNT)
        data = str(folder / "data")
        server._run("initdb", "-D", data, "-U", ACCOUNT, "-A", "trust", "-E", "UTF8", "--no-sync")
        server.start()
        yield server
    finally:
        server.stop(crash=False)
        shutil.rmtree(folder, ignore_errors=True)


def _account() -> dict[str, Any]:
    """Keyword arguments of ``subprocess`` that leave root's account where it is in use."""
    if os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(ACCOUNT)
    return {"user": account.pw_uid, "group": account.pw_gid, "cwd": "/"}
