"""What a hostile spec, or the files that it names, may cost; each limit names place, key, rule and remedy."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from support.errors import raises
from support.specs import spec_dict
from sweepft.errors import SpecError
from sweepft.spec import from_dict
from sweepft.spec.base_model import config_problems
from sweepft.spec.fields import path_problem
from sweepft.spec.partial import MAX_PROBLEMS


@pytest.mark.parametrize(
    ("key", "change"),
    [
        (
            "search.space.lora.rank.choice",
            {"search.space": {"lora.rank": {"choice": list(range(1, 20_000))}}},
        ),
        ("train.budget.samples", {"train.budget": {"samples": 10**400}}),
        ("train.budget.epochs", {"train.budget": {"epochs": 1e308}}),
        (
            "evaluate.mt_bench.request",
            {"evaluate.mt_bench": {"questions": "q", "judge": "j", "request": {"x": [{"y": float("nan")}]}}},
        ),
    ],
)
def test_spec__values_out_of_bounds_are_refused(key: str, change: dict[str, Any]) -> None:
    with raises(SpecError, key):
        from_dict(spec_dict(change))


def test_spec__stops_after_a_hundred_problems() -> None:
    with pytest.raises(SpecError) as caught:
        from_dict(spec_dict(train={f"key{i}": 1 for i in range(3000)}))
    assert len(caught.value.problems) == MAX_PROBLEMS


@pytest.mark.parametrize("path", ["/data/" + "x" * 300, "/data/" + "x/" * 3000, "loop/x"])
def test_spec__paths_that_cannot_be_looked_up(path: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    path = path.replace("loop", str(tmp_path / "loop"))
    change = {"model.path": path, "data.train": [{"path": path}], "evaluate.include_path": [path]}
    with raises(SpecError, "model.path", "data.train.0.path", "evaluate.include_path.0"):
        from_dict(spec_dict(change | {"evaluate.tasks": ["t"]}), check_files=True)


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_spec__folder_that_one_may_not_enter() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as closed:  # of mode 0700
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            os._exit(0 if path_problem(f"{closed}/model") is not None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "config",
    [
        {"attn_implementation": "org/kernel"},
        {"text_config": {"_attn_implementation": "org/kernel:fast"}},
        {"hidden_size": 10**12},
        {"num_hidden_layers": "12"},
        {"vocab_size": -1},
    ],
)
def test_config__that_names_code_or_impossible_sizes(config: dict[str, Any]) -> None:
    assert list(config_problems(config))
    assert not list(
        config_problems(json.loads('{"attn_implementation": "sdpa", "hidden_size": 64, "n_inner": null}'))
    )
