# one case a line
"""Presets: replaced by their values, and refused if the sweep cannot reproduce them."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from support import specs
from support.errors import raises
from sweepft.errors import SpecError
from sweepft.spec import (
    FEWEST_STEPS,
    PRESETS,
    RateRule,
    SweepSpec,
    dump,
    format_value,
    from_dict,
    load,
    rate_warnings,
)
from sweepft.spec.sweep import is_sweepable

SPACE = {
    "batch_size": {"choice": [128, 3840, 7680]},
    "learning_rate": {"log_uniform": [1e-6, 1e-4]},
    "warmup": {"choice": [0.0, 0.03, {"steps": 25}]},
    "schedule": {"choice": ["constant", "linear"]},
}


LORA_SPACE = SPACE | {"batch_size": {"choice": [16, 32, 128]}, "learning_rate": {"log_uniform": [1e-5, 1e-3]}}


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
        ("tulu", {"lora": {"rank": 8}}, "remove train.lora"),
        ("qlora-default", {}, "add train.lora"),
        ("qlora-default", {"lora": {"rank": 8, "quantize": "nf4"}, "space": LORA_SPACE}, "lora.rank"),
        ("qlora-default", {"lora": {"rank": 64, "alpha": 16.0, "dropout": 0.1}, "space": LORA_SPACE}, "set train.lora.quantize"),
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
        assert re.fullmatch(r"20\d\d-\d\d", preset.date)
        if "data.strategy" not in preset.params:
            space = {key: {"choice": [value]} for key, value in preset.params.items() if is_sweepable(key)}
            whole = {k.removeprefix("lora."): v for k, v in preset.params.items() if not is_sweepable(k)}
            fixed = {"lora": whole} if preset.trains == "lora" else {}
            train_config = spec(
                name, space=space | {"optimizer.weight_decay": {"choice": [0.0, 0.1]}}, **fixed
            ).train_config(dict(preset.params), 10_000)
            assert train_config.batch_size == preset.params["batch_size"]
        assert f"{name}: {preset.about}\n" in shown.output
        assert preset.source in shown.output
    assert "warmup 25 steps, schedule constant" in shown.output


def test_presets_for__names_those_that_fit(tmp_path) -> None:
    from sweepft.cli.main import cli

    (tmp_path / "sweep.yaml").write_text(dump(spec()))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", "hidden_size": 2000}))
    options = ["--for", str(tmp_path / "sweep.yaml"), "--set", f"model.path={tmp_path}", "--json"]
    found = json.loads(CliRunner().invoke(cli, ["presets", *options]).output)
    fits = {preset["name"] for preset in found["presets"]} - found["refused"].keys()
    assert fits == {"large-batch", "lab", "tulu", "tulu3", "training-hub"}
    assert found["rule"]["rate"]["128"] == pytest.approx(5e-5)
    assert found["rule"]["rate"]["7680"] == pytest.approx(5e-5 * 60**0.5)
    [rates] = found["rates"]
    assert rates.endswith("1e-06 to 0.0001, cover a part of it")


@pytest.mark.parametrize(
    ("family", "width", "lora", "rate"),
    [
        ("llama", 2000, False, 5e-5),
        ("llama", 4000, True, 5e-4 / 2**0.781),
        ("qwen3", 4000, True, 5e-4 / 2**0.0775),
        ("olmo2", 4000, False, 5e-5 / 2**0.0775),
    ],
)
def test_rate_rule__by_family_width_and_lora(family: str, width: int, lora: bool, rate: float) -> None:
    rule = RateRule(width, family, lora)
    assert rule.rate() == pytest.approx(rate)
    assert rule.rate(512) == pytest.approx(2 * rate)


@pytest.mark.parametrize(
    ("rates", "lora", "words"),
    [
        ([1e-6, 1e-5], False, ["below it"]),
        ([1e-3, 1e-2], False, ["above it"]),
        ([1e-5, 1e-3], False, []),
        ([1e-4, 1e-2], True, ["LoRA learns less"]),
    ],
)
def test_rate_warnings__range_against_the_rule(rates: list[float], lora: bool, words: list[str]) -> None:
    swept = spec(
        space={"batch_size": {"choice": [128, 512]}, "learning_rate": {"log_uniform": rates}},
        **({"lora": {"rank": 8}} if lora else {}),
    )
    found = rate_warnings(swept, RateRule(2000, "qwen2", lora))
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found, strict=True))


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


def test_baseline__preset_or_params_is_tried_first_and_checked_like_start_with() -> None:
    found = specs.spec(
        train={"budget": {"samples": 320_000}, "micro_batch": 4},
        search={"baseline": "tulu", "start_with": [{"batch_size": 3840}], "space": SPACE},
    )
    assert [dict(entry) for entry in found.search.first_trials.values()] == [
        dict(PRESETS["tulu"].params),
        {"batch_size": 3840},
    ]
    assert from_dict(found.to_dict()) == found
    for wrong in ("nonesuch", {"batch_size": 64}, {"seed": 1}):
        given = {**found.to_dict(), "search": {**found.to_dict()["search"], "baseline": wrong}}
        with pytest.raises(SpecError) as caught:
            from_dict(given)
        assert all("search.baseline" in str(problem) for problem in caught.value.problems)
