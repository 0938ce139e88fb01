"""Time of a scheduler decision by sweep size, compared with Ray's ASHA in the same run.

    python benchmarks/scheduler_cost.py [--sizes 10 100 1000 10000]

Trials run one after another on synthetic curves of 20 reports. The time of each scheduler's ``on_trial_result`` is
measured over the last tenth of the trials, when the sweep has reached its full size. Compare ratios, not microseconds.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import ASHAScheduler

from sweepft.schedulers import EarlyDynamicsScheduler

REPORTS = 20


def schedulers() -> dict[str, Any]:
    """New schedulers by name."""
    common = {"metric": "m", "mode": "min", "budget": REPORTS, "min_steps": 0}
    return {
        "calibrated": EarlyDynamicsScheduler(**common, rule="calibrated", audit=0.0),
        "median": EarlyDynamicsScheduler(**common, rule="median"),
        "ray-asha": ASHAScheduler("samples_seen", "m", "min", max_t=REPORTS + 1, reduction_factor=3),
    }


def cost(scheduler: Any, trials: int) -> tuple[float, float]:
    """Mean and 99th percentile of the microseconds per report, over the last tenth of the trials."""
    rng = np.random.default_rng(0)
    times = []
    for number in range(trials):
        trial = SimpleNamespace(trial_id=f"t{number}", config={"batch_size": 8}, status="RUNNING")
        scheduler.on_trial_add(None, trial)
        quality = rng.normal()
        for report in range(1, REPORTS + 1):
            value = float(5 + quality + rng.normal() / report)
            result = {"samples_seen": report, "step": report, "loss": value, "m": value, "grad_norm": 1.0}
            if report == REPORTS:
                scheduler.on_trial_complete(None, trial, {**result, "done": True})
                break
            begun = time.perf_counter()
            decision = scheduler.on_trial_result(None, trial, result)
            if number >= trials * 0.9:
                times.append(time.perf_counter() - begun)
            if decision == "STOP":
                scheduler.on_trial_complete(None, trial, {**result, "done": True})
                break
    data = np.array(times) * 1e6
    return float(data.mean()), float(np.quantile(data, 0.99))


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scheduler_cost.json")
    args = parser.parse_args()
    rows = []
    for size in args.sizes:
        for name, scheduler in schedulers().items():
            mean, slow = cost(scheduler, size)
            rows.append(
                {"scheduler": name, "trials": size, "mean_us": round(mean, 1), "p99_us": round(slow, 1)}
            )
            print(f"{size:6d} trials  {name:12s} {mean:9.1f} us per report, p99 {slow:9.1f} us", flush=True)
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": platform.machine(),
        "ray": version("ray"),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
