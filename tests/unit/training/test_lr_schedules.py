"""A learning-rate schedule of sweepft equals that of transformers."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_scheduler
from transformers.optimization import get_polynomial_decay_schedule_with_warmup

from support.engine_material import train_config
from sweepft.spec import Train
from sweepft.training.lr_schedules import SCHEDULES, lr_at

PEAK = 3e-3


def ours(schedule: str, warmup: int, total: int, **options: float) -> list[float]:
    config = train_config(
        schedule=schedule, learning_rate=PEAK, warmup={"steps": warmup}, budget_samples=total, batch_size=1, **options
    )  # fmt: skip
    return [lr_at(step, config) for step in range(total)]


def theirs(make: object, total: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def named(name: str, warmup: int, total: int, **options: object):
    return lambda o: get_scheduler(
        name, o, num_warmup_steps=warmup, num_training_steps=total, scheduler_specific_kwargs=options
    )


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("total", [8, 40])
@pytest.mark.parametrize(
    ("ours_name", "options", "reference"),
    [
        ("constant", {}, lambda w, n: named("constant_with_warmup", w, n)),
        ("linear", {}, lambda w, n: named("linear", w, n)),
        ("cosine", {}, lambda w, n: named("cosine", w, n)),
        ("cosine", {"min_lr_ratio": 0.1}, lambda w, n: named("cosine_with_min_lr", w, n, min_lr_rate=0.1)),
        ("inverse_sqrt", {}, lambda w, n: named("inverse_sqrt", w, n)),
        (
            "wsd",
            {"decay_fraction": 0.25},
            lambda w, n: named(
                "warmup_stable_decay", w, n, num_decay_steps=min(math.ceil(0.25 * n), n - w), min_lr_ratio=0.0
            ),
        ),
        (
            "polynomial",
            {"power": 2.0, "min_lr_ratio": 0.1},
            lambda w, n: (
                lambda o: get_polynomial_decay_schedule_with_warmup(o, w, n, lr_end=0.1 * PEAK, power=2.0)
            ),
        ),
    ],
)
def test_lr_at__equals_transformers(ours_name, options, reference, warmup, total):
    expected = theirs(reference(warmup, total), total)
    if options.get("min_lr_ratio") and ours_name == "polynomial":
        # theirs decays (peak - end) and adds end: the same curve
        assert ours(ours_name, warmup, total, **options)[warmup:] == pytest.approx(
            expected[warmup:], rel=1e-9
        )
    assert ours(ours_name, warmup, total, **options) == pytest.approx(expected, rel=1e-9)


@given(
    schedule=st.sampled_from(sorted(SCHEDULES)),
    total=st.integers(1, 200),
    warmup=st.integers(0, 200),
    floor=st.floats(0, 1),
    decay=st.floats(0.01, 1),
)
@settings(deadline=None, max_examples=200)
def test_lr_at__stays_between_zero_and_the_peak(schedule, total, warmup, floor, decay):
    rates = ours(schedule, min(warmup, total), total, min_lr_ratio=floor, decay_fraction=decay)
    assert all(0 <= r <= PEAK * (1 + 1e-12) for r in rates)
    after = rates[min(warmup, total) :]
    assert all(a >= b - 1e-15 for a, b in itertools.pairwise(after))


def test_schedules__are_those_of_the_spec():
    assert set(get_args(Train.model_fields["schedule"].annotation)) == set(SCHEDULES)
