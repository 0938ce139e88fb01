"""Time a few optimizer steps as trials take them: same engine, same batches, same sample order."""

from __future__ import annotations

import math
import resource
import time

import torch
import torch.distributed as dist

from sweepft.spec import TrainConfig
from sweepft.training.trainer import TrialRunner


def time_steps(
    runner: TrialRunner, train_config: TrainConfig, steps: int, most_seconds: float
) -> tuple[float, list[float]]:
    """Seconds of optimizer steps after a first one, which makes what stays and is not counted. Called on every rank.

    Args:
        runner: Of this rank.
        train_config: Whose batch size is timed; its budget bounds the steps.
        steps: To time, at most.
        most_seconds: Fewer are timed where that many would take longer; never less than one.
    Returns:
        Seconds to take the trial up (a reset, where the engine is warm), and one entry a step.
    """
    begin = time.perf_counter()
    runner.start(train_config)
    switched, begin = time.perf_counter() - begin, time.perf_counter()
    runner.run(train_config.batch_size)
    first = time.perf_counter() - begin
    wanted = torch.tensor(
        max(1, min(steps, math.floor(most_seconds / max(first, 1e-9)))), device=runner.device
    )
    dist.all_reduce(wanted, op=dist.ReduceOp.MIN)  # ranks that disagreed would wait for each other for ever
    history = runner.run((1 + int(wanted)) * train_config.batch_size)["history"]
    return switched, [float(seconds) for seconds in history["seconds"]]


def time_evaluation(runner: TrialRunner) -> float:
    """Seconds of one evaluation of all held-out sets."""
    return float(runner.evaluate()["seconds"])


def peak_bytes(device: torch.device) -> int:
    """The most memory this rank has held: of its GPU, or resident in main memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
