"""One trial without sweepft: load the model, set DeepSpeed up, train, evaluate, exit.

It shares with sweepft only what makes the numbers comparable: the tokenised rows, the sample order and the split into
micro-batches. It avoids what would only make it slower: tokenising, and DeepSpeed's default buckets of 500 M elements.
Runs as one rank of a new process group, as ``python benchmarks/plain_trial.py JOB.json``, or in a worker of Ray Train.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["train"]


def train(job: Mapping[str, Any], report: Callable[[dict[str, Any]], None] | None = None) -> dict[str, Any]:
    """Train one trial on this rank; the process group's environment variables must be set.

    Args:
        job: ``model``, ``train_cache``, ``held_cache``, ``pad_id``, ``budget_samples``, ``eval_steps``, ``micro_batch``
            and the trial's ``batch_size``, ``learning_rate``, ``schedule``, ``seed``.
        report: Called with each validation loss.
    Returns:
        ``losses`` of every step, ``evals`` and ``step_seconds``.
    """
    import deepspeed
    import torch
    import torch.distributed as dist

    from sweepft.data.cache import TokenSet
    from sweepft.data.order import SampleOrder
    from sweepft.training.batching import split_micro_batches

    torch.set_num_threads(1)
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False, verbose=False)
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(int(job["seed"]))
    rows, held = TokenSet(job["train_cache"]), TokenSet(job["held_cache"])
    order = SampleOrder(len(rows), int(job["seed"]), rows.digest)
    batch, steps = int(job["batch_size"]), int(job["budget_samples"]) // int(job["batch_size"])
    engine = _engine(job, steps, world)

    losses, evals, begin = [], [], time.perf_counter()
    for step in range(steps):
        indices = order.indices(step * batch, (step + 1) * batch)
        tokens = int(rows.targets[indices].sum())
        total = torch.zeros((), dtype=torch.float64)
        for micro in split_micro_batches(rows.lengths[indices], world, int(job["micro_batch"]))[rank]:
            token_losses = _token_losses(engine, rows, indices[micro.rows], job["pad_id"])
            # DeepSpeed divides by accumulation steps and averages over ranks; the batch's loss is one token mean.
            engine.backward(token_losses.sum() / tokens * world, scale_wrt_gas=False)
            engine.step()
            total += token_losses.detach().double().sum()
        dist.all_reduce(total)
        losses.append(float(total) / tokens)
        if step + 1 in job["eval_steps"]:
            evals.append(_evaluate(engine, held, world, rank, job))
            if report is not None:
                report({"eval_loss": evals[-1], "step": step + 1})
    return {"losses": losses, "evals": evals, "train_seconds": time.perf_counter() - begin}


def _engine(job: Mapping[str, Any], steps: int, world: int) -> Any:
    import deepspeed
    import torch
    from transformers import AutoModelForCausalLM, get_scheduler

    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    model.config.use_cache = False
    size = sum(p.numel() for p in model.parameters())
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decay}, {"params": plain}],
        lr=job["learning_rate"], betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0,
    )  # fmt: skip
    bucket = max(65_536, size)
    config = {
        "train_micro_batch_size_per_gpu": job["micro_batch"],
        "train_batch_size": job["batch_size"],
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": 2, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=lambda opt: get_scheduler(job["schedule"], opt, 0, steps),
        config=config,
    )
    engine.train()
    return engine


def _token_losses(engine: Any, rows: Any, indices: Any, pad_id: int) -> Any:
    """Cross-entropy of each target token of these rows."""
    import torch
    import torch.nn.functional as F

    from sweepft.training.batching import pad

    ids, mask, labels = (torch.from_numpy(a) for a in pad([rows.row(int(i)) for i in indices], pad_id))
    logits = engine(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    targets = labels[:, 1:]
    wanted = targets != -100
    return F.cross_entropy(logits[wanted], targets[wanted], reduction="none")


def _evaluate(engine: Any, held: Any, world: int, rank: int, job: Mapping[str, Any]) -> float:
    import torch
    import torch.distributed as dist

    from sweepft.training.batching import split_micro_batches

    engine.eval()
    total = torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        for micro in split_micro_batches(np.asarray(held.lengths), world, int(job["micro_batch"]))[rank]:
            if len(micro.rows):
                total += _token_losses(engine, held, micro.rows, job["pad_id"]).double().sum()
    engine.train()
    dist.all_reduce(total)
    return float(total) / int(held.targets.sum())


if __name__ == "__main__":
    job_file = Path(sys.argv[1])
    job = json.loads(job_file.read_text())
    outcome = train(job)
    import torch.distributed as dist

    if dist.get_rank() == 0:
        Path(job["outcome"]).write_text(json.dumps(outcome))
    dist.destroy_process_group()
