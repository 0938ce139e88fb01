"""One sweep run three ways: sweepft, Ray's TorchTrainer in each Tune trial, and a new process group per trial.

    python benchmarks/trial_switch.py [--json FILE] [--md FILE] [--trials 12] [--steps 30]

All three train the same configurations on the same batches, one trial at a time on two ranks of one thread each, and
must give equal losses. sweepft runs first and last, and the mean is reported, so that a drift of the machine's load
favours none of them. Timing starts when the data are tokenised and Ray is up, and stops with the result of the last
trial; sweepft's time includes the start of its ranks, its ledger and its report. A second sweep, with steps of half a
second or more, shows the fraction of a slot's time spent inside steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import record
from material import Material, Shape, make, write_spec
from slot_time import PHASES, SlotTime, slot_times

TINY = Shape(hidden=64, layers=2, heads=4, intermediate=128)
SLOW = Shape(hidden=320, layers=6, heads=5, intermediate=864)
RANKS = 2
BATCH, MICRO_BATCH = 16, 8
RATES = (1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 1e-2)
SCHEDULES = ("constant", "cosine")
Key = tuple[float, str]


@dataclass(frozen=True)
class Outcome:
    """Result of one way: wall seconds and, by configuration, the loss of every step and every validation loss."""

    seconds: float
    losses: dict[Key, list[float]]
    evals: dict[Key, list[float]]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare three ways to run a sweep; see the module.")
    record.add_options(parser)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument(
        "--slow-trials", type=int, default=3, help="trials of the sweep with long steps; 0 skips it"
    )
    parser.add_argument("--slow-steps", type=int, default=60)
    args = parser.parse_args()
    # A grid has rates x schedules trials.
    rates = [RATES[i % len(RATES)] * (1 + i // len(RATES)) for i in range(-(-args.trials // len(SCHEDULES)))]

    from sweepft.driver.ray_session import set_environment

    set_environment()
    facts = record.about()
    with tempfile.TemporaryDirectory(prefix="sweepft-bench-") as name:
        folder = Path(name)
        import ray

        begin = time.perf_counter()
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        ray_start = time.perf_counter() - begin
        try:
            material = make(folder / "tiny-material", TINY, rows=1200)
            warm, job = by_sweepft(folder, "tiny", material, rates, args.steps)
            keys = list(warm.losses)
            print(f"sweepft: {warm.seconds:.1f} s", flush=True)
            fresh = by_processes(folder, keys, job)
            print(f"process per trial: {fresh.seconds:.1f} s", flush=True)
            trainer = by_torchtrainer(folder, keys, job)
            print(f"TorchTrainer: {trainer.seconds:.1f} s", flush=True)
            second, _ = by_sweepft(folder, "tiny-second", material, rates, args.steps)
            print(f"sweepft, second run: {second.seconds:.1f} s", flush=True)
            slow = by_long_steps(folder, args) if args.slow_trials else None
        finally:
            ray.shutdown()
        slots = [next(iter(slot_times(folder / run).values())) for run in ("tiny", "tiny-second")]
        figures = compare((warm, second), fresh, trainer, slots, ray_start) | step_shares(slow)
    record.finish(args, "A sweep three ways", facts, figures, page(figures))


def spec_for(folder: Path, name: str, material: Material, search: Mapping[str, Any], **train: Any) -> Path:
    """A sweep on one slot of two ranks."""
    return write_spec(
        folder / f"{name}.yaml", material, validation=train.pop("validation"), rungs=train.pop("rungs"),
        train={"seed": 0, **train}, search=search,
        resources={"workers_per_trial": RANKS, "concurrent_trials": 1},
    )  # fmt: skip


def run(spec_file: Path, out: Path) -> float:
    """Tokenise, then run the sweep; returns the seconds of the run without tokenising."""
    from rich.console import Console

    from sweepft.data import prepare_in_child
    from sweepft.driver.start import start_sweep
    from sweepft.spec import load

    spec = load(spec_file)
    prepare_in_child(spec, out.resolve() / "cache")
    begin = time.perf_counter()
    with (out.parent / f"{out.name}.txt").open("w") as console:
        finished = start_sweep(spec, out, console=Console(file=console))
    seconds = time.perf_counter() - begin
    if finished.exit_code:
        raise SystemExit(f"the sweep failed: {finished.status}; see {out}")
    return seconds


def by_sweepft(
    folder: Path, name: str, material: Material, rates: list[float], steps: int
) -> tuple[Outcome, dict[str, Any]]:
    """Run the sweep with sweepft; also returns what the other ways need to train on the same data."""
    from sweepft.ledger import SweepState

    space = {"learning_rate": {"choice": rates}, "schedule": {"choice": list(SCHEDULES)}}
    search = {"sampler": "grid", "space": space}
    file = spec_for(
        folder, name, material, search, validation=32, rungs=(0.5,),
        budget={"samples": BATCH * steps}, batch_size=BATCH, micro_batch=MICRO_BATCH,
    )  # fmt: skip
    seconds = run(file, folder / name)
    view = SweepState.load(folder / name)
    losses, evals = {}, {}
    for trial in view.trials.values():
        key = (trial.params["learning_rate"], trial.params["schedule"])
        losses[key] = trial.history["loss"].tolist()
        evals[key] = [e["objective"] for e in trial.evals]
    data = view.header["data"]
    job = {
        "model": str(material.model),
        "train_cache": data["train"]["path"],
        "held_cache": data["validation"][0]["data"]["path"],
        "pad_id": data["pad_id"],
        "budget_samples": view.budget_samples,
        "eval_steps": [steps // 2, steps],
        "micro_batch": MICRO_BATCH,
        "batch_size": BATCH,
        "seed": 0,
    }
    return Outcome(seconds, losses, evals), job


def by_processes(folder: Path, keys: list[Key], job: dict[str, Any]) -> Outcome:
    """A new process group for each trial, started directly: what torchrun does, without torchrun's own startup."""
    script = str(Path(__file__).with_name("plain_trial.py"))
    losses, evals = {}, {}
    begin = time.perf_counter()
    for i, key in enumerate(keys):
        file, outcome = folder / f"job-{i}.json", folder / f"job-{i}-outcome.json"
        file.write_text(
            json.dumps(job | {"learning_rate": key[0], "schedule": key[1], "outcome": str(outcome)})
        )
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        shared = {
            **os.environ, "WORLD_SIZE": str(RANKS), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            "LOCAL_RANK": "0", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }  # fmt: skip
        with (folder / f"job-{i}.log").open("w") as log:
            ranks = [
                subprocess.Popen(
                    [sys.executable, script, str(file)],
                    env=shared | {"RANK": str(rank)},
                    stdout=log,
                    stderr=log,
                )
                for rank in range(RANKS)
            ]
            if any(rank.wait(timeout=300) for rank in ranks):
                raise SystemExit((folder / f"job-{i}.log").read_text()[-3000:])
        found = json.loads(outcome.read_text())
        losses[key], evals[key] = found["losses"], found["evals"]
    return Outcome(time.perf_counter() - begin, losses, evals)


def by_torchtrainer(folder: Path, keys: list[Key], job: dict[str, Any]) -> Outcome:
    """Ray Train V2 inside each Tune trial, as in Ray's documentation."""
    from ray import tune

    results = folder / "trainer-outcomes"
    results.mkdir()
    bin_dir = str(Path(sys.executable).parent)

    def worker(config: dict[str, Any]) -> None:
        os.environ["PATH"] = f"{bin_dir}{os.pathsep}{os.environ.get('PATH', '')}"
        os.environ["DS_ACCELERATOR"] = "cpu"
        import ray.train
        from plain_trial import train

        outcome = train(config, ray.train.report)
        if ray.train.get_context().get_world_rank() == 0:
            Path(config["outcome"]).write_text(json.dumps(outcome))

    def driver(config: dict[str, Any]) -> None:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.tune.integration.ray_train import TuneReportCallback

        TorchTrainer(
            worker,
            train_loop_config=config["job"],
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=RANKS, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(
                name=f"trainer-{config['job']['number']}",
                storage_path=str(folder / "trainer"),
                callbacks=[TuneReportCallback()],
            ),
        ).fit()

    jobs = [
        job
        | {"learning_rate": key[0], "schedule": key[1], "number": i, "outcome": str(results / f"{i}.json")}
        for i, key in enumerate(keys)
    ]
    tuner = tune.Tuner(
        tune.with_resources(driver, {"cpu": 0.01}),
        param_space={"job": tune.grid_search(jobs)},
        tune_config=tune.TuneConfig(metric="eval_loss", mode="min", max_concurrent_trials=1),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder / "trainer-tune"), verbose=0),
    )
    begin = time.perf_counter()
    outcomes = tuner.fit()
    seconds = time.perf_counter() - begin
    if outcomes.errors:
        raise SystemExit(f"TorchTrainer failed: {outcomes.errors[0]}")
    found = [json.loads((results / f"{i}.json").read_text()) for i in range(len(keys))]
    losses = {key: one["losses"] for key, one in zip(keys, found, strict=True)}
    return Outcome(seconds, losses, {key: one["evals"] for key, one in zip(keys, found, strict=True)})


def by_long_steps(folder: Path, args: argparse.Namespace) -> tuple[SlotTime, float]:
    """A sweep with steps of half a second or more, evaluated at the default rungs; also the seconds of a step."""
    material = make(folder / "slow-material", SLOW, rows=2400)
    search = {
        "trials": args.slow_trials, "sampler": "random",
        "space": {"learning_rate": {"log_uniform": [1e-4, 1e-3]}, "schedule": {"choice": list(SCHEDULES)}},
    }  # fmt: skip
    file = spec_for(
        folder, "slow", material, search, validation=32, rungs=(0.1, 0.25, 0.5),
        budget={"samples": 32 * args.slow_steps}, batch_size=32, micro_batch=16,
    )  # fmt: skip
    run(file, folder / "slow")
    slot = next(iter(slot_times(folder / "slow").values()))
    print(f"long steps: {slot.share('steps'):.1%} of the slot's time inside steps", flush=True)
    return slot, slot.seconds["steps"] / (slot.trials * args.slow_steps)


def compare(
    runs: tuple[Outcome, Outcome], fresh: Outcome, trainer: Outcome, slots: list[SlotTime], ray_start: float
) -> dict[str, Any]:
    """Figures of the tiny sweep: the mean of sweepft's two runs, and the slot's time from the first."""
    warm, second = runs
    trials = len(warm.losses)
    differences = [difference(warm, other) for other in (fresh, trainer, second)]
    seconds = (warm.seconds + second.seconds) / 2
    start = float(np.mean([slot.start for slot in slots]))
    outside = seconds - start - float(np.mean([slot.warm_seconds for slot in slots]))
    switches = [s for slot in slots for s in slot.switches]
    per_trial = (seconds - start) / trials
    return {
        "trials": trials,
        "sweepft_seconds": seconds,
        "sweepft_seconds_first_and_last": [warm.seconds, second.seconds],
        "torchtrainer_seconds": trainer.seconds,
        "process_seconds": fresh.seconds,
        "ratio_torchtrainer": trainer.seconds / seconds,
        "ratio_process": fresh.seconds / seconds,
        "ratio_torchtrainer_per_further_trial": trainer.seconds / trials / per_trial,
        "ratio_process_per_further_trial": fresh.seconds / trials / per_trial,
        "losses_equal": max(differences) <= 1e-6,
        "largest_difference": {
            "process": differences[0],
            "torchtrainer": differences[1],
            "again": differences[2],
        },
        "ray_start_seconds": ray_start,
        "ranks_start_seconds": start,
        "outside_slot_seconds": outside,
        "switch_seconds": {
            "median": float(np.median(switches)),
            "largest": max(switches),
            "all": switches,
        },
        "tiny_slot": slot_figures(slots[0]),
    }


def difference(a: Outcome, b: Outcome) -> float:
    """Largest difference of a step's loss or a validation loss over all trials; infinite where lengths differ."""
    pairs = [(a.losses[k], b.losses[k]) for k in a.losses] + [(a.evals[k], b.evals[k]) for k in a.losses]
    if any(len(x) != len(y) for x, y in pairs):
        return float("inf")
    return max(float(np.abs(np.subtract(x, y)).max()) for x, y in pairs)


def slot_figures(slot: SlotTime) -> dict[str, Any]:
    """Seconds and shares of one slot by phase."""
    return {
        "trials": slot.trials,
        "start_seconds": slot.start,
        "warm_seconds": slot.warm_seconds,
        "seconds": slot.seconds,
        "shares": {phase: slot.share(phase) for phase in PHASES},
        "step_share_with_start": slot.share("steps", with_start=True),
    }


def step_shares(slow: tuple[SlotTime, float] | None) -> dict[str, Any]:
    """Figures of the sweep with long steps."""
    if slow is None:
        return {"step_share": None}
    slot, step_seconds = slow
    return {
        "step_share": slot.share("steps"),
        "step_share_with_start": slot.share("steps", with_start=True),
        "long_step_seconds": step_seconds,
        "long_slot": slot_figures(slot),
    }


def page(f: dict[str, Any]) -> str:
    """The tables as Markdown."""
    n, base, apart = f["trials"], f["sweepft_seconds"], f["largest_difference"]
    names = {
        "sweepft": "sweepft",
        "process": "new process group per trial",
        "torchtrainer": "TorchTrainer in each Tune trial",
    }
    ways = [
        [name, f[f"{key}_seconds"], f[f"{key}_seconds"] / n, f[f"{key}_seconds"] / base]
        for key, name in names.items()
    ]
    text = [
        f"## {n} trials, ZeRO-2, {RANKS} ranks, one trial at a time\n",
        record.table(["way", "seconds", "per trial", "relative to sweepft"], ways),
        f"\nLosses equal: {f['losses_equal']}; largest difference of a step's loss or a validation loss: "
        f"process {apart['process']:.2g}, TorchTrainer {apart['torchtrainer']:.2g}.",
        f"\nsweepft's seconds include {f['ranks_start_seconds']:.2f} s for the start of its ranks (once per slot) and "
        f"{f['outside_slot_seconds']:.2f} s outside the slot (Tune's start, ledger, report). Without the start of the "
        f"ranks, each further trial takes {(base - f['ranks_start_seconds']) / n:.2f} s; "
        f"with TorchTrainer {f['ratio_torchtrainer_per_further_trial']:.1f} times that, with processes "
        f"{f['ratio_process_per_further_trial']:.1f} times. Ray's own start, {f['ray_start_seconds']:.1f} s, "
        "is the same for sweepft and TorchTrainer and is not included.",
        f"\nWarm switch: median {1000 * f['switch_seconds']['median']:.1f} ms, "
        f"largest {1000 * f['switch_seconds']['largest']:.1f} ms.",
        "\n## The slot's time by phase\n",
        slots_table(f),
    ]
    if f["step_share"] is not None:
        text.append(
            f"\nLong steps: {f['long_step_seconds']:.2f} s per step, {f['long_slot']['trials']} trials; "
            f"{f['step_share']:.1%} of the slot's time after the start of its ranks is inside steps, "
            f"{f['step_share_with_start']:.1%} including that start."
        )
    return "\n".join(text)


def slots_table(f: dict[str, Any]) -> str:
    """Seconds and shares by phase of both sweeps."""
    slots = {name: f[key] for name, key in (("tiny", "tiny_slot"), ("long steps", "long_slot")) if key in f}
    header = ["phase", *(f"{name}: {what}" for name in slots for what in ("seconds", "share"))]
    rows: list[list[object]] = []
    for phase in PHASES:
        row: list[object] = [phase]
        for slot in slots.values():
            row += [slot["seconds"][phase], f"{slot['shares'][phase]:.1%}"]
        rows.append(row)
    total: list[object] = ["warm slot time"]
    start: list[object] = ["start of the ranks, before"]
    for slot in slots.values():
        total += [slot["warm_seconds"], "100%"]
        start += [slot["start_seconds"], ""]
    return record.table(header, [*rows, total, start])


if __name__ == "__main__":
    main()
