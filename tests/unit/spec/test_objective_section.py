"""The ``objective`` section: what it means, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.errors import raises
from support.specs import spec, spec_dict
from sweepft.errors import SpecError
from sweepft.spec import dump, from_dict, load

TASK = {"task": "gsm8k", "metric": "exact_match", "limit": 200}


def test_objective__validation_loss_is_minimized_by_default() -> None:
    plain, named = spec(), spec(objective={"minimize": "validation_loss"})
    assert plain == named
    assert (plain.objective.task, plain.objective.mode) == (None, "min")
    assert plain.to_dict()["objective"] == {"minimize": "validation_loss", "at": "end"}


@pytest.mark.parametrize(("key", "mode"), [("maximize", "max"), ("minimize", "min")])
def test_objective__of_a_task_has_its_direction_and_survives_a_file(
    tmp_path: Path, key: str, mode: str
) -> None:
    found = spec(objective={key: TASK})
    assert found.objective.task is not None
    assert (found.objective.task.limit, found.objective.task.max_share, found.objective.mode) == (
        200,
        0.1,
        mode,
    )
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
        ({"maximize": TASK | {"max_share": 1.5}}, "objective.maximize.max_share"),
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
