"""Ten specs, each broken in one way, and one broken in eight: the problems that ``load`` reports."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.errors import raises
from sweepft.errors import Problem, SpecError
from sweepft.spec import load
from sweepft.spec.fields import leaf_fields
from sweepft.spec.problems import RENAMED_KEYS, RENAMED_VALUES
from sweepft.spec.sweep import SweepSpec

BROKEN = Path(__file__).parent / "broken"

# name: line, key, part of the value, part of the remedy that depends on the spec
TABLE = {
    "wrong_key": (9, "train.micro_bach", "", "micro_batch"),
    "wrong_type": (12, "search.trials", "'four'", ""),
    "missing_file": (4, "data.train.0.path", "trian.jsonl", ""),
    "batch_that_does_not_fit": (15, "search.space.batch_size.choice.2", "20", "16 or 24"),
    "empty_space": (15, "search.space", "{}", ""),
    "warmup_over_1": (17, "search.space.warmup.choice.1", "1.1", "[0, 1)"),
    "unknown_schedule": (18, "search.space.schedule.choice.1", "'cosin'", "cosine"),
    "validation_overlaps_train": (5, "data.validation.0.path", "train.jsonl", "fraction"),
    "negative_learning_rate": (16, "search.space.learning_rate.log_uniform.0", "-0.0001", ""),
    "model_without_tokenizer": (2, "model.path", "model_without_tokenizer", "save_pretrained"),
}


def broken(name: str, place: Path) -> Path:
    """A copy of a broken spec beside the files it names."""
    path = place / f"{name}.yaml"
    path.write_text((BROKEN / f"{name}.yaml").read_text())
    return path


def test_load__table_of_broken_specs_is_complete() -> None:
    assert sorted(path.stem for path in BROKEN.glob("*.yaml")) == sorted(TABLE)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_load__reports_place_key_rule_value_and_remedy_once(name: str, place: Path) -> None:
    line, key, value, hint = TABLE[name]
    path = broken(name, place)
    with raises(SpecError, key) as caught:
        load(path)
    (problem,) = caught.value.problems
    assert problem.where == f"{path}:{line}"
    assert problem.rule
    assert not value or value in repr(problem.value)
    assert hint in problem.remedy
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"{path}:{line}: {key}: ")


def test_load__reports_all_problems_at_once(place: Path) -> None:
    text = (place / "valid.yaml").read_text()
    for old, new in [
        ("{path: model}", "{path: model_without_tokenizer}"),
        ("path: train.jsonl", "path: trian.jsonl"),
        ("max_length: 128", "max_lenght: 128"),
        ("[8, 16]", "[8, 16, 20]"),
        ("[1e-4, 1e-2]", "[1e-2, 1e-4]"),
        ("[0.0, 0.1]", "[0.0, 1.1]"),
        ("[constant, cosine]", "[constant, cosin]"),
        ("workers_per_trial: 2", "workers_per_trial: 2, concurrent_trials: 0"),
    ]:
        assert old in text
        text = text.replace(old, new)
    (place / "all.yaml").write_text(text)
    with raises(SpecError) as caught:
        load(place / "all.yaml")
    assert set(caught.value.keys) == {
        "model.path",
        "data.train.0.path",
        "data.max_lenght",
        "search.space.batch_size.choice.2",
        "search.space.learning_rate",
        "search.space.warmup.choice.1",
        "search.space.schedule.choice.1",
        "resources.concurrent_trials",
    }
    lines = str(caught.value).splitlines()
    assert all(re.match(r".*all\.yaml:\d+: [\w.]+: ", line) for line in lines[::2]), lines


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_load__old_key_names_the_new_one(
    old: str, new: str, problems: Callable[..., list[Problem]], place: Path
) -> None:
    assert new in set(leaf_fields(SweepSpec))
    (problem,) = problems(f"{old}=x")
    assert (problem.key, problem.where) == (old, f"--set {old}=x")
    assert new in problem.remedy
    name = old.rpartition(".")[2]
    path = place / "old.yaml"
    path.write_text((place / "valid.yaml").read_text().replace(f"  {new.rpartition('.')[2]}:", f"  {name}:"))
    if f"  {name}:" in path.read_text():  # the new key is not reported as missing
        with raises(SpecError, old) as caught:
            load(path)
        assert caught.value.keys == (old,)


@pytest.mark.parametrize(("key", "old", "new"), [(*old, new) for old, new in RENAMED_VALUES.items()])
def test_load__old_value_names_the_new_one(
    key: str, old: str, new: str, problems: Callable[..., list[Problem]]
) -> None:
    assert problems(f"{key}={new}") == []
    (problem,) = problems(f"{key}={old}")
    assert problem.key == key
    assert new in problem.remedy
