# one case a line
"""Presets: replaced by their values, and refused if the sweep cannot reproduce them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from support import specs
from support.errors import raises
from sweepft.errors import SpecError
from sweepft.spec import FEWEST_STEPS, PRESETS, SweepSpec, dump, format_value, from_dict, load

SPACE = {
    "batch_size": {"choice": [128, 3840, 7680]},
    "learning_rate": {"log_uniform": [1e-6, 1e-4]},
    "warmup": {"choice": [0.0, 0.03, {"steps": 25}]},
    "schedule": {"choice": ["constant", "linear"]},
}


def spec(
    *names: object, space: dict[str, object] = SPACE, budget: dict[str, object] | None = None, **train: object
) -> SweepSpec:
    return specs.spec(
        train={"budget": budget or {"samples": 320_000}, "micro_batch": 4, **train},
        search={"start_with": list(names), "space": space},
    )


def without(*keys: str) -> dict[str, object]:
    return {key: dimension for key, dimension in SPACE.items() if key not in keys}


def test_presets__replaced_by_their_values() -> None:
    found = spec("tulu", {"batch_size": 3840}, "lab", "large-batch")
    assert [dict(entry) for entry in found.search.start_with] == [
        dict(PRESETS["tulu"].params),
        {"batch_size": 3840},
        dict(PRESETS["lab"].params),
        dict(PRESETS["large-batch"].params),
    ]
    assert from_dict(found.to_dict()) == found
    assert "tulu" not in dump(found)


def test_presets__fields_fixed_at_the_same_value_are_left_out() -> None:
    found = spec("lab", space=without("schedule", "warmup"), schedule="constant", warmup={"steps": 25})
    assert [dict(entry) for entry in found.search.start_with] == [{"batch_size": 3840, "learning_rate": 2e-5}]


@pytest.mark.parametrize(
    ("name", "changes", "named"),
    [
        ("lab", {"space": SPACE | {"batch_size": {"choice": [128, 4096]}}}, "search.space."),
        ("tulu", {"space": SPACE | {"learning_rate": {"log_uniform": [1e-6, 1e-5]}}}, "search.space."),
        ("tulu", {"space": without("schedule")}, "train.schedule"),
        ("lab", {"budget": {"samples": 100_000}, "space": SPACE | {"batch_size": {"choice": [128, 3840]}}}, "153600"),
        ("tul", {}, "tulu"),
        ("phased", {}, "orca-phased"),
        ("orca-phased", {}, "data.phases"),
    ],
)  # fmt: skip
def test_presets__refused_with_a_remedy(name: str, changes: dict, named: str) -> None:
    with raises(SpecError, "search.start_with.1") as caught:
        spec({"batch_size": 128}, name, **changes)
    (problem,) = caught.value.problems
    assert named in problem.remedy


def test_presets__accepted_with_the_fewest_steps() -> None:
    space = SPACE | {"batch_size": {"choice": [3840]}}
    assert spec("lab", space=space, budget={"samples": FEWEST_STEPS * 3840 - 3839}).search.start_with
    with raises(SpecError, "search.start_with.0"):
        spec("lab", space=space, budget={"samples": (FEWEST_STEPS - 1) * 3840})


def test_presets__problem_is_at_the_line_of_the_name(tmp_path) -> None:
    file = tmp_path / "sweep.yaml"
    text = dump(spec()).replace("start_with: []", "start_with:\n  - {batch_size: 128}\n  - nonesuch")
    file.write_text(text)
    line = 1 + text.splitlines().index("  - nonesuch")
    with raises(SpecError, "search.start_with.1") as caught:
        load(file, check_files=False)
    assert caught.value.problems[0].where == f"{file}:{line}"


def test_presets__all_are_valid_and_listed() -> None:
    from sweepft.cli.main import cli

    shown = CliRunner().invoke(cli, ["presets"])
    assert shown.exit_code == 0
    for name, preset in PRESETS.items():
        json.dumps(dict(preset.params))  # plain data for YAML and the ledger
        if "batch_size" in preset.params:
            train_config = spec(name).train_config(dict(preset.params), 10_000)
            assert train_config.batch_size == preset.params["batch_size"]
        assert f"{name}: {preset.about}\n" in shown.output
        assert preset.source in shown.output
    assert "warmup 25 steps, schedule constant" in shown.output


def test_format_value__warmup_in_steps() -> None:
    from sweepft.driver.progress import short_params
    from sweepft.report.format import number

    assert format_value({"steps": 25}) == number({"steps": 25}) == "25 steps"
    assert (
        short_params({"warmup": {"steps": 25}, "learning_rate": 2e-5})
        == "warmup=25 steps learning_rate=2e-05"
    )
    assert [format_value(value) for value in (2e-5, 128, "cosine", True)] == [
        "2e-05",
        "128",
        "cosine",
        "True",
    ]
