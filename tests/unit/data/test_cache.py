"""A token cache is complete or absent, and returns what was written."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from sweepft.data.cache import TokenRow, TokenSet, write_token_set
from sweepft.errors import DataError, StorageError

ids = st.integers(0, 2**32 - 1)
written = st.lists(
    st.tuples(
        st.lists(st.tuples(ids, st.booleans()), min_size=1, max_size=20),
        st.tuples(ids, st.sampled_from([None, "math", "prose", "日本"])),
    ),
    min_size=1,
    max_size=12,
)


def as_rows(drawn: list[tuple[list[tuple[int, bool]], tuple[int, str | None]]]) -> list[TokenRow]:
    """Valid rows: the first token is no label, the last one is."""
    rows = []
    for tokens, (last, domain) in drawn:
        mask = np.array([False, *(learned for _, learned in tokens[1:]), True])
        rows.append((np.array([*(token for token, _ in tokens), last], np.int64), mask, domain))
    return rows


def rows_of(*lengths: int) -> list[TokenRow]:
    return [(np.arange(n), np.arange(n) > 0, "d") for n in lengths]


@settings(deadline=None, max_examples=40)
@given(drawn=written)
def test_token_set__round_trip(drawn: list[tuple[list[tuple[int, bool]], tuple[int, str | None]]]) -> None:
    rows = as_rows(drawn)
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_token_set(Path(folder, "set"), rows, digest="d", vocab_size=2**32)
        again = pickle.loads(pickle.dumps(tokens))
        assert len(tokens) == len(again) == len(rows)
        for i, (ids, mask, domain) in enumerate(rows):
            for one in (tokens, again):
                got_ids, got_mask = one.row(i)
                assert (got_ids.dtype, got_mask.dtype) == (np.int64, np.bool_)
                assert got_ids.tolist() == ids.tolist()
                assert got_mask.tolist() == mask.tolist()
                assert one.domain_names[one.domains[i]] == (domain or "")
        assert tokens.lengths.tolist() == [len(ids) for ids, _, _ in rows]
        assert tokens.targets.tolist() == [int(mask.sum()) for _, mask, _ in rows]
        assert (tokens.digest, tokens.meta["targets"]) == ("d", tokens.targets.sum())


@pytest.mark.parametrize(("vocab_size", "dtype"), [(100, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32")])
def test_token_set__two_bytes_per_token_for_small_vocabularies(
    tmp_path: Path, vocab_size: int, dtype: str
) -> None:
    tokens = write_token_set(tmp_path / "set", rows_of(5, 3), digest="d", vocab_size=vocab_size)
    assert tokens.meta["dtype"] == dtype
    assert (tmp_path / "set" / "tokens.bin").stat().st_size == 8 * np.dtype(dtype).itemsize


def test_token_set__rows_are_copies(tmp_path: Path) -> None:
    tokens = write_token_set(tmp_path / "set", rows_of(5), digest="d", vocab_size=10)
    ids, mask = tokens.row(0)
    ids[:], mask[:] = 9, False
    assert tokens.row(0)[0].tolist() == [0, 1, 2, 3, 4]
    assert tokens.row(0)[1].sum() == 4


@pytest.mark.parametrize("i", [-1, 2])
def test_token_set__row_out_of_range(tmp_path: Path, i: int) -> None:
    tokens = write_token_set(tmp_path / "set", rows_of(5, 3), digest="d", vocab_size=10)
    with pytest.raises(IndexError):
        tokens.row(i)


def test_write_token_set__keeps_an_existing_folder(tmp_path: Path) -> None:
    write_token_set(tmp_path / "set", rows_of(5), digest="d", vocab_size=10)

    def must_not_run() -> None:
        raise AssertionError("consumed")

    tokens = write_token_set(tmp_path / "set", (must_not_run() for _ in "x"), digest="d", vocab_size=10)  # type: ignore[misc]
    assert len(tokens) == 1


def test_write_token_set__leaves_nothing_on_failure(tmp_path: Path) -> None:
    def breaks() -> object:
        yield from rows_of(5)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        write_token_set(tmp_path / "set", breaks(), digest="d", vocab_size=10)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_write_token_set__second_writer_uses_the_first_result(tmp_path: Path) -> None:
    """The other one finishes while we are still writing."""
    target = tmp_path / "set"

    def slow() -> object:
        yield from rows_of(5)
        write_token_set(target, rows_of(5, 4), digest="d", vocab_size=10)
        yield from rows_of(4)

    tokens = write_token_set(target, slow(), digest="d", vocab_size=10)  # type: ignore[arg-type]
    assert tokens.lengths.tolist() == [5, 4]
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def test_write_token_set__concurrent_processes(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from sweepft.data.cache import write_token_set\n"
        "rows = [(np.arange(n), np.arange(n) > 0, None) for n in range(2, 300)]\n"
        "print(int(write_token_set(sys.argv[1], rows, digest='d', vocab_size=300).targets.sum()))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "set")]
    several = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    outputs = [process.communicate()[0].strip() for process in several]
    assert outputs == [str(sum(range(1, 299)))] * 4
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ((np.array([1]), np.array([True]), None), "2 tokens"),
        ((np.array([1, 2]), np.array([True, True]), None), "first token"),
        ((np.array([1, 2]), np.array([False, False]), None), "other must"),
        ((np.array([1, 2, 3]), np.array([False, True]), None), "equally long"),
        ((np.array([1, 70000]), np.array([False, True]), None), "fit uint16"),
        ((np.array([-1, 2]), np.array([False, True]), None), "fit uint16"),
    ],
)
def test_write_token_set__refuses_broken_rows(tmp_path: Path, row: TokenRow, says: str) -> None:
    with raises(DataError, "tokens") as caught:
        write_token_set(tmp_path / "set", [row], digest="d", vocab_size=100)
    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_write_token_set__refuses_an_empty_set(tmp_path: Path) -> None:
    with raises(DataError, "rows"):
        write_token_set(tmp_path / "set", [], digest="d", vocab_size=100)


@pytest.mark.parametrize(
    "file", ["tokens.bin", "mask.bin", "offsets.bin", "targets.bin", "domains.bin", "meta.json"]
)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_token_set__refuses_damaged_files(tmp_path: Path, file: str, damage: str) -> None:
    folder = write_token_set(tmp_path / "set", rows_of(5, 3), digest="d", vocab_size=10).path
    if damage == "gone":
        (folder / file).unlink()
    else:
        os.truncate(folder / file, (folder / file).stat().st_size - 1)
    with raises(DataError, "cache"):
        TokenSet(folder)


def test_token_set__refuses_another_format(tmp_path: Path) -> None:
    folder = write_token_set(tmp_path / "set", rows_of(5, 3), digest="d", vocab_size=10).path
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with raises(DataError, "cache"):
        TokenSet(folder)


def test_write_token_set__unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with raises(StorageError, "storage"):
        write_token_set(tmp_path / "file" / "set", rows_of(5), digest="d", vocab_size=10)


def test_write_token_set__removes_leftovers_after_a_day(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".tmp-set-1-a", tmp_path / ".tmp-set-2-b"
    old.mkdir()
    fresh.mkdir()
    os.utime(old, (0, 0))
    write_token_set(tmp_path / "set", rows_of(5), digest="d", vocab_size=10)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-set-2-b", "set"]
