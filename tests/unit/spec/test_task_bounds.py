"""Bounds on tasks that trials are measured on: which forms are allowed, and what is refused with which remedy."""

from __future__ import annotations

from typing import Any

import pytest

from support.specs import spec, spec_dict
from sweepft.errors import SpecError
from sweepft.spec import dump, from_dict, load

GSM = {"task": "gsm8k", "metric": "exact_match", "limit": 100}
ERRORS = {"data": "prompts.jsonl", "metric": "my:errors", "lower_is_better": True}
MEASURED = {"objective": {"measure": [GSM, ERRORS]}}


def bounded(name: str, bound: dict[str, Any], **sections: Any) -> dict[str, Any]:
    search = {"subject_to": {name: bound}}
    return spec_dict(search=search, **(MEASURED | sections))


@pytest.mark.parametrize(
    ("name", "bound", "floor"),
    [
        ("gsm8k", {"at_least": 0.3}, True),
        ("gsm8k", {"at_least": -1.5}, True),
        ("gsm8k", {"at_most": 0.05, "below": "base"}, True),
        ("gsm8k", {"at_most": 0, "below": "base"}, True),
        ("prompts", {"at_most": 0.05, "above": "base"}, False),
        ("prompts", {"at_most": 0}, False),
        ("own", {"at_most": 0.05, "above": "base"}, False),
        ("own", {"at_most": 1.2}, False),
    ],
)
def test_bound__forms_that_are_allowed_survive_a_file(
    tmp_path: Any, name: str, bound: dict[str, Any], floor: bool
) -> None:
    found = from_dict(bounded(name, bound))
    assert found.search.subject_to[name].is_floor is floor
    (tmp_path / "spec.yaml").write_text(dump(found))
    again = load(tmp_path / "spec.yaml", check_files=False)
    assert again.search.subject_to == found.search.subject_to
    assert [wanted.names for wanted in again.objective.measure] == [
        ("gsm8k", "exact_match"),
        ("prompts", "errors"),
    ]


def test_bound__applies_to_the_task_of_the_objective_too() -> None:
    task = {k: v for k, v in GSM.items() if k != "limit"}
    from_dict(bounded("gsm8k", {"at_least": 0.3}, objective={"maximize": task}))
    with pytest.raises(SpecError) as caught:
        from_dict(bounded("gsm8k", {"at_least": 0.3}, objective={"minimize": task}))
    assert caught.value.problems[0].key == "search.subject_to.gsm8k"


@pytest.mark.parametrize(
    ("name", "bound", "key", "words"),
    [
        ("gsm8k", {"at_least": 0.3, "at_most": 0.5}, "search.subject_to.gsm8k", "exactly one"),
        ("gsm8k", {}, "search.subject_to.gsm8k", "exactly one"),
        ("gsm8k", {"at_least": 0.3, "below": "base"}, "search.subject_to.gsm8k", "at_most with below: base"),
        (
            "gsm8k",
            {"at_most": 0.1, "below": "base", "above": "base"},
            "search.subject_to.gsm8k",
            "above and below",
        ),
        ("gsm8k", {"at_most": -0.1, "below": "base"}, "search.subject_to.gsm8k", "negative"),
        ("gsm8k", {"at_most": 0.1, "below": "zero"}, "search.subject_to.gsm8k.below", "base"),
        ("gsm8k", {"at_most": 0.1, "above": "base"}, "search.subject_to.gsm8k", "below: base"),
        ("gsm8k", {"at_most": 0.9}, "search.subject_to.gsm8k", "at_least"),
        ("prompts", {"at_least": 3}, "search.subject_to.prompts", "at_most"),
        ("own", {"at_least": 1.0}, "search.subject_to.own", "from below"),
        ("own", {"at_most": 0}, "search.subject_to.own", "greater than 0"),
        ("mmlu", {"at_least": 0.3}, "search.subject_to.mmlu", "objective.measure"),
        ("final", {"at_most": 1.0}, "search.subject_to.final", "test set"),
        ("hellaswag", {"at_least": 0.3}, "search.subject_to.hellaswag", "measure it in the search"),
    ],
)
def test_bound__wrong_uses_are_refused_with_a_remedy(
    name: str, bound: dict[str, Any], key: str, words: str
) -> None:
    data = bounded(name, bound, evaluate={"tasks": ["hellaswag"]})
    data["data"]["test"] = [{"name": "final", "path": "org/test"}]
    with pytest.raises(SpecError) as caught:
        from_dict(data)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"measure": [GSM, GSM]}, "objective"),
        ({"maximize": {"task": "gsm8k", "metric": "acc"}, "measure": [GSM]}, "objective"),
        ({"measure": [GSM | {"task": "own"}]}, "objective.measure.0.task"),
        ({"measure": [GSM, ERRORS | {"data": "own.jsonl"}]}, "objective.measure.1.data"),
        ({"measure": [{"task": "gsm8k"}]}, "objective.measure.0.metric"),
        ({"measure": [GSM | {"limit": 0}]}, "objective.measure.0.limit"),
        ({"measure": [GSM | {"include_path": "nowhere"}]}, "objective.measure.0.include_path"),
        ({"maximize": GSM | {"lower_is_better": True}}, "objective.maximize.lower_is_better"),
    ],
)
def test_measure__wrong_uses_are_refused_at_their_key(section: dict[str, Any], key: str) -> None:
    files = "include_path" in str(section)
    with pytest.raises(SpecError) as caught:
        from_dict(spec_dict(objective=section, model={"path": "org/model"}), check_files=files)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_measure__may_stand_beside_any_objective() -> None:
    assert list(spec(objective={"measure": [GSM]}).objective.measured) == ["objective.measure.0"]
    both = spec(objective={"maximize": {"task": "arc", "metric": "acc"}, "measure": [GSM]}).objective
    assert {place: wanted.names[0] for place, wanted in both.measured.items()} == {
        "objective.maximize": "arc",
        "objective.measure.0": "gsm8k",
    }
