# one case a line
"""The sample order in a spec: valid and invalid strategies, phases, replay and weights."""

from __future__ import annotations

from typing import Any

import pytest

from support.specs import spec_dict
from sweepft.errors import SpecError
from sweepft.spec import (
    Curriculum,
    Dimension,
    SweepSpec,
    TrainConfig,
    domain_problems,
    dump,
    from_dict,
    load,
)

TWO = [{"domains": ["knowledge"], "share": 0.4}, {"domains": ["skills"]}]
BOTH = {"choice": ["stacked", "phased"]}


def whole(space: dict[str, Any] | None = None, start: list[Any] | None = None, **data: Any) -> dict[str, Any]:
    train = [{"path": "org/a", "domain": "knowledge"}, {"path": "org/b", "domain": "skills"}]
    space = {"batch_size": {"choice": [4, 8]}, **(space or {})}
    return spec_dict(data={"train": train} | data, search={"start_with": start or [], "space": space})


def problem_keys(*arguments: Any, **data: Any) -> tuple[str, ...]:
    try:
        from_dict(whole(*arguments, **data))
    except SpecError as error:
        return error.keys
    return ()


@pytest.mark.parametrize(
    ("space", "data", "key"),
    [
        ({}, {"strategy": "phased"}, "data.strategy"),
        ({"data.strategy": BOTH}, {}, "search.space.data.strategy"),
        ({}, {"phases": TWO}, "data.phases"),
        ({}, {"replay": 0.1}, "data.replay"),
        ({"data.replay": {"choice": [0.0, 0.1]}}, {}, "search.space.data.replay"),
        ({}, {"strategy": BOTH, "phases": TWO}, "data.strategy"),
        ({}, {"mixture": {"skills": {"choice": [1, 2]}}}, "data.mixture.skills"),
        ({}, {"strategy": "phasd", "phases": TWO}, "data.strategy"),
        ({"data.strategy": {"choice": ["stacked", "phasd"]}}, {"phases": TWO}, "search.space.data.strategy.choice.1"),
        ({"strategy": BOTH}, {"phases": TWO, "strategy": "phased"}, "search.space.strategy"),
        ({"data.strategy": BOTH}, {"phases": TWO, "strategy": "phased"}, "search.space.data.strategy"),
        ({"data.mixture.skills": {"choice": [1.0]}}, {"mixture": {"skills": 2.0}}, "search.space.data.mixture.skills"),
        ({"data.mixture.skills": {"choice": [-1.0, 1.0]}}, {}, "search.space.data.mixture.skills.choice.0"),
        ({"data.mixture.skils": {"choice": [1.0, 2.0]}}, {}, "search.space.data.mixture.skils"),
        ({"data.max_length": {"choice": [8]}}, {}, "search.space.data.max_length"),
        ({"data.replay": {"uniform": [0.0, 1.5]}}, {"phases": TWO, "strategy": "phased"}, "search.space.data.replay.uniform.1"),
        ({}, {"strategy": "phased", "phases": TWO[:1]}, "data.phases"),
        ({}, {"strategy": "phased", "phases": [TWO[0], TWO[1] | {"share": 0.7}]}, "data.phases"),
        ({}, {"strategy": "phased", "phases": [TWO[0], TWO[1] | {"share": 0.5}]}, "data.phases"),
        ({}, {"strategy": "phased", "phases": [TWO[0] | {"share": 0.5}, TWO[1] | {"share": 0.5}, {"domains": ["skills"]}]}, "data.phases"),
        ({}, {"strategy": "phased", "phases": [TWO[0], {"domains": ["skills", "skills"]}]}, "data.phases"),
        ({}, {"strategy": "phased", "phases": [TWO[0], {"domains": ["skil"]}]}, "data.phases.1.domains.0"),
        ({}, {"strategy": "phased", "phases": [TWO[0], {"domains": ["knowledge"]}]}, "data.phases"),
        ({}, {"mixture": {"skils": 2.0}}, "data.mixture.skils"),
        ({}, {"mixture": {"skills": 0.0, "knowledge": 0.0}}, "data.mixture"),
        ({"data.mixture.skills": {"choice": [0.0, 1.0]}}, {"strategy": "phased", "phases": TWO}, "data.mixture"),
        ({}, {"validation": [{"name": "a", "fraction": 0.1, "domains": []}]}, "data.validation.0.domains"),
    ],
)  # fmt: skip
def test_curriculum__reports_the_wrong_key(space: dict, data: dict, key: str) -> None:
    assert key in problem_keys(space, **data)


@pytest.mark.parametrize(
    ("space", "data"),
    [
        ({}, {"strategy": "phased", "phases": TWO, "replay": 0.1, "mixture": {"skills": 2.0}}),
        ({"data.strategy": BOTH, "data.replay": {"uniform": [0.0, 0.5]}}, {"phases": TWO}),
        ({"data.mixture.skills": {"log_uniform": [0.25, 4.0]}}, {}),
        ({"data.mixture.skills": {"choice": [0.0, 1.0]}}, {"mixture": {"knowledge": 0.5}}),
        ({}, {"strategy": "stacked", "phases": TWO}),  # explicitly stacked: phases may stay
        ({}, {"strategy": "phased", "phases": [{"domains": ["skills"]}, {"domains": ["skills", "knowledge"]}]}),
        ({}, {"strategy": "phased", "phases": TWO, "train": [{"path": "org/a"}]}),  # domains are checked when rows are read
    ],
)  # fmt: skip
def test_curriculum__accepts(space: dict[str, Any], data: dict[str, Any]) -> None:
    assert problem_keys(space, **data) == ()
    found = from_dict(whole(space, **data))
    assert from_dict(found.to_dict()) == found


def test_train_config__holds_the_curriculum_of_the_trial() -> None:
    found = from_dict(
        whole({"data.strategy": BOTH, "data.mixture.skills": {"choice": [1.0, 2.0]}}, phases=TWO)
    )
    config = {"batch_size": 4, "data.strategy": "phased", "data.mixture.skills": 2.0}
    settings = found.train_config(config, 64)
    assert settings.data == Curriculum.model_validate(
        {"strategy": "phased", "phases": TWO, "mixture": {"skills": 2.0}}
    )
    assert TrainConfig.from_dict(settings.to_dict(), 64) == settings
    assert found.data.curriculum == Curriculum.model_validate({"phases": TWO})


def test_train_config__has_no_curriculum_by_default() -> None:
    assert from_dict(whole()).train_config({"batch_size": 4}, 64).data is None


def test_override__sets_mixture_weights(tmp_path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(dump(from_dict(whole({"data.mixture.skills": {"choice": [1.0, 2.0]}}))))
    overrides = [
        "search.space.data.mixture.skills.choice=[4.0]",
        "search.space.data.mixture.knowledge={choice: [1.0, 3.0]}",
    ]
    space = load(file, overrides, check_files=False).search.space
    assert space["data.mixture.skills"] == Dimension(choice=(4.0,))
    assert space["data.mixture.knowledge"].choices == (1.0, 3.0)
    fixed = ["search.space.data.mixture.skills=null", "data.mixture.skills=3.0"]
    assert load(file, fixed, check_files=False).data.mixture == {"skills": 3.0}


def test_domain_problems__rows_without_domain_fit_no_phase() -> None:
    curriculum = Curriculum.model_validate({"strategy": "phased", "phases": TWO})
    [(path, rule, remedy)] = domain_problems(curriculum, {}, ["knowledge", "", "skills"])
    assert path == ("data", "phases")
    assert rule
    assert remedy


PHASES_GIVEN = {"data.strategy": BOTH}


@pytest.mark.parametrize(
    ("space", "data"),
    [
        ({}, {}),
        ({}, {"strategy": "stacked", "phases": TWO}),
        (PHASES_GIVEN, {"phases": TWO, "replay": 0.1}),
        (PHASES_GIVEN | {"data.replay": {"choice": [0.1, 0.2]}}, {"phases": TWO}),
        ({"data.strategy": {"choice": ["stacked"]}}, {"phases": TWO}),
    ],
)  # fmt: skip
def test_orca_phased__refused_if_the_sweep_cannot_try_it(space: dict[str, Any], data: dict[str, Any]) -> None:
    assert "search.start_with.0" in problem_keys(space, ["orca-phased"], **data)


def test_orca_phased__starts_a_sweep_over_strategies() -> None:
    found: SweepSpec = from_dict(whole(PHASES_GIVEN, ["orca-phased"], phases=TWO))
    assert [dict(entry) for entry in found.search.start_with] == [{"data.strategy": "phased"}]
