"""The ranks that ``measure`` times: ``python -m sweepft.plan.measure_ranks`` reads a job from stdin.

Each slot is a process group of its own, and all slots start their timed steps together, so that each runs under the
load of the others as in the sweep. The start-up before the ranks is timed by starting a local Ray and a coordinator for
each slot; Ray is then stopped, and the ranks are plain processes.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import queue
import socket
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweepft.bounded_json import read_json
from sweepft.data import Prepared
from sweepft.driver.configs import measured_by_name, slot_config
from sweepft.driver.environment import use_short_temp_folder, use_writable_home
from sweepft.files import atomic_write
from sweepft.spec import SweepSpec, TrainConfig, from_dict
from sweepft.training.config import EngineConfig
from sweepft.training.rank_environment import set_rank_environment
from sweepft.training.rendezvous import open_listener

_PATIENCE = 3600.0


def _main() -> None:
    job = read_json(sys.stdin.read())
    outcome = Path(job["outcome"])
    try:
        use_short_temp_folder(_silent)
        use_writable_home(Path(job["folder"]), _silent)
        found = _measure(job)
    except Exception as error:
        found = {"error": str(error)}
    atomic_write(outcome, json.dumps(found), sync=False)


def _silent(text: str) -> None:
    """The sweep itself says where its temporary files and caches go."""


def _measure(job: Mapping[str, Any]) -> dict[str, Any]:
    spec = from_dict(job["spec"], recorded=True)
    prepared = Prepared.model_validate(job["prepared"])
    engine = slot_config(spec, prepared, Path(job["folder"])).engine
    trials = [_train_config(spec, size, prepared) for size in spec.batch_sizes]
    slots, world = int(job["slots"]), spec.resources.workers_per_trial
    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    together = context.Barrier(slots * world)
    before = _before_ranks(spec, slots)
    begin = time.monotonic()
    processes = []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        for slot in range(slots):
            listener = open_listener("127.0.0.1")
            for rank in range(world):
                _show_gpu(slot * world + rank, spec.resources.gpus_per_worker, visible)
                port = listener.getsockname()[1]
                args = (
                    answers,
                    together,
                    slot,
                    rank,
                    world,
                    port,
                    listener if rank == 0 else None,
                    engine,
                    trials,
                    dict(job),
                    begin,
                )
                process = context.Process(target=_rank, args=args, daemon=True)
                process.start()
                processes.append(process)
            listener.close()  # rank 0 has its own copy
        found = _gathered(answers, slots * world, [str(t.batch_size) for t in trials], processes)
        return found | {"start_seconds": before + found["start_seconds"]}
    finally:
        for process in processes:
            process.kill()


def _before_ranks(spec: SweepSpec, slots: int) -> float:
    """Seconds for a local Ray to start and to load a coordinator for each slot, as in a sweep without ``--address``."""
    import ray

    from sweepft.driver.configs import local_cpus
    from sweepft.driver.ray_session import set_environment, start_ray

    set_environment()
    begin = time.monotonic()
    start_ray(local_cpus(spec)[0])
    try:
        load = ray.remote(num_cpus=0)(_load_coordinator)
        ray.get([load.remote() for _ in range(slots)])
        return time.monotonic() - begin
    finally:
        ray.shutdown()


def _load_coordinator() -> None:
    importlib.import_module("sweepft.slot.trainable")


def _train_config(spec: SweepSpec, size: int, prepared: Prepared) -> TrainConfig:
    """The train config of a trial of this batch size, with the first value of every other swept field."""
    params = {key: dimension.examples()[0][1] for key, dimension in spec.search.space.items()}
    if "batch_size" in params:
        params["batch_size"] = size
    return spec.train_config(params, prepared.budget_samples, prepared.tokens_per_sample)


def _gathered(answers: Any, expected: int, sizes: list[str], processes: list[Any]) -> dict[str, Any]:
    """Maximum start time and peak of all ranks, and the step times of each slot's first rank."""
    steps: dict[str, list[float]] = {size: [] for size in sizes}
    names = (
        *("evaluate_seconds", "objective_seconds", "start_seconds", "switch_seconds"),
        *("peak_bytes", "micro_batch"),
    )
    found: dict[str, Any] = dict.fromkeys(names, 0)
    deadline = time.monotonic() + _PATIENCE
    while expected:
        try:
            answer = answers.get(timeout=2.0)
        except queue.Empty:
            dead = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
            if dead or time.monotonic() > deadline:
                raise RuntimeError(f"a rank ended without an answer (exit statuses {dead})") from None
            continue
        if "error" in answer:
            raise RuntimeError(answer["error"])
        found = {key: max(value, answer[key]) for key, value in found.items()}
        if answer["rank"] == 0:
            for size, taken in answer["steps"].items():
                steps[size] += taken
        expected -= 1
    return found | {"steps": steps}


def _rank(
    answers: Any,
    together: Any,
    slot: int,
    rank: int,
    world: int,
    port: int,
    listener: socket.socket | None,
    engine: EngineConfig,
    trials: list[TrainConfig],
    job: Mapping[str, Any],
    begin: float,
) -> None:
    try:
        importlib.import_module("ray")
        set_rank_environment(from_dict(job["spec"], recorded=True).resources.env)
        from sweepft.training.distributed import join, leave
        from sweepft.training.timing import peak_bytes, time_evaluation, time_steps
        from sweepft.training.trainer import TrialRunner

        gpus = from_dict(job["spec"], recorded=True).resources.gpus_per_worker
        runner = TrialRunner(
            engine, join(rank, world, "127.0.0.1", port, engine.threads, gpus, listener=listener)
        )
        runner.start(trials[0])
        if not engine.micro_batch:
            runner.set_micro_batch(runner.find_max_micro_batch())
        start = time.monotonic() - begin
        steps, switches = {}, []
        for trial in trials:
            together.wait(_PATIENCE)
            switched, taken = time_steps(runner, trial, job["steps"], job["most_seconds"])
            steps[str(trial.batch_size)] = taken
            switches.append(switched)
        together.wait(_PATIENCE)
        evaluated = time_evaluation(runner)
        together.wait(_PATIENCE)
        measured = _time_objective(runner, job)
        answer: dict[str, Any] = {
            "rank": rank,
            "slot": slot,
            "steps": steps,
            "start_seconds": start,
            "switch_seconds": sum(switches) / len(switches),
            "evaluate_seconds": evaluated,
            "objective_seconds": measured,
            "peak_bytes": peak_bytes(runner.device),
            "micro_batch": runner.config.micro_batch,
        }
        together.wait(_PATIENCE)
        leave()
        answers.put(answer)
    except Exception as error:
        answers.put({"error": f"rank {rank}: {type(error).__name__}: {error}\n{traceback.format_exc()}"})


def _time_objective(runner: Any, job: Mapping[str, Any]) -> float:
    """Seconds of one measurement of all tasks that trials are measured on; 0 without any. The first one, which also
    reads the data, does not count.
    """
    tasks = measured_by_name(from_dict(job["spec"], recorded=True), job["prepared"]["tokenizer"])
    if not tasks:
        return 0.0
    from sweepft.slot.rank import measure_engine

    seconds = 0.0
    for _ in range(2):
        found = [measure_engine(runner.zero, one.tokenizer, one.task, one.metric) for one in tasks.values()]
        seconds = sum(float(one["seconds"]) for one in found)
    return seconds


def _show_gpu(index: int, each: float, visible: str | None) -> None:
    """Let the next process see one GPU, as Ray would; the children inherit the environment."""
    if each > 0:
        names = visible.split(",") if visible else None
        place = int(index * each)
        os.environ["CUDA_VISIBLE_DEVICES"] = names[place] if names else str(place)


if __name__ == "__main__":
    _main()
