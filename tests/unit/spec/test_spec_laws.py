"""Properties of the spec: round trips, problems for any input, and train configs."""

from __future__ import annotations

import copy
import json
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import sweepft.spec
from support.specs import spec_dict
from sweepft.errors import SpecError
from sweepft.spec import (
    SWEEPABLE,
    Dimension,
    SweepSpec,
    TrainConfig,
    dump,
    from_dict,
    load,
)
from sweepft.spec.yaml_source import read, to_yaml

ROOT = Path(__file__).parents[3]

VARIANTS = [
    [],
    ["search.space.optimizer.weight_decay={choice: [0.0, 1e-2]}"],
    ["search.space.optimizer.betas={choice: [[0.9, 0.95], [0.9, 0.999]]}", "train.optimizer.eps=1e-10"],
    ["search.space.warmup=null", "search.space.warmup.steps={int_uniform: [0, 9]}"],
    ["search.space.warmup=null", "train.warmup={steps: 3}", "search.limit={hours: 1}"],
    ["search.space.data.mixture.knowledge={uniform: [0.5, 2]}", "data.train.0.domain=knowledge"],
    ["name=1.5e3x", "data.train.0.domain='null'", "model.revision='1e-3'", "train.gradient_clipping=0"],
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=" ".join)
def test_dump__loads_as_an_equal_spec(
    overrides: list[str], place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spec = load(place / "valid.yaml", overrides)
    elsewhere = tmp_path_factory.mktemp("run") / "spec.yaml"  # the dumped spec has absolute paths
    elsewhere.write_text(dump(spec))
    assert load(elsewhere) == spec
    assert from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec


def test_spec__is_frozen(loaded: Callable[..., SweepSpec]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        loaded().train.seed = 3


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(data=st.dictionaries(st.text(), plain, max_size=5))
def test_to_yaml__reads_back_equal(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    text = to_yaml(data)
    path.write_text(text, encoding="utf-8", newline="")
    assert read(path, "f.yaml").data == data
    assert yaml.safe_load(text) == data  # also as YAML 1.1


def paths(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(found for key, value in items for found in paths(value, (*path, key)))]


WHOLE = spec_dict(
    data={
        "train": [{"path": "org/a"}, {"path": "b.jsonl", "limit": 3}],
        "validation": [{"name": "x", "fraction": 0.1}, {"name": "y", "path": "org/y", "weight": 0}],
        "test": [{"name": "z", "path": "org/z"}],
    },
    train={"warmup": {"steps": 1}, "optimizer": {"betas": [0.9, 0.99]}},
    search={
        "limit": {"hours": 1},
        "start_with": [{"batch_size": 4, "schedule": "wsd"}],
        "space": {
            "batch_size": {"choice": [4, 8]},
            "learning_rate": {"log_uniform": [1e-5, 1e-3]},
            "schedule": {"choice": ["wsd", "cosine"]},
            "optimizer.weight_decay": {"uniform": [0, 1]},
            "decay_fraction": {"choice": [0.1, 0.2]},
        },
    },
    early_stop={"rungs": [0.1, 0.5]},
    resources={"workers_per_trial": 1},
)
anything = plain | st.sampled_from(  # copied, because drawn values are changed
    [math.nan, math.inf, -1, 0, 10**30, "wsd", "org/x", {"steps": 1}, {"choice": []}, [], {}, [[0.9, 0.9]]]
).map(copy.deepcopy)


def test_from_dict__large_spec_is_valid() -> None:
    defaults = {"sampler": "tpe", "seed": 0, "learn_from": [], "subject_to": {}, "tied": {}}
    assert from_dict(WHOLE).to_dict()["search"] == {**WHOLE["search"], **defaults}


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_from_dict__any_error_is_a_problem(data: st.DataObject) -> None:
    """With up to three keys replaced, removed or added, a spec loads or its problems are reported."""
    spec = json.loads(json.dumps(WHOLE))
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(spec)[1:] or [("name",)]))
        parent = spec
        for part in path[:-1]:
            parent = parent[part]
        match data.draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                parent[path[-1]] = data.draw(anything)
            case "remove":
                parent.pop(path[-1])
            case "add" if isinstance(parent, dict):
                parent[data.draw(st.sampled_from(["seed", "choice", "steps", "x", "a.b", ""]))] = data.draw(
                    anything
                )
            case "add":
                parent.append(data.draw(anything))
    found, problems = None, ()
    try:
        found = from_dict(spec)
    except SpecError as error:
        problems = error.problems
    assert found is not None or problems
    assert all(p.where and p.key and p.rule and p.remedy for p in problems)
    assert len({p.key for p in problems}) == len(problems)
    if found is not None:
        assert from_dict(found.to_dict()) == found


@settings(deadline=None, max_examples=200)
@given(raw=st.binary(max_size=80) | st.text("ab:-[]{},&*!#'\"\n \t01e.~|>?%@`", max_size=60).map(str.encode))
def test_read__any_bytes_are_a_mapping_or_a_problem(
    raw: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(raw)
    data, problems = None, ()
    try:
        data = read(path, "any.yaml").data
    except SpecError as error:
        problems = error.problems
    assert isinstance(data, dict) or problems
    assert all(p.where.startswith("any.yaml") and p.rule and p.remedy for p in problems)


CONFIG = {"batch_size": 16, "learning_rate": 1e-3, "warmup": 0.1, "schedule": "cosine"}


def test_train_config__is_the_train_section_with_the_params_in_place(
    loaded: Callable[..., SweepSpec],
) -> None:
    spec = loaded("search.space.optimizer.weight_decay={choice: [0.0, 0.1]}", "train.seed=5")
    found = spec.train_config({**CONFIG, "optimizer.weight_decay": 0.1}, 64)
    assert isinstance(found, TrainConfig)
    expected = {**spec.train.model_dump(), **CONFIG, "data": None, "budget_samples": 64}
    expected["optimizer"] = {**expected["optimizer"], "weight_decay": 0.1}
    assert found.model_dump() == expected
    assert TrainConfig.from_dict(found.to_dict(), 64) == found
    assert "budget_samples" not in found.to_dict()


@pytest.mark.parametrize(
    ("config", "key", "rule"),
    [
        ({**CONFIG, "learning_rate": -1.0}, "train.learning_rate", "must be greater than 0"),
        ({**CONFIG, "learning_rate": math.nan}, "train.learning_rate", "must be a finite number"),
        ({**CONFIG, "batch_size": "8"}, "train.batch_size", "must be a whole number"),
        ({**CONFIG, "lr": 1.0}, "train.lr", "is not a known key"),
        (
            {k: v for k, v in CONFIG.items() if k != "batch_size"},
            "train.batch_size",
            "must be a whole number",
        ),
    ],
)
def test_train_config__refuses(
    config: dict[str, Any], key: str, rule: str, loaded: Callable[..., SweepSpec]
) -> None:
    with pytest.raises(SpecError) as caught:
        loaded().train_config(config, 64)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert rule in problem.rule or "is required" in problem.rule


@pytest.mark.parametrize(
    ("batch_size", "warmup", "budget", "expected"),
    [
        (8, 0.0, 64, (8, 0)),
        (8, 0.0, 65, (9, 0)),
        (1, 0.1, 30, (30, 3)),  # 0.1 * 30 is 3.0000000000000004 in binary floats
        (1, 0.07, 100, (100, 7)),  # 7.000000000000001
        (1, 0.03, 10, (10, 1)),
        (1, 1e-9, 10, (10, 1)),
        (64, 0.5, 10, (1, 1)),
        (8, {"steps": 5}, 64, (8, 5)),
        (8, {"steps": 50}, 64, (8, 8)),
    ],
)
def test_train_config__steps(
    batch_size: int, warmup: Any, budget: int, expected: tuple[int, int], loaded: Callable[..., SweepSpec]
) -> None:
    found = loaded().train_config({**CONFIG, "batch_size": batch_size, "warmup": warmup}, budget)
    assert (found.planned_steps, found.warmup_steps) == expected
    assert pickle.loads(pickle.dumps(found)) == found


BASE = {"budget": {"samples": 1}, "micro_batch": 1, "learning_rate": 1.0}


@settings(deadline=None, max_examples=200)
@given(
    batch_size=st.integers(1, 10_000),
    budget=st.integers(1, 10**7),
    warmup=st.decimals(0, "0.999", places=3).map(float),
)
def test_train_config__steps_are_exact(batch_size: int, budget: int, warmup: float) -> None:
    found = TrainConfig.from_dict({**BASE, "batch_size": batch_size, "warmup": warmup}, budget)
    steps, warm = found.planned_steps, found.warmup_steps
    assert (steps - 1) * batch_size < budget <= steps * batch_size
    assert warm == math.ceil(Fraction(repr(warmup)) * steps) <= steps


@pytest.mark.parametrize(
    ("dimension", "inside", "outside"),
    [
        ({"choice": [8, 16]}, [8, 16.0], [12, "8", True, None]),
        ({"choice": ["a", True, None]}, ["a", True, None], ["b", 1, False]),
        ({"choice": [{"steps": 3}, [1, 2]]}, [{"steps": 3}, (1, 2)], [{"steps": 4}, [1, 2, 3]]),
        ({"uniform": [0, 1]}, [0, 1, 0.5], [-0.1, 1.1, "0.5", True, math.nan]),
        ({"log_uniform": [1e-5, 1e-3]}, [1e-5, 1e-3, 1e-4], [0, 1e-2]),
        ({"int_uniform": [1, 5]}, [1, 5, 3.0], [0, 6, 2.5, math.nan, math.inf]),
    ],
)
def test_dimension__contains(dimension: dict[str, Any], inside: list[Any], outside: list[Any]) -> None:
    found = Dimension.model_validate(dimension)
    assert [value for value in inside if not found.contains(value)] == []
    assert [value for value in outside if found.contains(value)] == []


def test_sweepable__keys_change_neither_memory_nor_budget() -> None:
    assert {key.split(".")[0] for key in SWEEPABLE} == set(TrainConfig.model_fields) - {
        "budget",
        "budget_samples",
        "micro_batch",
        "precision",
        "zero_stage",
        "offload",
        "liger",
        "compile",
    }
    assert {"optimizer.weight_decay", "warmup", "warmup.steps", "seed"} <= set(SWEEPABLE)


def test_spec__exports_all_public_names() -> None:
    bound = {
        name
        for name, value in vars(sweepft.spec).items()
        if not name.startswith("_") and name != "annotations" and not isinstance(value, ModuleType)
    }
    assert set(sweepft.spec.__all__) == bound
    assert sweepft.spec.__all__ == sorted(sweepft.spec.__all__, key=lambda name: (not name.isupper(), name))


def test_spec__import_loads_nothing_heavy() -> None:
    code = (
        "import sys, sweepft.spec; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & "
        "{'torch', 'ray', 'deepspeed', 'transformers', 'datasets', 'optuna', 'numpy', 'pandas'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_load__accepts_the_shipped_sweeps(path: Path) -> None:
    """Without the files they name, which are not shipped."""
    spec = load(path, check_files=False)
    first = {key: dimension.examples()[0][1] for key, dimension in spec.search.space.items()}
    assert spec.train_config(first, 64).batch_size > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_load__gsm8k_tiny_finds_its_files(workers: int) -> None:
    if not (ROOT.parent / "shared" / "data").is_dir():
        pytest.skip("the development data are not beside this checkout")
    spec = load(ROOT / "sweeps" / "gsm8k-tiny.yaml", [f"resources.workers_per_trial={workers}"])
    assert spec.search.trials == 16
