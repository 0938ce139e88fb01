"""Run a function on the ranks of a real process group, each in its own fresh process.

Processes are forked from a server that has imported torch, transformers and deepspeed and done nothing else, so a
fresh process costs half a second instead of eight.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import socket
from collections.abc import Callable
from pathlib import Path
from queue import Empty
from typing import Any
from unittest import mock

from sweepft.spec import TrainConfig
from sweepft.training.config import EngineConfig
from sweepft.training.rendezvous import open_listener


def run_trials(
    plan: EngineConfig,
    trials: list[TrainConfig],
    world_size: int,
    chunks: int = 1,
    reset_in_place: bool | None = None,
    gpus: float = 0,
) -> list[dict[str, Any]]:
    """Train the trials one after another on one runner a rank; returns rank 0's results, one a trial."""
    return on_ranks(_train, world_size, plan, trials, chunks, reset_in_place, gpus=gpus)


def _train(
    runner: Any, trials: list[TrainConfig], chunks: int, reset_in_place: bool | None
) -> list[dict[str, Any]]:
    from sweepft.training.deepspeed_engine import ZeroEngine

    results = []
    runner.zero = ZeroEngine(runner.config, runner.device, reset_in_place)
    for trial in trials:
        result = runner.start(trial)
        result["history"] = {}
        for i in range(chunks):
            chunk = runner.run(-(-runner.config.budget_samples * (i + 1) // chunks))
            for name, values in chunk["history"].items():
                result["history"].setdefault(name, []).extend(values)
            if runner.validation:
                result.setdefault("evals", []).append(runner.evaluate())
        result["diverged"] = chunk["diverged"]
        results.append(result)
    return results


def on_ranks(
    job: Callable[..., Any], world_size: int, plan: EngineConfig, *args: Any, gpus: float = 0
) -> Any:
    """``job(runner, *args)`` on every rank; returns what rank 0 returns and raises what any rank raises."""
    # DeepSpeed settles its device when it is imported, and CUDA does not outlive a fork.
    context = multiprocessing.get_context("spawn" if gpus else "forkserver")
    if not gpus:
        _serve()
    queue = context.Queue()
    with open_listener("127.0.0.1") as meeting:
        port = meeting.getsockname()[1]
        processes = [
            context.Process(
                target=_rank,
                args=(queue, rank, world_size, port, None if rank else meeting, plan, job, args, gpus),
            )
            for rank in range(world_size)
        ]
        for process in processes:
            process.start()
    results: dict[int, Any] = {}
    try:
        while len(results) < world_size:
            rank, result = _next(queue, processes)
            if isinstance(result, Exception):
                raise result  # at once: the other ranks may be waiting for this one
            results[rank] = result
        for process in processes:
            process.join(timeout=20)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
    return results[0]


def _serve() -> None:
    """Start the fork server; it finds modules by PYTHONPATH only, and passes over what it cannot import."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(["support.heavy_imports"])
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    with mock.patch.dict(os.environ, {"PYTHONPATH": path}):
        multiprocessing.forkserver.ensure_running()


def _next(queue: Any, processes: list[Any]) -> tuple[int, Any]:
    """The next answer of a rank; a rank that is gone without one is seen within seconds."""
    for _ in range(150):
        with contextlib.suppress(Empty):
            return queue.get(timeout=2)  # type: ignore[no-any-return]
        gone = {rank: p.exitcode for rank, p in enumerate(processes) if p.exitcode not in (None, 0)}
        if gone:
            raise RuntimeError(
                f"ranks ended without an answer (exit statuses {gone}); their words are on stderr"
            )
    raise TimeoutError("no answer from any rank in 300 s")


def _rank(
    queue: Any,
    rank: int,
    world_size: int,
    port: int,
    listener: socket.socket | None,
    plan: EngineConfig,
    job: Any,
    args: Any,
    gpus: float,
) -> None:
    import torch

    from sweepft.training.distributed import join, leave
    from sweepft.training.trainer import TrialRunner

    try:
        torch.manual_seed(12345 + rank)  # whatever a process did before must not matter
        device = join(rank, world_size, "127.0.0.1", port, plan.threads, gpus, listener=listener)
        queue.put((rank, job(TrialRunner(plan, device), *args)))
        leave()
    except Exception as error:
        import traceback

        queue.put((rank, RuntimeError(f"rank {rank}: {error}\n{traceback.format_exc()}")))


def numbers(result: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in two trials that are equal: every step and every evaluation, but no times."""
    return {
        "history": {k: v for k, v in result["history"].items() if k != "seconds"},
        "evals": [(e["objective"], e["sets"]) for e in result["evals"]],
    }
