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
    """Seconds per optimizer step; a first step warms up and is not counted. Called on every rank.

    Args:
        runner: This rank's runner.
        train_config: Trial whose batch size is timed; its budget limits the steps.
        steps: Maximum number of steps to time.
        most_seconds: Time limit; at least one step is timed.
    Returns:
        Seconds to start the trial (a reset where the engine is warm), and the seconds of each step.
    """
    begin = time.perf_counter()
    runner.start(train_config)
    start_seconds, begin = time.perf_counter() - begin, time.perf_counter()
    runner.run(train_config.batch_size)
    first = time.perf_counter() - begin
    wanted = torch.tensor(
        max(1, min(steps, math.floor(most_seconds / max(first, 1e-9)))), device=runner.device
    )
    dist.all_reduce(wanted, op=dist.ReduceOp.MIN)  # all ranks must take the same steps
    history = runner.run((1 + int(wanted)) * train_config.batch_size)["history"]
    return start_seconds, [float(seconds) for seconds in history["seconds"]]


def time_evaluation(runner: TrialRunner) -> float:
    """Seconds of one evaluation of all validation sets."""
    return float(runner.evaluate()["seconds"])


def peak_bytes(device: torch.device) -> int:
    """Peak memory of this rank in bytes: of its GPU, or resident in main memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
