"""Database servers of this machine's packages, each started for one test on a socket of its own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["SERVERS", "database"]

SERVERS = ("mariadb", "postgresql")
_ADMIN = "root"


def _program(name: str) -> str | None:
    """A server's program; Debian keeps PostgreSQL's out of the path."""
    newest = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") or (
        str(newest[0]) if newest else None
    )


def _needed(*names: str) -> list[str]:
    found = [_program(name) for name in names]
    for name, program in zip(names, found, strict=True):
        if program is None:
            pytest.skip(f"{name} is not installed: apt-get install mariadb-server postgresql")
    return [program for program in found if program is not None]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _as_user(folder: Path, user: str) -> dict[str, Any]:
    """Servers refuse to run as root: then they run as their package's user, who owns the folder."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(folder, user, user)
    return {"user": user, "group": user, "extra_groups": []}


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server has ended with {process.returncode}: {log.read_text()[-2000:]}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server does not listen: {log.read_text()[-2000:]}")


@contextmanager
def database(kind: str, log: Path) -> Iterator[str]:
    """Start one of `SERVERS` with an empty database; yields its SQLAlchemy address.

    Args:
        kind: One of `SERVERS`; the test is skipped where it is not installed.
        log: File for what the server prints.
    """
    with tempfile.TemporaryDirectory(
        prefix="sweepft-database-"
    ) as folder:  # a test's own is closed to others
        yield from _serve(kind, Path(folder), log)


def _serve(kind: str, folder: Path, log: Path) -> Iterator[str]:
    port = _free_port()
    if kind == "mariadb":
        install, server = _needed("mariadb-install-db", "mariadbd")
        pytest.importorskip("pymysql")
        user = _as_user(folder, "mysql")
        prepare = [
            install,
            "--no-defaults",
            f"--datadir={folder}",
            "--auth-root-authentication-method=normal",
        ]
        start = [
            server, "--no-defaults", f"--datadir={folder}", f"--socket={folder}/s", f"--port={port}",
            "--bind-address=127.0.0.1", "--innodb-flush-log-at-trx-commit=0",
        ]  # fmt: skip
        address = f"mysql+pymysql://{_ADMIN}@127.0.0.1:{port}/sweeps"
    else:
        initialise, server = _needed("initdb", "postgres")
        pytest.importorskip("psycopg")
        user = _as_user(folder, "postgres")
        prepare = [initialise, "-D", str(folder), "-U", _ADMIN, "-A", "trust", "--no-sync"]
        start = [
            server, "-D", str(folder), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder),
            "-c", "fsync=off",
        ]  # fmt: skip
        address = f"postgresql+psycopg://{_ADMIN}@127.0.0.1:{port}/postgres"
    with log.open("wb") as out:
        subprocess.run(prepare, stdout=out, stderr=out, check=True, cwd="/", **user)
        process = subprocess.Popen(start, stdout=out, stderr=out, cwd="/", **user)
    try:
        _wait(process, port, log)
        if kind == "mariadb":
            _create_database(port)
        yield address
    finally:
        process.send_signal(
            signal.SIGINT if kind == "postgresql" else signal.SIGTERM
        )  # without waiting for clients
        process.wait(60)


def _create_database(port: int) -> None:
    import pymysql

    connection = pymysql.connect(host="127.0.0.1", port=port, user=_ADMIN)
    with connection, connection.cursor() as cursor:
        cursor.execute("create database sweeps")
