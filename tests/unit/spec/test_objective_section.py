"""The ``objective`` section: what it means, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.errors import raises
from support.specs import spec, spec_dict
from sweepft.errors import SpecError
from sweepft.spec import OwnMetric, dump, from_dict, load

TASK = {"task": "gsm8k", "metric": "exact_match", "limit": 200}


def test_objective__validation_loss_is_minimized_by_default() -> None:
    plain, named = spec(), spec(objective={"minimize": "validation_loss"})
    assert plain == named
    assert (plain.objective.task, plain.objective.mode) == (None, "min")
    assert plain.to_dict()["objective"] == {
        "minimize": "validation_loss",
        "max_share": 0.1,
        "measure": [],
        "at": "end",
    }


@pytest.mark.parametrize(("key", "mode"), [("maximize", "max"), ("minimize", "min")])
def test_objective__of_a_task_has_its_direction_and_survives_a_file(
    tmp_path: Path, key: str, mode: str
) -> None:
    found = spec(objective={key: TASK})
    assert found.objective.task is not None
    assert (found.objective.task.limit, found.objective.mode) == (200, mode)
    assert found.objective.key == f"objective.{key}"
    (tmp_path / "spec.yaml").write_text(dump(found))
    assert load(tmp_path / "spec.yaml", check_files=False) == found


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"maximize": TASK, "minimize": TASK}, "objective"),
        ({"maximize": TASK, "minimize": "validation_loss"}, "objective"),
        ({"maximize": "validation_loss"}, "objective.maximize"),
        ({"maximize": "gsm8k"}, "objective.maximize"),
        ({"minimize": "loss"}, "objective.minimize"),
        ({"maximise": TASK}, "objective.maximise"),
        ({"maximize": {"task": "gsm8k"}}, "objective.maximize.metric"),
        ({"maximize": TASK | {"limit": 0}}, "objective.maximize.limit"),
        ({"maximize": TASK, "max_share": 1.5}, "objective.max_share"),
        ({"maximize": TASK | {"max_share": 0.5}}, "objective.maximize.max_share"),
        ({"maximize": TASK | {"task": "own"}}, "objective.maximize.task"),
        ({"minimize": TASK | {"task": "final"}}, "objective.minimize.task"),
        ({"maximize": TASK | {"include_path": "nowhere"}}, "objective.maximize.include_path"),
        ({"minimize": TASK | {"include_path": ["nowhere"]}}, "objective.minimize.include_path.0"),
    ],
)
def test_objective__wrong_uses_are_refused_at_their_key(section: dict[str, Any], key: str) -> None:
    data = spec_dict(
        {"data.test": [{"name": "final", "path": "org/test"}]}, objective=section,
        model={"path": "org/model"},
    )  # fmt: skip
    with pytest.raises(SpecError) as caught:
        from_dict(data, check_files=True)
    assert [problem.key for problem in caught.value.problems] == [key]
    assert caught.value.problems[0].remedy


def test_objective__a_missing_harness_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from sweepft import extras
    from sweepft.driver.start import check_packages

    monkeypatch.setattr(extras, "is_installed", lambda module: module != "lm_eval")
    with raises(SpecError, "objective.maximize.task") as caught:
        check_packages(spec(objective={"maximize": TASK}))
    assert "sweepft[eval]" in str(caught.value)
    check_packages(spec())


# --- a function of the user's own ----------------------------------------------------------------------

OWN = {"data": "prompts.jsonl", "metric": "my_metrics:score"}
_SPEC = """\
name: own
model: {path: org/model}
data: {train: [{path: org/rows}], validation: [{name: own, fraction: 0.1}]}
train: {budget: {samples: 64}, micro_batch: 2, learning_rate: 1.0e-3}
search: {trials: 3, space: {batch_size: {choice: [4, 8]}}}
"""


def own_spec(folder: Path, section: str) -> Path:
    (folder / "prompts.jsonl").write_text('{"prompt": "Hi", "completion": "Hello"}\n')
    (folder / "my_metrics.py").write_text("def score(answer, row): return 1\n")
    (folder / "spec.yaml").write_text(f"{_SPEC}objective: {section}\n")
    return folder / "spec.yaml"


def test_own_metric__is_found_beside_the_spec_also_when_the_spec_is_copied(tmp_path: Path) -> None:
    found = load(own_spec(tmp_path, "{maximize: {data: prompts.jsonl, metric: 'my_metrics:score'}}"))
    wanted = found.objective.task
    assert isinstance(wanted, OwnMetric)
    assert wanted.data == str(tmp_path / "prompts.jsonl")
    assert wanted.include_path == (str(tmp_path),)
    assert wanted.names == ("prompts", "score")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "spec.yaml").write_text(dump(found))
    assert load(tmp_path / "run" / "spec.yaml") == found


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"metric": "my_metrics"}, "objective.maximize.metric"),
        ({"metric": "my_metrics.score"}, "objective.maximize.metric"),
        ({"metric": "folder/my_metrics:score"}, "objective.maximize.metric"),
        ({"metric": "no_metrics:score"}, "objective.maximize.metric"),
        ({"metric": None}, "objective.maximize.metric"),
        ({"data": "nothing.jsonl"}, "objective.maximize.data"),
        ({"include_path": "nowhere"}, "objective.maximize.include_path"),
        ({"limit": 0}, "objective.maximize.limit"),
        ({"max_tokens": 0}, "objective.maximize.max_tokens"),
        ({"num_fewshot": 3}, "objective.maximize.num_fewshot"),
        ({"columns": {"nonsense": "x"}}, "objective.maximize.columns"),
        ({"format": "csv"}, "objective.maximize.format"),
    ],
)
def test_own_metric__wrong_uses_are_refused_at_their_key(
    tmp_path: Path, changes: dict[str, Any], key: str
) -> None:
    section = {k: v for k, v in (OWN | changes).items() if v is not None}
    with pytest.raises(SpecError) as caught:
        load(own_spec(tmp_path, json.dumps({"maximize": section})))
    keys = [problem.key for problem in caught.value.problems if not problem.key.startswith("model.")]
    assert keys == [key]
    assert all(problem.remedy for problem in caught.value.problems)


def test_own_metric__a_set_of_its_name_is_refused_and_no_harness_needed() -> None:
    from sweepft.driver.start import check_packages

    data = spec_dict({"data.test": [{"name": "prompts", "path": "org/test"}]}, objective={"maximize": OWN})
    with raises(SpecError, "objective.maximize.data"):
        from_dict(data)
    check_packages(spec(objective={"minimize": OWN}))
