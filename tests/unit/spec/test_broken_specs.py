"""Ten specs, each broken in one way: what the reader is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sweepft.errors import SpecError
from sweepft.spec import load

BROKEN = Path(__file__).parent / "broken"

# file: line, key, rule, value, remedy (the last three as parts of what is said)
TABLE = {
    "wrong_key": (9, "train.micro_bach", "is not a known key", None, "did you mean `micro_batch`?"),
    "wrong_type": (12, "search.trials", "must be a whole number", "'four'", "without quotes"),
    "missing_file": (4, "data.train.0.path", "there is no such file", "trian.jsonl", "spec's folder"),
    "batch_that_does_not_fit": (
        15,
        "search.space.batch_size.choice.2",
        "is not a multiple of micro_batch 4 x workers_per_trial 2 = 8",
        "20",
        "use 16 or 24, or set train.micro_batch to 2",
    ),
    "empty_space": (15, "search.space", "must have at least 1 entry", "{}", "Fields of `train`"),
    "warmup_over_1": (17, "search.space.warmup.choice.1", "must be less than 1", "1.1", "in [0, 1)"),
    "unknown_schedule": (
        18,
        "search.space.schedule.choice.1",
        "must be one of 'constant', 'linear', 'cosine', 'wsd', 'inverse_sqrt' or 'polynomial'",
        "'cosin'",
        "did you mean `cosine`?",
    ),
    "validation_overlaps_train": (
        5,
        "data.validation.0.path",
        "must not overlap with training, but is the file of data.train.0",
        "train.jsonl",
        "fraction: 0.03",
    ),
    "negative_learning_rate": (
        16,
        "search.space.learning_rate.log_uniform.0",
        "must be greater than 0",
        "-0.0001",
        "both included and positive",
    ),
    "model_without_tokenizer": (
        2,
        "model.path",
        "no tokenizer",
        "model_without_tokenizer",
        "save_pretrained",
    ),
}


def test_the_table_is_complete() -> None:
    assert sorted(path.stem for path in BROKEN.glob("*.yaml")) == sorted(TABLE)


@pytest.mark.parametrize("name", sorted(TABLE))
def test_says_file_line_rule_value_and_remedy(name: str, place: Path) -> None:
    line, key, rule, value, remedy = TABLE[name]
    path = place / f"{name}.yaml"
    path.write_text((BROKEN / f"{name}.yaml").read_text())
    with pytest.raises(SpecError) as caught:
        load(path)
    first = caught.value.problems[0]
    assert (first.where, first.key) == (f"{path}:{line}", key)
    assert rule in first.rule
    assert value is None or value in repr(first.value)
    assert remedy in first.remedy
    assert caught.value.exit_code == 2
    assert str(caught.value).startswith(f"{path}:{line}: {key}: ")


@pytest.mark.parametrize("name", sorted(TABLE))
def test_one_fault_is_told_once(name: str, place: Path) -> None:
    path = place / f"{name}.yaml"
    path.write_text((BROKEN / f"{name}.yaml").read_text())
    with pytest.raises(SpecError) as caught:
        load(path)
    assert [problem.key for problem in caught.value.problems[1:]] == []


def test_all_problems_are_told_at_once(place: Path) -> None:
    """A spec with eight faults in different sections names all eight."""
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
    with pytest.raises(SpecError) as caught:
        load(place / "all.yaml")
    assert {problem.key for problem in caught.value.problems} == {
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
