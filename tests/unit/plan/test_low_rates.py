"""The warning of learning rates that bf16 weights cannot follow."""

from __future__ import annotations

from typing import Any

import pytest

from support.planning import spec_to_plan
from sweepft.plan.estimate import Flags, make_plan
from sweepft.plan.low_rates import LEAST_REACH, reach


def warned(**sections: Any) -> list[str]:
    plan = make_plan(spec_to_plan(**sections), Flags(files=False, rows=100_000))
    return [warning for warning in plan.warnings if warning.startswith("bf16 weights")]


def rates(low: float, **more: Any) -> dict[str, Any]:
    space = {"batch_size": {"choice": [128, 512]}, "learning_rate": {"log_uniform": [low, 1e-4]}, **more}
    return {"trials": 32, "space": space}


FIXED = {"trials": 2, "space": {"batch_size": {"choice": [128, 512]}}}
BUDGET = {"budget": {"samples": 51_200}, "micro_batch": 4}  # 400 and 100 steps


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"search": rates(1e-6)}, True),
        ({"search": rates(1e-5)}, False),
        ({"search": FIXED, "train": BUDGET | {"learning_rate": 1e-6}}, True),
        ({"search": FIXED, "train": BUDGET | {"learning_rate": 1e-5}}, False),
        ({"search": rates(1e-6), "train": BUDGET | {"precision": "fp32"}}, False),
        ({"search": rates(1e-6), "train": BUDGET | {"lora": {"rank": 8}}}, False),
        ({"search": rates(1e-6), "train": BUDGET | {"optimizer": {"name": "sgd"}}}, False),
        ({"search": rates(1e-6, **{"optimizer.name": {"choice": ["sgd", "adamw"]}})}, True),
        ({"search": rates(1e-6), "train": BUDGET | {"budget": {"samples": 512_000}}}, False),
    ],
)
def test_plan__warns_of_rates_that_bf16_weights_do_not_follow(sections, expected):
    assert bool(warned(**sections)) is expected


def test_plan__names_the_batch_size_and_a_rate_that_is_high_enough():
    (text,) = warned(search=rates(1e-6))
    assert "batch size 512" in text
    remedy = float(text.partition("raise the lowest rate to ")[2].partition(",")[0])
    assert reach(remedy, 100) == pytest.approx(LEAST_REACH, rel=0.05)


def test_reach__separates_the_measured_cases():
    """60 steps at 1e-6 stayed behind fp32 (validation loss 9.11 and 7.94, from 9.67); at 1e-5 they were equal."""
    assert reach(1e-6, 60) < LEAST_REACH < reach(1e-5, 60)
