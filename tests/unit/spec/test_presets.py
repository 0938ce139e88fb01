# ruff: noqa: E501  # one case a line
"""Named settings: a name is its values where the sweep can try them, and is refused with a reason where it cannot."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from support import specs
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


def test_a_name_becomes_its_values() -> None:
    """Names and mappings stand side by side; what is kept and run is plain values."""
    found = spec("tulu", {"batch_size": 3840}, "lab", "large-batch")
    assert [dict(entry) for entry in found.search.start_with] == [
        dict(PRESETS["tulu"].config),
        {"batch_size": 3840},
        dict(PRESETS["lab"].config),
        dict(PRESETS["large-batch"].config),
    ]
    assert from_dict(found.to_dict()) == found
    assert "tulu" not in dump(found)


def test_fields_that_are_fixed_at_the_settings_value_are_left_out() -> None:
    found = spec("lab", space=without("schedule", "warmup"), schedule="constant", warmup={"steps": 25})
    assert [dict(entry) for entry in found.search.start_with] == [{"batch_size": 3840, "learning_rate": 2e-5}]


@pytest.mark.parametrize(
    ("name", "changes", "rule", "remedy"),
    [
        ("lab", {"space": SPACE | {"batch_size": {"choice": [128, 4096]}}}, "lab has batch_size 3840, which lies outside search.space.batch_size", "widen"),
        ("tulu", {"space": SPACE | {"learning_rate": {"log_uniform": [1e-6, 1e-5]}}}, "tulu has learning_rate 2e-05, which lies outside", "widen"),
        ("tulu", {"space": without("schedule")}, "tulu has schedule linear, and train.schedule is fixed at another value", "sweep schedule"),
        ("lab", {"budget": {"samples": 100_000}, "space": SPACE | {"batch_size": {"choice": [128, 3840]}}}, "lab would take 27 optimizer steps: 100000 samples in batches of 3840", "153600 samples (40 steps)"),
        ("tul", {}, "is not a named setting", "did you mean `tulu`?"),
        ("phased", {}, "is not a named setting", "did you mean `orca-phased`?"),
        ("orca-phased", {}, "orca-phased trains in phases, and data.phases is not given", "leave the name out"),
    ],
)  # fmt: skip
def test_refused_with_a_reason(name: str, changes: dict, rule: str, remedy: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec({"batch_size": 128}, name, **changes)
    (problem,) = caught.value.problems
    assert problem.key == "search.start_with.1"
    assert rule in problem.rule
    assert remedy in problem.remedy


def test_just_enough_steps_are_enough() -> None:
    space = SPACE | {"batch_size": {"choice": [3840]}}
    assert spec("lab", space=space, budget={"samples": FEWEST_STEPS * 3840 - 3839}).search.start_with
    with pytest.raises(SpecError):
        spec("lab", space=space, budget={"samples": (FEWEST_STEPS - 1) * 3840})


def test_the_place_is_the_line_of_the_name(tmp_path) -> None:
    file = tmp_path / "sweep.yaml"
    text = dump(spec()).replace("start_with: []", "start_with:\n  - {batch_size: 128}\n  - nonesuch")
    file.write_text(text)
    line = 1 + text.splitlines().index("  - nonesuch")
    with pytest.raises(
        SpecError, match=rf"sweep\.yaml:{line}: search\.start_with\.1: is not a named setting"
    ):
        load(file, check_files=False)


def test_every_named_setting_is_sound_and_listed() -> None:
    from sweepft.cli.main import cli

    shown = CliRunner().invoke(cli, ["settings"])
    assert shown.exit_code == 0
    for name, setting in PRESETS.items():
        json.dumps(dict(setting.config))  # plain data: it goes into YAML and the ledger
        if "batch_size" in setting.config:
            assert spec(name).train_config(dict(setting.config)).batch_size == setting.config["batch_size"]
        assert f"{name}: {setting.about}\n" in shown.output
        assert setting.source in shown.output
    assert "warmup 25 steps, schedule constant" in shown.output


def test_a_warmup_in_steps_reads_as_one_everywhere() -> None:
    from sweepft.driver.progress import short_config
    from sweepft.report.format import number

    assert format_value({"steps": 25}) == number({"steps": 25}) == "25 steps"
    assert (
        short_config({"warmup": {"steps": 25}, "learning_rate": 2e-5})
        == "warmup=25 steps learning_rate=2e-05"
    )
    assert [format_value(value) for value in (2e-5, 128, "cosine", True)] == [
        "2e-05",
        "128",
        "cosine",
        "True",
    ]
