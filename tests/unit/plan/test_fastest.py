"""The fastest way to take steps: times by hand, what fits, and what a spec's other settings allow."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from support.planning import shape_3b, spec_to_plan
from sweepft.plan.estimate import Flags, make_plan
from sweepft.plan.fastest import Fastest, Job, Rates, Way, find_fastest, sample_seconds
from sweepft.plan.gpus import GPUS
from sweepft.plan.memory import GIB

# 1e9 parameters of 2 bytes on 4 ranks, 8 rows of 100 tokens; attention is left out (no layers).
JOB = Job(
    shape=replace(shape_3b(), parameters=10**9, layers=0), trained=10**9, weight=2, ranks=4, batch_sizes=(8,),
    tokens=100.0, longest=128, packed=False, rates=Rates(flops=1e13, reads=1e12, link=1e9),
)  # fmt: skip
# A pass of one row: 6e9 * 100 / 1e13 = 0.06 s of FLOPs and 3 * 2e9 / 1e12 = 0.006 s of reading the weights.
PASS = 0.066
WEIGHTS = 2e9 * 0.75 / 1e9  # seconds in which ranks exchange as many bytes as all weights have
STEP = 30e9 / 4 / 1e12  # the optimizer's


@pytest.mark.parametrize(
    ("way", "seconds"),
    [
        (Way(1, 1, False), 2 * PASS + (2 * WEIGHTS - 2 / 3 * PASS) + WEIGHTS + STEP),
        (Way(2, 1, False), 2 * (PASS + 2 * WEIGHTS - 2 / 3 * PASS) + WEIGHTS + STEP),
        (Way(2, 2, False), (0.126 + 2 * WEIGHTS - 2 / 3 * 0.126) + WEIGHTS + STEP),
        (Way(3, 1, False), 2 * 3 * WEIGHTS + STEP),
        (Way(0, 1, False), 2 * PASS + (2 * WEIGHTS - 2 / 3 * PASS) + 30e9 / 1e12),
        (Way(1, 1, True), 2 * 0.088 + (2 * WEIGHTS - 2 / 3 * 0.088) + WEIGHTS + STEP),
    ],
)
def test_sample_seconds__by_hand(way: Way, seconds: float) -> None:
    assert sample_seconds(JOB, way) == pytest.approx(seconds / 8)


def test_sample_seconds__packed_rows_and_fast_links() -> None:
    """800 tokens on 4 ranks: two passes of 100; what is exchanged is hidden behind them."""
    packed = replace(JOB, packed=True, rates=replace(JOB.rates, link=1e15))
    assert sample_seconds(packed, Way(3, 100, False)) == pytest.approx((2 * PASS + STEP) / 8, rel=1e-4)
    assert sample_seconds(packed, Way(3, 200, False)) == pytest.approx((0.126 + STEP) / 8, rel=1e-4)


def test_sample_seconds__adapters_exchange_little_and_have_no_weight_gradients() -> None:
    adapters = replace(JOB, trained=10**6, rates=replace(JOB.rates, link=1e15))
    assert sample_seconds(adapters, Way(1, 1, False)) == pytest.approx(2 * (0.04 + 0.006) / 8, rel=1e-3)


def fastest(own: Way, sizes: dict[int, int], room: int, job: Job = JOB, **more: Any) -> Fastest | None:
    """With ``sizes``: bytes of each stage with one row; each further row takes 30."""
    return find_fastest(
        job, own, tuple(sizes), lambda way: sizes[way.zero_stage] + 30 * (way.micro_batch - 1), room, **more
    )


@pytest.mark.parametrize(
    ("stages", "room", "expected"),
    [
        ((1, 2, 3), 100, (1, 1, 40)),  # two rows a pass are 1% faster, which is no reason for another change
        ((2, 3), 100, (2, 2, 60)),
        ((1, 2, 3), 40, (2, 1, 30)),
        ((1, 2, 3), 30, (3, 1, 20)),
        ((1, 2, 3), 10, None),
    ],
)
def test_find_fastest__takes_what_fits(
    stages: tuple[int, ...], room: int, expected: tuple[int, int, int] | None
) -> None:
    """Nine tenths of the room are filled. 8 rows a rank: gradients and weights are sent 8 times at ZeRO-3."""
    job, own = replace(JOB, batch_sizes=(32,)), Way(3, 1, False)
    found = fastest(own, {stage: 50 - 10 * stage for stage in stages}, room, job)
    assert (found and (found.zero_stage, found.micro_batch, found.rank_bytes)) == expected
    if found is not None:
        way = Way(found.zero_stage, found.micro_batch, False)
        assert found.times_as_fast == pytest.approx(sample_seconds(job, own) / sample_seconds(job, way))


def test_find_fastest__keeps_the_spec_where_nothing_is_gained() -> None:
    alone = replace(JOB, ranks=1, batch_sizes=(2,))
    found = fastest(Way(2, 2, False), {0: 1, 1: 1, 2: 1, 3: 1}, 100, alone)
    assert found is not None
    assert (found.zero_stage, found.micro_batch, found.times_as_fast) == (2, 2, 1.0)


def test_find_fastest__swept_checkpointing_stays() -> None:
    found = fastest(Way(1, 1, True), {1: 1}, 100, checkpointing=False)
    assert found is not None
    assert found.gradient_checkpointing


@pytest.mark.parametrize(
    ("train", "stages"),
    [
        ({}, {1, 2, 3}),
        ({"precision": "fp32"}, {0, 1, 2, 3}),
        ({"compile": True}, {1, 2}),
        ({"lora": {"quantize": "nf4"}}, {1, 2}),
        ({"lora": {}}, {1, 2, 3}),
        ({"optimizer": {"name": "adafactor"}, "precision": "fp32", "zero_stage": 0}, {0}),
    ],
)
def test_plan__fastest_stage_is_one_the_spec_allows(train: dict[str, Any], stages: set[int]) -> None:
    seen = set()
    for gpu in ("l4", "h100", "b200"):
        found = make_plan(spec_to_plan(train=train), Flags(gpu=gpu, files=False, rows=1000)).fastest
        if found is not None:
            seen.add(found.zero_stage)
    assert seen <= stages
    assert seen


def test_plan__slow_network_changes_the_stage() -> None:
    """16 ranks on two nodes: at ZeRO-3 each pass sends the weights through the network, at ZeRO-1 one does."""
    spec = spec_to_plan(
        train={"zero_stage": 3},
        resources={"workers_per_trial": 16, "concurrent_trials": 1, "placement": "any"},
    )
    slow, fast = (
        make_plan(
            spec, Flags(gpu="h100", nodes=2, gpus_per_node=8, network=gbit, files=False, rows=1000)
        ).fastest
        for gbit in (10.0, 1e5)
    )
    assert slow is not None
    assert fast is not None
    assert slow.zero_stage == 1
    assert slow.times_as_fast > 3 > fast.times_as_fast


@pytest.mark.parametrize(
    "sections", [{"train": {"offload": "optimizer"}}, {"resources": {"gpus_per_worker": 0}}]
)
def test_plan__no_fastest_way_without_figures(sections: dict[str, Any]) -> None:
    assert make_plan(spec_to_plan(**sections), Flags(files=False, rows=1000)).fastest is None


def test_plan__fastest_fits_ninety_percent() -> None:
    found = make_plan(spec_to_plan(), Flags(gpu="a100", files=False, rows=1000)).fastest
    assert found is not None
    assert found.rank_bytes <= 0.9 * 80 * GIB


def test_gpus__names_are_those_the_command_takes() -> None:
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in GPUS)
    assert all(min(gpu) > 0 for gpu in GPUS.values())
