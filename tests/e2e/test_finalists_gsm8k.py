"""Finalists of ``sweeps/gsm8k-tiny.yaml`` on GSM8K, multiple choice and BBH score as in the harness itself."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml

from support.sweeps import run_spec
from sweepft.ledger import winner
from sweepft.spec import load

pytest.importorskip("lm_eval")

SWEEPS = Path(__file__).parents[2] / "sweeps"
SHARED = SWEEPS.parents[1] / "shared"
TASKS = ("gsm8k_local", "gsm8k_choice", "bbh_local")
LIMIT = 8

pytestmark = [
    pytest.mark.full,
    pytest.mark.ray,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not SHARED.is_dir(), reason="the development data are not beside this checkout"),
]


def the_section() -> dict:
    """The ``evaluate`` section that stands in the file as a comment."""
    lines = (SWEEPS / "gsm8k-tiny.yaml").read_text().splitlines()
    start = lines.index("# evaluate:")
    block = [line.removeprefix("# ") for line in lines[start : lines.index("", start)]]
    return yaml.safe_load("\n".join(block))["evaluate"]


def harness_itself(folder: Path, task: str) -> dict:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=str(folder), batch_size=8, device="cpu", dtype="float32")
    with contextlib.chdir(SWEEPS / "tasks"):
        manager = TaskManager(include_path=str(SWEEPS / "tasks"), include_defaults=False)
        found = simple_evaluate(lm, tasks=[task], limit=LIMIT, apply_chat_template=True, task_manager=manager)
    return found["results"][task]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("stage", "workers"), [(2, 1), (3, 2)])
def test_finalists__scores_in_warm_ranks_equal_the_harness(ray_here, tmp_path, stage, workers):
    section = {**the_section(), "limit": LIMIT, "finalists": {"top": 1, "random": 1}}
    del section["replicates"]
    overrides = (
        "train.budget.samples=128", "search.trials=2", "early_stop.rule=none", "resources.concurrent_trials=1",
        "data.test.0.limit=20", f"train.zero_stage={stage}", f"resources.workers_per_trial={workers}",
        f"evaluate={section}",
    )  # fmt: skip
    done = run_spec(load(SWEEPS / "gsm8k-tiny.yaml", overrides), tmp_path / "run")
    assert done.status == "finished"
    best = winner(done.view)
    for subject, folder in (
        (None, SHARED / "models" / "tiny-llama-t0"),
        (best.trial_id, tmp_path / "run" / "best"),
    ):
        for task in TASKS:
            ours = done.view.scores[subject, task]
            theirs = harness_itself(folder, task)
            print(stage, subject, task, ours["metrics"], theirs)
            assert ours["items"] == LIMIT
            for name, found in ours["metrics"].items():
                key = name if "," in name else next(k for k in theirs if k.startswith(f"{name},"))
                assert found["value"] == pytest.approx(theirs[key], abs=1e-9), (subject, task, name)
                stderr = f"{key.partition(',')[0]}_stderr,{key.partition(',')[2]}"
                assert found["stderr"] == pytest.approx(theirs[stderr], abs=1e-9)
