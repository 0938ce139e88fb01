"""One writer a run, on one host or several: who may take a run, who must wait, and who must stop.

A process of another host is one of another kernel. Here it is a lease that names another boot, written by a process
or thread of this machine in place of that host.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from support.errors import raises
from support.ledger_builder import HEADER, LedgerBuilder
from sweepft.errors import LeaseLost, LedgerLocked
from sweepft.ledger import Ledger, Owner, SweepState, WriterWatch, current_writer, ledger_path, read_ledger
from sweepft.ledger.lease import SECONDS, read_lease, write_lease


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SECONDS, "heartbeat", 0.05)
    monkeypatch.setattr(SECONDS, "unchanged", 0.4)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    LedgerBuilder(tmp_path / "r").trial("t0").close()
    return tmp_path / "r"


def lease_of(run: Path) -> Path:
    return run / "ledger" / "lease"


def elsewhere(run: Path, **changes: object) -> Owner:
    """A writer on a host whose processes cannot be seen from here."""
    other = {"host": "elsewhere", "pid": 12, "lease_id": "other", "boot": "another boot"}
    return replace(Owner.me(run / "ledger"), **(other | changes))


@contextmanager
def beating(run: Path, owner: Owner) -> Iterator[None]:
    """Heartbeats of another host, until the block ends."""
    ended = threading.Event()
    write_lease(lease_of(run), owner)

    def beat() -> None:
        while not ended.wait(0.02):
            write_lease(lease_of(run), owner)

    thread = threading.Thread(target=beat)
    thread.start()
    yield
    ended.set()
    thread.join()


@pytest.fixture(params=["flock", "no flock", "a file server holds the lock"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the run folder's file system answers `flock` when the former owner's host is gone."""
    if request.param == "no flock":
        monkeypatch.setattr("fcntl.flock", failing(errno.ENOLCK))
    if request.param == "a file server holds the lock":
        monkeypatch.setattr("fcntl.flock", failing(errno.EWOULDBLOCK))
    return request.param


def failing(number: int) -> Callable[..., None]:
    def act(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return act


def child(code: str, *args: object) -> subprocess.Popen:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


OPEN = """
    import sys
    from sweepft.errors import LedgerLocked
    from sweepft.ledger import Ledger
    try:
        ledger = Ledger.open(sys.argv[1])
    except LedgerLocked as error:
        print(error.key, flush=True)
    else:
        print("open", flush=True)
        sys.stdin.readline()
    """


# --- one host -------------------------------------------------------------------------------------


def test_lock__second_writer_is_refused_with_the_owner(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "r") as ledger:
        ledger.append("sweep", **HEADER)
        assert current_writer(tmp_path / "r/ledger") == ledger.owner
        for act in (Ledger.open, Ledger.create, lambda run: Ledger.reopen(run, take_over=True)):
            with raises(LedgerLocked, "ledger.locked") as caught:
                act(tmp_path / "r")
            assert f"process {os.getpid()} on " in str(caught.value)
        assert SweepState.load(tmp_path / "r").writer.pid == os.getpid()
    assert current_writer(tmp_path / "r/ledger") is None
    Ledger.open(tmp_path / "r").close()


@pytest.mark.parametrize("take_over", [False, True])
def test_lock__of_a_killed_writer_is_taken_over(run: Path, take_over: bool) -> None:
    writer = child(OPEN, run)
    assert writer.stdout.readline() == "open\n"
    assert current_writer(run / "ledger").pid == writer.pid
    with raises(LedgerLocked, "ledger.locked") as caught:
        Ledger.reopen(run, take_over=take_over)
    assert f"process {writer.pid}" in str(caught.value)
    writer.kill()
    writer.communicate()
    assert current_writer(run / "ledger") is None
    assert SweepState.load(run).status == "crashed"
    said: list[str] = []
    with Ledger.reopen(run, take_over=take_over, say=said.append)[0] as ledger:
        ledger.append("finish", status="finished")
    assert not said, "nothing to wait for"


@pytest.mark.parametrize(
    "changes",
    [
        {"host": "pod-a"},
        {"host": "pod-a", "namespace": 1, "pid": os.getpid()},
        {"started": 1},
        {"namespace": 1, "device": 1, "boot": "another boot", "host": "elsewhere"},
    ],
    ids=["renamed host", "another container", "reused pid", "another host, no lock in the kernel"],
)
def test_lock__dead_owner_of_this_kernel_is_replaced_at_once(run: Path, changes: dict[str, object]) -> None:
    """The kernel's lock and the table of processes decide; only another host's owner is watched first."""
    gone = {"pid": 2**22 - 1, "started": 1} | changes
    write_lease(lease_of(run), replace(Owner.me(run / "ledger"), **gone))
    said: list[str] = []
    Ledger.reopen(run, say=said.append)[0].close()
    assert bool(said) == ("boot" in changes)


def test_lock__one_of_many_gets_a_stale_one(run: Path) -> None:
    write_lease(lease_of(run), replace(Owner.me(run / "ledger"), pid=2**22 - 1, started=1))
    racers = [child(OPEN, run) for _ in range(4)]
    said = sorted(r.stdout.readline().strip() for r in racers)
    for r in racers:
        r.communicate("\n")
    assert said == ["ledger.locked"] * 3 + ["open"]


def test_lock__forked_child_neither_writes_nor_unlocks(tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "r") as ledger:
        ledger.append("sweep", **HEADER)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                ledger.append("finish", status="finished")
            except LedgerLocked:
                ledger.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert current_writer(tmp_path / "r/ledger").pid == os.getpid()
        with pytest.raises(LedgerLocked):
            Ledger.open(tmp_path / "r")
        assert ledger.append("finish", status="finished")["seq"] == 1


def test_lock__without_flock_the_visible_process_decides(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", failing(errno.ENOLCK))
    with Ledger.open(run) as ledger:
        for take_over in (False, True):
            with raises(LedgerLocked, "ledger.locked"):
                Ledger.reopen(run, take_over=take_over)
        write_lease(lease_of(run), replace(ledger.owner, started=ledger.owner.started + 1))
        Ledger.open(run).close()  # its pid was given to another process


# --- another host ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [0, 5, -5])
def test_lock__living_owner_elsewhere_is_refused(
    run: Path, file_system: str, hours: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its clock shows, and whether or not the kernel knows of its lock."""
    real = time.time
    with beating(run, elsewhere(run)):
        monkeypatch.setattr(time, "time", lambda: real() + hours * 3600)
        with raises(LedgerLocked, "ledger.locked") as caught:
            Ledger.open(run)
        assert "process 12 on elsewhere" in str(caught.value)
        assert current_writer(run / "ledger").host == "elsewhere"
        assert SweepState.load(run).status == "running"


def test_lock__silent_owner_elsewhere_is_replaced_after_a_while(run: Path, file_system: str) -> None:
    write_lease(lease_of(run), elsewhere(run))
    said: list[str] = []
    if file_system == "a file server holds the lock":
        with raises(LedgerLocked, "ledger.locked") as caught:
            Ledger.reopen(run, say=said.append)
        assert "--take-over" in str(caught.value)
        assert len(said) == 1
        return
    with Ledger.reopen(run, say=said.append)[0] as ledger:
        waited, took = said
        assert "waiting until" in waited
        assert took.startswith("taking the run over from process 12 on elsewhere")
        assert current_writer(run / "ledger") == ledger.owner
        with raises(LedgerLocked, "ledger.locked"):
            Ledger.open(run)


def test_lock__take_over_does_not_wait(run: Path, file_system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SECONDS, "unchanged", 3600.0)
    write_lease(lease_of(run), elsewhere(run))
    said: list[str] = []
    with Ledger.reopen(run, take_over=True, say=said.append)[0] as ledger:
        assert ["--take-over" in line for line in said] == [True]
        assert current_writer(run / "ledger") == ledger.owner
    monkeypatch.undo()
    Ledger.open(run).close()


def test_lock__take_over_leaves_a_process_of_this_host_that_waits(run: Path) -> None:
    """It has the kernel's lock, though the lease names a dead host."""
    write_lease(lease_of(run), elsewhere(run))
    fd = os.open(run / "ledger" / "lock", os.O_RDWR | os.O_CREAT)
    import fcntl

    fcntl.flock(fd, fcntl.LOCK_EX)
    with raises(LedgerLocked, "ledger.locked"):
        Ledger.reopen(run, take_over=True)
    os.close(fd)


def test_lock__without_flock_one_of_two_gets_it(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", failing(errno.ENOLCK))
    write_lease(lease_of(run), elsewhere(run))
    outcome: list[str] = []
    both = threading.Barrier(2)

    def take() -> None:
        both.wait()
        try:
            ledgers.append(Ledger.open(run))
            outcome.append("open")
        except LedgerLocked:
            outcome.append("refused")

    ledgers: list[Ledger] = []
    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome) == ["open", "refused"]
    ledgers[0].close()


# --- the lease ------------------------------------------------------------------------------------


def test_lease__shows_life_until_release(run: Path) -> None:
    with Ledger.open(run):
        first = read_lease(lease_of(run))
        while read_lease(lease_of(run)).mark == first.mark:
            time.sleep(0.01)
    assert not lease_of(run).exists()
    assert sorted(p.name for p in (run / "ledger").iterdir()) == ["ledger.jsonl", "lock"]


def test_lease__full_disk_is_no_sign_of_death(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = elsewhere(run)
    write_lease(lease_of(run), owner)
    first = read_lease(lease_of(run))
    monkeypatch.setattr(os, "write", failing(errno.ENOSPC))
    write_lease(lease_of(run), owner)
    second = read_lease(lease_of(run))
    assert first.owner == second.owner
    assert first.mark != second.mark


@pytest.mark.parametrize("ended", [False, True], ids=["runs on", "has ended"])
def test_lease__former_owner_that_wakes_up_stops(
    run: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    """A suspended host or a network that was cut: the run goes on elsewhere, and the former driver must not write."""
    monkeypatch.setattr(SECONDS, "heartbeat", 3600.0)  # no heartbeat comes before the next row
    former = Ledger.open(run)
    write_lease(lease_of(run), elsewhere(run))  # it was taken over
    if ended:
        lease_of(run).unlink()
    rows = read_ledger(run)
    for _ in range(2):
        with raises(LeaseLost, "ledger.lease_lost"):
            former.append("finish", status="finished")
    former.close()
    assert read_ledger(run) == rows
    assert lease_of(run).exists() is not ended, "that of the new owner stays"


def test_lease__heartbeat_stops_when_lost(run: Path) -> None:
    former = Ledger.open(run)
    new = elsewhere(run)
    with beating(run, new):
        deadline = time.monotonic() + 60
        while former._lock._lost is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert read_lease(lease_of(run)).owner == new
    former.close()


def test_ledger__row_of_another_process_stops_the_writer(run: Path) -> None:
    with Ledger.open(run) as ledger:
        with ledger_path(run).open("a") as file:
            file.write("x")
        with raises(LeaseLost, "ledger.lease_lost"):
            ledger.append("finish", status="finished")


def test_current_writer__dead_host_is_none(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lease(lease_of(run), elsewhere(run))
    assert current_writer(run / "ledger").host == "elsewhere", "a fresh lease"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 60)
    assert current_writer(run / "ledger") is None
    assert SweepState.load(run).status == "crashed"
    monkeypatch.setattr(SECONDS, "heartbeat", 3600.0)
    monkeypatch.setattr(time, "time", lambda: real() + 2 * 86400)
    assert current_writer(run / "ledger") is None, "nobody waits for a run of long ago"


def test_writer_watch__follows_a_sweep_to_its_end(run: Path) -> None:
    watch = WriterWatch(run / "ledger")
    with Ledger.open(run) as ledger:
        assert watch.writer() == ledger.owner
    assert watch.writer() is None
    assert not watch.in_doubt


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"host": "a"}', '{"host": {}, "pid": "x"}', "\x00" * 50]
)
def test_lease__damaged_file_is_no_owner(run: Path, text: str) -> None:
    lease_of(run).write_text(text)
    assert current_writer(run / "ledger") is None
    Ledger.open(run).close()
