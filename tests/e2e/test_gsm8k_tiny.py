"""``sweeps/gsm8k-tiny.yaml`` on its real model and data, if they are beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_resume import kill_and_resume, sweepft

SPEC = Path(__file__).parents[2] / "sweeps" / "gsm8k-tiny.yaml"
SHARED = SPEC.parents[2] / "shared"

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not SHARED.is_dir(), reason="the development data are not beside this checkout"),
]

SMALL = (
    "train.budget.samples=64",
    "search.trials=5",
    "resources.concurrent_trials=1",
    "early_stop.min_steps=2",
)


@pytest.fixture(scope="module")
def small_spec(tmp_path_factory):
    """The same sweep with a small budget, as a spec of its own."""
    from sweepft.spec import dump, load

    spec = tmp_path_factory.mktemp("gsm8k") / "sweep.yaml"
    spec.write_text(dump(load(SPEC, SMALL)))
    return spec


def test_resume__killed_ten_times_equals_undisturbed(small_spec):
    undisturbed = small_spec.parent / "undisturbed"
    process = sweepft("run", small_spec, "--out", undisturbed)
    output, _ = process.communicate(timeout=1200)
    assert process.returncode == 0, output
    kill_and_resume(small_spec, undisturbed, small_spec.parent / "killed", kills=10, seed=20)
