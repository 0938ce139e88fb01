"""Trials that share a GPU: two slots of half a GPU run at once on one, and the report says so.

GPUs are only counted here (``SWEEPFT_PRETEND_GPUS``): what is tested is the placement, the accounts and the report.
"""

from __future__ import annotations

import itertools

import pytest
import ray

from support.sweeps import run_spec, write_spec
from sweepft.driver.configs import placement
from sweepft.report import summarise
from sweepft.spec import load

pytestmark = pytest.mark.ray
HALF = {"gpus_per_worker": 0.5, "concurrent_trials": 2}


def test_shared_gpu__two_half_slots_fit_and_a_third_waits(ray_here, tiny_model_dir, tiny_data_file, tmp_path):
    spec = load(write_spec(tmp_path, tiny_model_dir, tiny_data_file, resources=HALF))
    groups = [placement(spec)() for _ in range(3)]
    try:
        ready, waiting = ray.wait([group.ready() for group in groups], num_returns=2, timeout=60)
        assert (len(ready), len(waiting)) == (2, 1)
        assert ray.wait(waiting, timeout=1.0)[0] == []
    finally:
        for group in groups:
            ray.util.remove_placement_group(group)


@pytest.mark.full
def test_shared_gpu__sweep_whose_trials_share_one(ray_here, tiny_model_dir, tiny_data_file, tmp_path):
    spec = write_spec(tmp_path, tiny_model_dir, tiny_data_file, resources=HALF, early_stop={"rule": "none"})
    done = run_spec(spec, tmp_path / "run")
    assert done.status == "finished"
    spans = sorted((a.started, a.last, a.slot) for t in done.view.trials.values() for a in t.attempts)
    assert len({slot for *_, slot in spans}) == 2
    assert any(b[0] < a[1] and a[2] != b[2] for a, b in itertools.pairwise(spans)), "two at once"
    assert {row["gpus"] for row in done.view.costs} == {0.5}
    cost = summarise(done.view)["cost"]
    assert cost["unit"] == "gpu_seconds"
    assert cost["sharing"]["trials_per_gpu"] == 2
    assert cost["tokens_per_second"] > 0
