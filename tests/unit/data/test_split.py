"""Training and validation sets share no example; validation examples are chosen by content and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from sweepft.data.rows import Row
from sweepft.data.split import Split, split_data
from sweepft.errors import DataError
from sweepft.spec.sections import Data


def write(file: Path, texts: Sequence[str]) -> str:
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def split(train: Sequence[str], validation: list[dict[str, Any]], **more: Any) -> Split:
    return split_data(
        Data.model_validate({"train": [{"path": path} for path in train], "validation": validation, **more}),
        remote=False,
    )


def texts(rows: Sequence[Row]) -> list[Any]:
    return [row.content for row in rows]


NUMBERED = [f"row {i}" for i in range(100)]


def test_split__fraction_is_taken_from_training(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", NUMBERED)
    got = split([file], [{"name": "h", "fraction": 0.1}])
    assert (len(got.validation["h"]), len(got.train)) == (10, 90)
    assert set(texts(got.train)) | set(texts(got.validation["h"])) == set(NUMBERED)
    assert [(c.kind, c.rows, c.used) for c in got.check.sources] == [
        ("train", 100, 90),
        ("validation", 10, 10),
    ]


@settings(deadline=None, max_examples=30)
@given(
    picks=st.lists(st.integers(0, 15), min_size=12, max_size=60).filter(lambda p: len(set(p)) > 6),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 9),
)
def test_split__removes_all_copies_of_a_validation_example(
    tmp_path_factory: Any, picks: list[int], fraction: float, seed: int
) -> None:
    folder = tmp_path_factory.mktemp("d")
    variants = [f"Row  {i}" if n % 2 else f"row {i}" for n, i in enumerate(picks)]
    file = write(folder / "a.jsonl", variants)
    validation = [{"name": "h", "fraction": fraction}, {"name": "g", "fraction": 0.1}]
    got = split([file], validation, seed=seed)
    keys = [{row.key() for row in rows} for rows in (got.train, *got.validation.values())]
    assert sum(map(len, keys)) == len(set().union(*keys)) == len(set(picks))
    assert len(got.validation["h"]) == max(1, round(fraction * len(set(picks))))
    assert len(got.validation["h"]) == len(keys[1]), "one copy of each"


def test_split__chooses_by_content(tmp_path: Path) -> None:
    one = write(tmp_path / "a.jsonl", NUMBERED)
    two = write(tmp_path / "b.jsonl", NUMBERED[::-1])
    held = [{"name": "h", "fraction": 0.2}]
    first, second = (set(texts(split([f], held).validation["h"])) for f in (one, two))
    assert first == second != set(texts(split([one], held, seed=1).validation["h"]))


def test_split__limits_are_seeded_nested_and_in_file_order(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", ["x", "y"])
    other = write(tmp_path / "h.jsonl", NUMBERED)

    def held(limit: int, seed: int) -> list[Any]:
        return texts(
            split([train], [{"name": "h", "path": other, "limit": limit}], seed=seed).validation["h"]
        )

    ten, twenty = held(10, 0), held(20, 0)
    assert (len(ten), len(twenty)) == (10, 20)
    assert set(ten) < set(twenty)
    assert ten == sorted(ten, key=NUMBERED.index)
    assert ten != held(10, 1)
    assert held(500, 0) == NUMBERED


def test_split__overlap_error_names_both_places(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", ["a", "b", "c"])
    other = write(tmp_path / "h.jsonl", ["x", "B "])
    with raises(DataError, "data.overlap") as caught:
        split([train], [{"name": "h", "path": other}])
    [problem] = caught.value.problems
    assert problem.where == f"{train}:2"
    assert f"{other}:2" in problem.rule
    assert "data.overlap: drop" in problem.remedy


@pytest.mark.parametrize("kind", ["validation", "test"])
def test_split__overlap_can_be_dropped(tmp_path: Path, kind: str) -> None:
    train = write(tmp_path / "t.jsonl", [*NUMBERED, "b", "b"])
    other = write(tmp_path / "h.jsonl", ["x", "b"])
    held = [{"name": "h", "path": other}] if kind == "validation" else [{"name": "h", "fraction": 0.1}]
    test = [{"name": "t", "path": other}] if kind == "test" else []
    got = split([train], held, test=test, overlap="drop")
    assert got.check.overlap_dropped == 2
    assert "b" not in texts(got.train)


def test_split__warns_of_validation_rows_in_a_test_set(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", NUMBERED)
    other = write(tmp_path / "h.jsonl", ["x", "y"])
    got = split([train], [{"name": "h", "path": other}], test=[{"name": "t", "path": other}])
    assert "2 of its rows are also in test set t" in got.check.warnings[0]


def test_split__counts_duplicates(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", ["a", "A", "b", "", "c"])
    got = split([train], [{"name": "h", "path": write(tmp_path / "h.jsonl", ["x"])}])
    assert got.check.sources[0].duplicates == 1
    assert "repeat" in got.check.warnings[0]


@pytest.mark.parametrize(
    ("validation", "rows"), [({"fraction": 0.9}, ["a"]), ({"fraction": 0.5}, ["a", "A"])]
)
def test_split__refuses_a_fraction_that_leaves_no_training(
    tmp_path: Path, validation: dict[str, Any], rows: list[str]
) -> None:
    with raises(DataError, "data.validation.h"):
        split([write(tmp_path / "t.jsonl", rows)], [{"name": "h", **validation}])


def test_split__refuses_no_training_rows(tmp_path: Path) -> None:
    train, other = (write(tmp_path / name, ["a", "b"]) for name in ("t.jsonl", "h.jsonl"))
    with raises(DataError, "data.train"):
        split([train], [{"name": "h", "path": other}], overlap="drop")


def test_split__raises_the_problems_of_all_files(tmp_path: Path) -> None:
    for name in ("t.jsonl", "h.jsonl"):
        (tmp_path / name).write_text("{\n")
    with pytest.raises(DataError) as caught:
        split([str(tmp_path / "t.jsonl")], [{"name": "h", "path": str(tmp_path / "h.jsonl")}])
    assert len(caught.value.problems) == 2


def test_check__skips_hub_data(tmp_path: Path) -> None:
    got = split(["org/data"], [{"name": "h", "path": write(tmp_path / "h.jsonl", ["x"])}])
    assert [(c.path, c.skipped) for c in got.check.sources] == [
        ("org/data", True),
        (f"{tmp_path}/h.jsonl", False),
    ]
