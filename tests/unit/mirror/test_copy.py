"""A mirror holds what the run folder holds, sends little twice, and is whole at every moment."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from support.errors import raises
from support.mirrored_run import MirroredRun, truth
from sweepft.errors import MirrorError
from sweepft.ledger import read_ledger
from sweepft.mirror import copy as contents
from sweepft.mirror.copy import Copier
from sweepft.mirror.fetch import fetch
from sweepft.mirror.follow import check
from sweepft.mirror.store import Store, newest


@pytest.fixture
def run(tmp_path: Path) -> Iterator[MirroredRun]:
    made = MirroredRun(tmp_path / "run")
    yield made
    made.ledger.close()


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return (tmp_path / "mirror").as_uri()


class Meter(Store):
    """The real store, which notes what goes over the line, and breaks where it should."""

    def __init__(self, uri: str, break_at: int | None = None, torn: bool = False) -> None:
        super().__init__(uri)
        self.calls: list[str] = []
        self.sent: dict[str, int] = {}
        self.break_at = break_at
        self.torn = torn

    def write(self, name: str, data: bytes) -> None:
        self._count(f"write {name}", lambda: super(Meter, self).write(name, data[: len(data) // 2]))
        self.sent[name] = len(data)
        super().write(name, data)

    def send(self, name: str, source: BinaryIO, between: Callable[[], object]) -> str:
        self._count(f"send {name}", lambda: super(Meter, self).write(name, source.read()[:7]))
        self.sent[name] = os.fstat(source.fileno()).st_size
        return super().send(name, source, between)

    def remove(self, name: str) -> None:
        self._count(f"remove {name}", lambda: None)
        super().remove(name)

    def _count(self, what: str, half: Callable[[], None]) -> None:
        self.calls.append(what)
        if self.break_at is not None and len(self.calls) > self.break_at:
            if self.torn and len(self.calls) == self.break_at + 1:
                half()
            raise ConnectionError(f"the line is down: {what}")


def back(uri: str, folder: Path) -> dict[str, bytes]:
    shutil.rmtree(folder, ignore_errors=True)
    fetch(uri, folder)
    return truth(folder)


def test_copier__fetch_returns_what_was_copied(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    run.trial()
    run.result(objective=2.0)
    run.weights("t000")
    run.items("t000")
    run.state("t001", 64)
    run.study(5)
    (run.run_dir / "ledger" / "commands.jsonl").write_text('{"command": "pause"}\n')
    Copier(run.run_dir, Store(uri)).step()
    copied = truth(run.run_dir)
    assert back(uri, tmp_path / "back") == copied
    assert {p.name for p in (tmp_path / "back").iterdir()} == {
        "checkpoints", "items", "ledger", "spec.yaml", "study.journal", "weights",
    }, "no cache, no logs, no lock"  # fmt: skip
    assert (tmp_path / "back").stat().st_mode & 0o77 == 0, "private"
    before = (run.run_dir / "weights/t000/model.safetensors").stat().st_mtime_ns
    assert (tmp_path / "back/weights/t000/model.safetensors").stat().st_mtime_ns == before


def test_copier__sends_only_what_is_new(run: MirroredRun, uri: str) -> None:
    run.weights("t000")
    run.report("a page")
    store = Meter(uri)
    copier = Copier(run.run_dir, store)
    copier.step()
    store.calls.clear()
    copier.step()
    assert store.calls == [], "nothing new, nothing written"
    run.trial()
    copier.step()
    assert {c.split("/")[0] for c in store.calls} == {
        "write ledger",
        "write mirror",
        "remove mirror",
        "remove ledger",
    }
    store.calls.clear()
    run.report("another page")
    copier.step()
    assert store.calls == ["send report.html"]


def test_copier__sends_a_long_ledger_in_chunks(
    run: MirroredRun, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "CHUNK_BYTES", 2000)
    store = Meter(uri)
    copier = Copier(run.run_dir, store)
    run.trial()
    for _ in range(40):
        run.result(objective=1.0)
        before = sum(store.sent.values())
        copier.step()
        rows = sum(size for name, size in store.sent.items() if name.startswith("ledger"))
        assert sum(store.sent.values()) - before < 2 * 2000 + 6000, "a part, new rows and a manifest"
    size = (run.run_dir / "ledger/ledger.jsonl").stat().st_size
    assert size > 10 * 2000
    assert rows < 3 * size
    kept = newest(store)
    assert kept is not None
    parts = kept.grown["ledger/ledger.jsonl"]
    assert [p.size for p in parts[:-1]] == [2000] * (len(parts) - 1)
    there = [n for n in store.names("ledger") if "ledger.jsonl" in n]
    assert there == sorted(p.name for p in parts), "shorter versions of a part are removed"
    assert back(uri, tmp_path / "back") == truth(run.run_dir)


def test_copier__does_not_send_a_partial_row(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    run.trial()
    whole = (run.run_dir / "ledger/ledger.jsonl").read_bytes()
    with (run.run_dir / "ledger/ledger.jsonl").open("ab") as ledger:
        ledger.write(b'{"seq": 3, "ti')
    Copier(run.run_dir, Store(uri)).step()
    assert back(uri, tmp_path / "back")["ledger/ledger.jsonl"] == whole


def test_copier__keeps_a_checkpoint_until_the_next_is_copied(
    run: MirroredRun, uri: str, tmp_path: Path
) -> None:
    run.weights("t000")
    run.state("t001", 64)
    copier = Copier(run.run_dir, Store(uri))
    copier.step()
    shutil.rmtree(run.run_dir / "weights/t000")
    run.weights("t002")
    run.state("t001", 128)
    store = Meter(uri, break_at=5)
    with pytest.raises(ConnectionError):
        Copier(run.run_dir, store).step()
    assert any(
        name.startswith(("checkpoints/t001/64", "checkpoints/t001/128")) for name in back(uri, tmp_path / "a")
    )
    Copier(run.run_dir, Store(uri)).step()
    assert back(uri, tmp_path / "b") == truth(run.run_dir)
    assert not Store(uri).names("weights/t000")


def test_copier__copies_a_folder_completely_or_not_at_all(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    run.state("t001", 64)
    run.weights("t000")

    class Vanishing(Store):
        def send(self, name: str, source: BinaryIO, between: Callable[[], object]) -> str:
            if "64/complete" in name:
                run.state("t001", 128)  # and its older siblings go
            return super().send(name, source, between)

    Copier(run.run_dir, Vanishing(uri)).step()
    found = back(uri, tmp_path / "back")
    assert {Path(n).parent.name for n in found if n.startswith("checkpoints")} == set()
    assert "weights/t000/model.safetensors" in found


def test_copier__replaces_a_rewritten_study(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    run.study(50)
    copier = Copier(run.run_dir, Store(uri))
    copier.step()
    run.new_study(80)
    copier.step()
    assert back(uri, tmp_path / "back") == truth(run.run_dir)
    run.new_study(3)
    Copier(run.run_dir, Store(uri)).step()
    assert back(uri, tmp_path / "back") == truth(run.run_dir)


def test_copier__copies_report_and_best_and_weights_once(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    run.weights("t000")
    run.best("t000")
    run.report("a page")
    Copier(run.run_dir, Store(uri)).step()
    found = {str(p.relative_to(tmp_path / "mirror")) for p in (tmp_path / "mirror").rglob("*") if p.is_file()}
    assert {"report.html", "best/README.md", "weights/t000/model.safetensors"} <= found
    assert "best/model.safetensors" not in found
    assert (tmp_path / "mirror").stat().st_mode & 0o77 == 0


def test_copier__sends_rows_during_a_large_file(
    run: MirroredRun, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweepft.mirror.store._CHUNK", 100)
    times = iter(range(0, 1000, 20))
    store = Meter(uri)
    copier = Copier(run.run_dir, store, every=30.0, clock=lambda: next(times))
    run.trial()
    copier.step()
    run.weights("t000", b"w" * 1000)
    send, seen = store.send, []

    def slow(name: str, source: BinaryIO, between: Callable[[], object]) -> str:
        def tick() -> None:
            if name.endswith("model.safetensors"):
                run.result()
            between()
            seen.append(len(read_ledger(tmp_path / "peek")) if peek() else 0)

        return send(name, source, tick)

    def peek() -> bool:
        back(uri, tmp_path / "peek")
        return True

    monkeypatch.setattr(store, "send", slow)
    copier.step()
    assert seen[-1] > seen[0], "rows came while the weights were on their way"
    copier.step()
    assert back(uri, tmp_path / "back") == truth(run.run_dir)


@pytest.mark.parametrize("torn", [False, True])
def test_copier__mirror_is_complete_after_any_failure(
    tmp_path: Path, torn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line breaks at every single call; a torn one leaves half an object. What was mirrored stays so."""
    monkeypatch.setattr(contents, "CHUNK_BYTES", 1500)
    for break_at in range(200):
        folder = tmp_path / f"{break_at}"
        run, uri = MirroredRun(folder / "run"), (folder / "mirror").as_uri()
        acts: list[Callable[[], object]] = [
            run.trial, run.result, lambda run=run: run.weights("t000"), lambda run=run: run.state("t001", 64),
            run.result, lambda run=run: run.study(9), lambda run=run: run.state("t001", 128),
            lambda run=run: run.weights("t000", b"again" * 20), lambda run=run: run.new_study(4),
            lambda run=run: shutil.rmtree(run.run_dir / "weights/t000"), run.result, run.result,
        ]  # fmt: skip
        store = Meter(uri, break_at=break_at, torn=torn)
        copier, states, done = Copier(run.run_dir, store), [], 0
        for act in acts:
            act()
            try:
                copier.step()
            except ConnectionError:
                break
            states.append(truth(run.run_dir))
            done += 1
        if done:
            found = back(uri, folder / "back")
            rows = states[-1]["ledger/ledger.jsonl"]
            assert found["ledger/ledger.jsonl"].startswith(rows), "nothing that was mirrored is lost"
            for name, data in found.items():
                whole = [state.get(name) for state in [*states, truth(run.run_dir)]]
                assert data in whole, (break_at, name)
        store.break_at = None
        copier.step()
        assert back(uri, folder / "after") == truth(run.run_dir)
        there = {n for top in ("ledger", "weights", "checkpoints", "study.journal") for n in store.names(top)}
        manifest = newest(store)
        assert manifest is not None
        assert there == manifest.objects - {"spec.yaml"}, "no half of anything is left behind"
        run.ledger.close()
        if done == len(acts):
            assert break_at > 30
            return
    pytest.fail("the copying never came to its end")


def test_copier__ignores_a_torn_manifest(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    run.trial()
    Copier(run.run_dir, Store(uri)).step()
    before = truth(run.run_dir)
    (name,) = Store(uri).names("mirror")
    data = Store(uri).read(name)
    Store(uri).write(f"mirror/0000000099-{'0' * 64}.json", data[: len(data) // 2])
    assert back(uri, tmp_path / "back") == before
    run.result()
    Copier(run.run_dir, Store(uri)).step()
    assert back(uri, tmp_path / "back") == truth(run.run_dir)
    assert len(Store(uri).names("mirror")) == 1


def test_copier__refills_an_emptied_mirror(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    run.weights("t000")
    copier = Copier(run.run_dir, Store(uri))
    copier.step()
    shutil.rmtree(tmp_path / "mirror")
    run.trial()
    with pytest.raises(OSError, match="sent again"):
        copier.step()
    copier.step()
    assert back(uri, tmp_path / "back") == truth(run.run_dir)


def test_copier__rejects_the_mirror_of_another_run(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    Copier(run.run_dir, Store(uri)).step()
    other = MirroredRun(tmp_path / "other")
    for act in (
        lambda: Copier(other.run_dir, Store(uri)).step(),
        lambda: check(other.run_dir, uri),
        lambda: check(tmp_path / "new", uri),
    ):
        with raises(MirrorError, "mirror.other_run"):
            act()
    other.ledger.close()
    check(run.run_dir, uri)


def test_copier__rejects_a_mirror_that_is_ahead(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    shutil.copytree(run.run_dir, tmp_path / "older")
    run.trial()
    Copier(run.run_dir, Store(uri)).step()
    for act in (
        lambda: check(tmp_path / "older", uri),
        lambda: Copier(tmp_path / "older", Store(uri)).step(),
    ):
        with raises(MirrorError, "mirror.ahead"):
            act()


def test_copier__stops_when_another_driver_took_over(run: MirroredRun, uri: str, tmp_path: Path) -> None:
    first = Copier(run.run_dir, Store(uri))
    first.step()
    fetch(uri, tmp_path / "elsewhere")
    second = Copier(tmp_path / "elsewhere", Store(uri))
    with (tmp_path / "elsewhere/ledger/ledger.jsonl").open("ab") as ledger:
        ledger.write(b"a row of the second driver\n")
    second.step()
    run.trial()
    for _ in range(3):
        with raises(MirrorError, "mirror.taken"):
            first.step()
    second.step()


def test_copier__random_changes_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "CHUNK_BYTES", 3000)
    rng = random.Random(7)
    run, uri = MirroredRun(tmp_path / "run"), (tmp_path / "mirror").as_uri()
    names = [f"t{i:03d}" for i in range(4)]
    for name in names:
        run.trial(name)
    copier = Copier(run.run_dir, Store(uri))
    for turn in range(120):
        name = rng.choice(names)
        rng.choice([
            lambda name=name: run.result(name, objective=1.0), lambda name=name: run.result(name),
            lambda name=name: run.weights(name, os.urandom(rng.randrange(400))),
            lambda name=name: shutil.rmtree(run.run_dir / "weights" / name, ignore_errors=True),
            lambda name=name, turn=turn: run.state(name, turn),
            lambda: run.study(20), lambda: run.new_study(rng.randrange(90)),
        ])()  # fmt: skip
        if rng.random() < 0.3:
            copier = Copier(run.run_dir, Store(uri))  # another process
        copier.step()
        if turn % 10 == 0:
            assert back(uri, tmp_path / "back") == truth(run.run_dir)
    assert back(uri, tmp_path / "back") == truth(run.run_dir)
    run.ledger.close()
