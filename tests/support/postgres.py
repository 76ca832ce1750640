"""A real PostgreSQL server in a temporary folder, on loopback, for as long as the tests need it."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg

PASSWORD = "only for tests"
MISSING = "no PostgreSQL binaries (initdb, postgres) on this machine; Debian: apt-get install postgresql"


def binary(name: str) -> str | None:
    """Return where a program of PostgreSQL is: on the path, or where Debian keeps its versions."""
    return shutil.which(name) or next(
        (str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None
    )


def _as_user() -> dict:
    """PostgreSQL refuses to run as root: return the arguments of `subprocess` that make it run as somebody else."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            user = pwd.getpwnam(name)
            return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise AssertionError("root needs a user postgres or nobody to run PostgreSQL as")


def _runs(process: psutil.Process) -> bool:
    """Tell whether a process lives; a container may have nobody who buries the dead ones."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Server:
    """A server that can be killed and started again over the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.identity = folder, folder / "data", _as_user()
        self.free: list[str] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        password = folder / "password"
        password.write_text(PASSWORD)
        if self.identity:
            for path in (folder, password):
                os.chown(path, self.identity["user"], self.identity["group"])
        self._run(
            "initdb", "-D", self.data, "-U", "paretune", "-E", "UTF8", "--locale=C",
            "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync",
        )  # fmt: skip
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                # A killed process leaves what it wrote to the system's cache: waiting for the disk would only cost time here.
                [
                    str(binary("postgres")), "-D", str(self.data), "-p", str(self.port), "-h", "127.0.0.1", "-k", "",
                    "-c", "fsync=off",
                ],
                cwd=self.folder, stdout=log, stderr=log, **self.identity,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while True:
            try:
                with self.connect():
                    return
            except psycopg.OperationalError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log()
                time.sleep(0.05)

    def kill(self) -> None:
        """Kill it and its workers with SIGKILL."""
        workers = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.kill()
        self.process.wait()
        while any(_runs(worker) for worker in workers):
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it at once, without tidying up data that nobody needs."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(timeout=60)

    def connect(self) -> psycopg.Connection:
        """Return a connection of the server's own database, in autocommit."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, user="paretune", password=PASSWORD, dbname="postgres",
            autocommit=True, connect_timeout=5,
        )  # fmt: skip

    def url(self, database: str, password: str = PASSWORD) -> str:
        """Return the URL of a database."""
        quoted = password.replace(" ", "%20")
        return f"postgresql://paretune:{quoted}@127.0.0.1:{self.port}/{database}"

    def new_database(self, **options: str) -> str:
        """Make a database and return its URL."""
        with self.connect() as connection:
            count = connection.execute("SELECT count(*) FROM pg_database").fetchone()
            name = f"store{count[0]}"
            connection.execute(
                f"CREATE DATABASE {name} " + " ".join(f"{key} {value}" for key, value in options.items())
            )
        return self.url(name)

    @contextlib.contextmanager
    def borrowed(self) -> Iterator[str]:
        """Yield the URL of an empty database that is emptied and lent again afterwards.

        A database of its own for each test would be 300 files each to write and to delete.
        """
        url = self.free.pop() if self.free else self.new_database()
        yield url
        name = url.rpartition("/")[2]
        with self.connect() as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (name,)
            )
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
        self.free.append(url)

    def log(self) -> str:
        """Return what it said."""
        return (self.folder / "log").read_text(errors="replace")

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [str(binary(program)), *map(str, arguments)],
            cwd=self.folder, capture_output=True, text=True, timeout=120, **self.identity,
        )  # fmt: skip
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"


@contextlib.contextmanager
def server() -> Iterator[Server]:
    """Yield a new server; its folder and itself are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="paretune-pg-"))  # pytest's own folders are closed to other users
    try:
        made = Server(folder)
        try:
            yield made
        finally:
            if made.process.poll() is None:
                made.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
