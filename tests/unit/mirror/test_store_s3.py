"""The same over S3, against a real server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.errors import raises
from support.mirrored_run import MirroredRun, truth
from support.s3 import S3Server, needs_s3
from sweepft.errors import MirrorError
from sweepft.mirror.copy import Copier
from sweepft.mirror.fetch import fetch
from sweepft.mirror.follow import check, follow
from sweepft.mirror.status import read_status
from sweepft.mirror.store import Store

pytestmark = needs_s3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("s3") / "server.log") as running:
        yield running


@pytest.fixture
def s3(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def run(tmp_path: Path) -> Iterator[MirroredRun]:
    made = MirroredRun(tmp_path / "run")
    made.trial()
    yield made
    made.ledger.close()


def test_s3__fetch_returns_what_was_copied(s3: S3Server, run: MirroredRun, tmp_path: Path) -> None:
    uri = s3.uri("there-and-back")
    check(run.run_dir, uri)
    copier = Copier(run.run_dir, Store(uri))
    copier.step()
    run.weights("t000", os.urandom(25 << 20))  # in several parts, over the line
    run.state("t001", 64)
    run.report("a page")
    copier.step()
    run.state("t001", 128)
    run.result()
    copier.step()
    fetch(uri, tmp_path / "back")
    assert truth(tmp_path / "back") == truth(run.run_dir)
    names = Store(uri).names("")
    assert "report.html" in names
    assert not [n for n in names if "/64/" in n]
    assert len([n for n in names if n.startswith("mirror/")]) == 1


def test_s3__address_can_name_the_endpoint(
    s3: S3Server, run: MirroredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    uri = f"{s3.uri('by-query')}?endpoint_override=127.0.0.1:{s3.port}&scheme=http&region=us-east-1"
    Copier(run.run_dir, Store(uri)).step()
    fetch(uri, tmp_path / "back")
    assert truth(tmp_path / "back") == truth(run.run_dir)


def test_s3__missing_bucket(s3: S3Server, run: MirroredRun, tmp_path: Path) -> None:
    with raises(MirrorError, "mirror.no_bucket"):
        check(run.run_dir, "s3://nobodys-bucket/x")
    with raises(MirrorError, "mirror.no_run"):
        fetch("s3://nobodys-bucket/x", tmp_path / "back")


def test_s3__unreachable_server(run: MirroredRun, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with raises(MirrorError, "mirror.unreachable"):
        check(run.run_dir, s3.uri("x"))


def test_s3__denied_credentials_are_never_shown(
    run: MirroredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Server(tmp_path / "server.log", guarded=True) as guarded:
        for name, value in guarded.environment.items():
            monkeypatch.setenv(name, value)
        with raises(MirrorError, "mirror.denied") as caught:
            check(run.run_dir, guarded.uri("x"))
    assert guarded.environment["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


@pytest.mark.full
def test_s3__server_that_disappears_is_retried(
    run: MirroredRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def until(failing: bool) -> None:
        deadline = time.monotonic() + 120
        while (note := read_status(run.run_dir)) is None or bool(note.failure) != failing or not note.time:
            assert time.monotonic() < deadline, note
            time.sleep(0.05)

    over = threading.Event()
    with S3Server(tmp_path / "server.log") as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        uri, done = server.uri("x"), []
        thread = threading.Thread(target=lambda: done.append(follow(run.run_dir, uri, 0.1, over.wait)))
        thread.start()
        until(failing=False)
        server.kill()
        run.result()
        until(failing=True)
        note = read_status(run.run_dir)
        assert note is not None
        assert "NETWORK_CONNECTION" in (note.failure or "")
        server.start()  # with nothing in it
        until(failing=False)
        run.result()
        over.set()
        thread.join()
        assert done == [True]
        fetch(uri, tmp_path / "back")
    assert truth(tmp_path / "back") == truth(run.run_dir)
