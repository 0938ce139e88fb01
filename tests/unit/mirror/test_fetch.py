"""What a mirror gives back is what was put there, or nothing at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.errors import raises
from support.mirrored_run import MirroredRun, truth
from sweepft.errors import LedgerCorrupt, MirrorError, StorageError
from sweepft.mirror.copy import Copier
from sweepft.mirror.fetch import fetch
from sweepft.mirror.store import Chunk, FileEntry, Manifest, Store, newest


@pytest.fixture
def uri(tmp_path: Path) -> str:
    run = MirroredRun(tmp_path / "run")
    run.trial()
    run.result(objective=2.0)
    run.weights("t000")
    run.ledger.close()
    address = (tmp_path / "mirror").as_uri()
    Copier(tmp_path / "run", Store(address)).step()
    return address


def objects(tmp_path: Path, pattern: str) -> list[Path]:
    return [p for p in (tmp_path / "mirror").rglob(pattern) if p.is_file()]


@pytest.mark.parametrize("pattern", ["model.safetensors", "ledger/ledger.jsonl/*"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"X"), "does not match the digest of its manifest"),
        (lambda p: p.write_bytes(b""), "does not match the digest of its manifest"),
        (Path.unlink, "is missing"),
    ],
)
def test_fetch__names_a_damaged_object_and_restores_nothing(
    tmp_path: Path, uri: str, pattern: str, damage: Callable[[Path], object], words: str
) -> None:
    (found,) = objects(tmp_path, pattern)
    damage(found)
    with raises(MirrorError, "mirror.damaged") as caught:
        fetch(uri, tmp_path / "back")
    assert f"{found.name}: {words}" in str(caught.value)
    assert not (tmp_path / "back").exists()
    assert not list(tmp_path.glob(".back*"))


def test_fetch__rejects_a_ledger_damaged_before_copying(tmp_path: Path) -> None:
    run = MirroredRun(tmp_path / "run")
    run.ledger.close()
    ledger = tmp_path / "run/ledger/ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes().replace(b"my-sweep", b"no-sweep"))
    Copier(tmp_path / "run", Store((tmp_path / "mirror").as_uri())).step()
    with pytest.raises(LedgerCorrupt):
        fetch((tmp_path / "mirror").as_uri(), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_fetch__does_not_touch_a_folder_with_files(tmp_path: Path, uri: str) -> None:
    (tmp_path / "back").mkdir()
    fetch(uri, tmp_path / "back")  # an empty one is taken
    before = truth(tmp_path / "back")
    with raises(MirrorError, "mirror.not_empty"):
        fetch(uri, tmp_path / "back")
    assert truth(tmp_path / "back") == before == truth(tmp_path / "run")


def test_fetch__names_a_folder_that_cannot_be_written(tmp_path: Path, uri: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with raises(StorageError, "mirror.folder") as caught:
        fetch(uri, tmp_path / "file" / "back")
    assert "file/.back" in str(caught.value)


@pytest.mark.parametrize("there", [False, True])
def test_fetch__rejects_an_address_without_a_run(tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "mirror").mkdir()
    with raises(MirrorError, "mirror.no_run"):
        fetch((tmp_path / "mirror").as_uri(), tmp_path / "back")


@pytest.mark.parametrize(
    ("uri", "key"),
    [
        ("s3://me:very-secret-key@bucket/x", "mirror.address"),
        ("ftp://host/x", "mirror.address"),
        ("s3://bucket", "mirror.address"),
        ("s3://bucket/x?colour=red", "mirror.refused"),
    ],
)
def test_fetch__rejects_an_invalid_address(tmp_path: Path, uri: str, key: str) -> None:
    with raises(MirrorError, key) as caught:
        fetch(uri, tmp_path / "back")
    assert "very-secret-key" not in str(caught.value)


def test_fetch__retries_when_the_mirror_changes_meanwhile(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, moved = Store.fetch, []

    def late(self: Store, name: str, file: Path, size: int) -> str:
        if name.endswith("model.safetensors") and not moved:
            moved.append(name)
            shutil.rmtree(tmp_path / "run/weights/t000")
            Copier(tmp_path / "run", Store(uri)).step()
        return original(self, name, file, size)

    monkeypatch.setattr(Store, "fetch", late)
    fetch(uri, tmp_path / "back")
    assert moved
    assert truth(tmp_path / "back") == truth(tmp_path / "run")


OUTSIDE = [
    "../outside",
    "/etc/outside",
    "weights/../../outside",
    "logs/x",
    "weights/.hidden",
    "weights//x",
    "",
]


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("grown", [True, False])
def test_fetch__rejects_a_manifest_that_leaves_the_run_folder(
    tmp_path: Path, uri: str, path: str, grown: bool
) -> None:
    store = Store(uri)
    good = newest(store)
    assert good is not None
    (part,) = good.grown["ledger/ledger.jsonl"]
    bad = Manifest(
        99,
        grown={**good.grown, path: (part,)} if grown else good.grown,
        kept=good.kept if grown else {path: FileEntry(1, "0" * 64, 0)},
    )
    store.write(*bad.encode())
    with raises(MirrorError, "mirror.foreign"):
        fetch(uri, tmp_path / "back")
    assert not list(tmp_path.rglob("outside"))


def test_fetch__does_not_read_a_chunk_outside_of_the_mirror(tmp_path: Path, uri: str) -> None:
    (tmp_path / "secret").write_text("mine")
    bad = Manifest(99, grown={"ledger/ledger.jsonl": (Chunk("../secret", 4, "0" * 64),)})
    Store(uri).write(*bad.encode())
    with raises(MirrorError, "mirror.foreign"):
        fetch(uri, tmp_path / "back")


def test_fetch__rejects_a_manifest_of_another_version(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweepft.mirror.store._VERSION", 2)
    good = newest_of_any_version(tmp_path)
    assert json.loads(good)["version"] == 1
    with raises(MirrorError, "mirror.version"):
        fetch(uri, tmp_path / "back")


def newest_of_any_version(tmp_path: Path) -> str:
    return max((tmp_path / "mirror/mirror").iterdir()).read_text()
