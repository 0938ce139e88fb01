# ruff: noqa: E501  # one case a line
"""What a spec may say on strategy, phases, replay and weights, and what a reader is told where it is wrong."""

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


def told(*arguments: Any, **data: Any) -> list[tuple[str, str, str]]:
    try:
        from_dict(whole(*arguments, **data))
    except SpecError as error:
        return [(p.key, p.rule, p.remedy) for p in error.problems]
    return []


@pytest.mark.parametrize(
    ("space", "data", "key", "rule", "remedy"),
    [
        ({}, {"strategy": "phased"}, "data.strategy", "phased needs data.phases", "for example"),
        ({"data.strategy": BOTH}, {}, "search.space.data.strategy", "phased needs data.phases", "for example"),
        ({}, {"phases": TWO}, "data.phases", "is given, and no trial is phased", "sweep data.strategy"),
        ({}, {"replay": 0.1}, "data.replay", "is about phases, and there are none", "add data.phases"),
        ({"data.replay": {"choice": [0.0, 0.1]}}, {}, "search.space.data.replay", "is about phases", "add data.phases"),
        ({}, {"strategy": BOTH, "phases": TWO}, "data.strategy", "what is varied stands in search.space", "data.strategy: {choice: [stacked, phased]}"),
        ({}, {"mixture": {"skills": {"choice": [1, 2]}}}, "data.mixture.skills", "what is varied stands in search.space", "data.mixture.DOMAIN"),
        ({}, {"strategy": "phasd", "phases": TWO}, "data.strategy", "must be one of 'stacked' or 'phased'", "did you mean `phased`?"),
        ({"data.strategy": {"choice": ["stacked", "phasd"]}}, {"phases": TWO}, "search.space.data.strategy.choice.1", "must be one of 'stacked' or 'phased'", "did you mean"),
        ({"strategy": BOTH}, {"phases": TWO, "strategy": "phased"}, "search.space.strategy", "is not a field of train", "did you mean `data.strategy`?"),
        ({"data.strategy": BOTH}, {"phases": TWO, "strategy": "phased"}, "search.space.data.strategy", "is both fixed in data and swept", "remove data.strategy"),
        ({"data.mixture.skills": {"choice": [1.0]}}, {"mixture": {"skills": 2.0}}, "search.space.data.mixture.skills", "is both fixed in data and swept", "remove data.mixture.skills"),
        ({"data.mixture.skills": {"choice": [-1.0, 1.0]}}, {}, "search.space.data.mixture.skills.choice.0", "must be at least 0", "Weight by domain"),
        ({"data.mixture.skils": {"choice": [1.0, 2.0]}}, {}, "search.space.data.mixture.skils", "no training row has the domain 'skils'", "knowledge, skills"),
        ({"data.max_length": {"choice": [8]}}, {}, "search.space.data.max_length", "cannot be swept", "known here"),
        ({"data.replay": {"uniform": [0.0, 1.5]}}, {"phases": TWO, "strategy": "phased"}, "search.space.data.replay.uniform.1", "must be less than 1", "earlier phases"),
        ({}, {"strategy": "phased", "phases": TWO[:1]}, "data.phases", "must be two phases or more", "strategy: stacked"),
        ({}, {"strategy": "phased", "phases": [TWO[0], TWO[1] | {"share": 0.7}]}, "data.phases", "the shares add up to 1.1", "add up to 1"),
        ({}, {"strategy": "phased", "phases": [TWO[0], TWO[1] | {"share": 0.5}]}, "data.phases", "the shares add up to 0.9", "leave some out"),
        ({}, {"strategy": "phased", "phases": [TWO[0] | {"share": 0.5}, TWO[1] | {"share": 0.5}, {"domains": ["skills"]}]}, "data.phases", "the shares add up to 1", "divide what is left"),
        ({}, {"strategy": "phased", "phases": [TWO[0], {"domains": ["skills", "skills"]}]}, "data.phases", "must not name a domain twice in a phase (phase 1)", "remove"),
        ({}, {"strategy": "phased", "phases": [TWO[0], {"domains": ["skil"]}]}, "data.phases.1.domains.0", "no training row has the domain 'skil'", "the domains are: knowledge, skills"),
        ({}, {"strategy": "phased", "phases": [TWO[0], {"domains": ["knowledge"]}]}, "data.phases", "missing: skills", "add them to a phase"),
        ({}, {"mixture": {"skils": 2.0}}, "data.mixture.skils", "no training row has the domain", "knowledge, skills"),
        ({}, {"mixture": {"skills": 0.0, "knowledge": 0.0}}, "data.mixture", "must leave something to train on", "above 0"),
        ({"data.mixture.skills": {"choice": [0.0, 1.0]}}, {"strategy": "phased", "phases": TWO}, "data.mixture", "must leave something to train on", "above 0"),
        ({}, {"validation": [{"name": "a", "fraction": 0.1, "domains": []}]}, "data.validation.0.domains", "must have at least 1 entry", "names or shell patterns"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_where_it_is(space: dict, data: dict, key: str, rule: str, remedy: str) -> None:
    found = told(space, **data)
    assert any(k == key and rule in r and remedy in m for k, r, m in found), found


@pytest.mark.parametrize(
    ("space", "data"),
    [
        ({}, {"strategy": "phased", "phases": TWO, "replay": 0.1, "mixture": {"skills": 2.0}}),
        ({"data.strategy": BOTH, "data.replay": {"uniform": [0.0, 0.5]}}, {"phases": TWO}),
        ({"data.mixture.skills": {"log_uniform": [0.25, 4.0]}}, {}),
        ({"data.mixture.skills": {"choice": [0.0, 1.0]}}, {"mixture": {"knowledge": 0.5}}),
        ({}, {"strategy": "stacked", "phases": TWO}),  # said outright: phases to come back to
        ({}, {"strategy": "phased", "phases": [{"domains": ["skills"]}, {"domains": ["skills", "knowledge"]}]}),
        ({}, {"strategy": "phased", "phases": TWO, "train": [{"path": "org/a"}]}),  # the rows will tell
    ],
)  # fmt: skip
def test_what_is_sound(space: dict[str, Any], data: dict[str, Any]) -> None:
    assert told(space, **data) == []
    found = from_dict(whole(space, **data))
    assert from_dict(found.to_dict()) == found


def test_a_trial_carries_its_own_curriculum() -> None:
    found = from_dict(
        whole({"data.strategy": BOTH, "data.mixture.skills": {"choice": [1.0, 2.0]}}, phases=TWO)
    )
    config = {"batch_size": 4, "data.strategy": "phased", "data.mixture.skills": 2.0}
    settings = found.train_config(config)
    assert settings.data == Curriculum.model_validate(
        {"strategy": "phased", "phases": TWO, "mixture": {"skills": 2.0}}
    )
    assert TrainConfig.model_validate(settings.model_dump(mode="json")) == settings
    assert found.data.curriculum == Curriculum.model_validate({"phases": TWO}), "what is swept stays open"


def test_a_spec_that_says_nothing_of_order_has_trials_that_say_nothing() -> None:
    assert from_dict(whole()).train_config({"batch_size": 4}).data is None


def test_a_weight_can_be_set_from_the_command_line(tmp_path) -> None:
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


def test_rows_without_a_domain_belong_to_no_phase() -> None:
    curriculum = Curriculum.model_validate({"strategy": "phased", "phases": TWO})
    [(path, rule, remedy)] = domain_problems(curriculum, {}, ["knowledge", "", "skills"])
    assert path == ("data", "phases")
    assert "some rows have none" in rule
    assert "domain: NAME" in remedy


PHASES_GIVEN = {"data.strategy": BOTH}


@pytest.mark.parametrize(
    ("space", "data", "rule"),
    [
        ({}, {}, "orca-phased trains in phases, and data.phases is not given"),
        ({}, {"strategy": "stacked", "phases": TWO}, "orca-phased has data.strategy phased, and data.strategy is fixed at another value"),
        (PHASES_GIVEN, {"phases": TWO, "replay": 0.1}, "orca-phased has data.replay 0, and data.replay is fixed at another value"),
        (PHASES_GIVEN | {"data.replay": {"choice": [0.1, 0.2]}}, {"phases": TWO}, "orca-phased has data.replay 0, which lies outside search.space.data.replay"),
        ({"data.strategy": {"choice": ["stacked"]}}, {"phases": TWO}, "orca-phased has data.strategy phased, which lies outside"),
    ],
)  # fmt: skip
def test_orca_phased_is_refused_with_a_reason(space: dict[str, Any], data: dict[str, Any], rule: str) -> None:
    assert any(k == "search.start_with.0" and rule in r for k, r, _ in told(space, ["orca-phased"], **data))


def test_orca_phased_begins_a_sweep_over_strategies() -> None:
    found: SweepSpec = from_dict(whole(PHASES_GIVEN, ["orca-phased"], phases=TWO))
    assert [dict(entry) for entry in found.search.start_with] == [{"data.strategy": "phased"}]
