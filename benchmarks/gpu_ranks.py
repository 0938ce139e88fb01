"""Ranks, models and rows for the stages of ``gpu_check.py``, and what the ranks measure."""

from __future__ import annotations

import multiprocessing
import os
import queue
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

__all__ = [
    "Figures",
    "Place",
    "config_of",
    "head_job",
    "make_model",
    "on_ranks",
    "planned",
    "speed_job",
    "train_job",
]
Figures = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a stage runs: its form, the GPUs that are visible, and the folder for its files."""

    form: str
    gpus: int
    folder: Path

    @property
    def gpu(self) -> bool:
        """Whether the stage uses GPUs."""
        return self.form == "gpu"

    @property
    def ranks(self) -> int:
        """Ranks of a stage that trains: two where there are two GPUs, and on CPUs."""
        return 2 if not self.gpu else min(2, self.gpus)


# name: (hidden, layers, heads, heads of keys and values, feed-forward, vocabulary, tied)
_SHAPES: Final = {
    "tiny": (64, 2, 4, 2, 128, 384, True),
    "1B": (2048, 16, 32, 8, 8192, 32_768, True),
    "3B": (3072, 28, 24, 8, 8192, 128_256, True),
    "7B": (4096, 32, 32, 8, 14_336, 32_768, False),
}
_LENGTH: Final = {"cpu": 32, "gpu": 1024}
_STEPS: Final = 3


def train_job(runner: Any, folder: Path, lora: Mapping[str, Any] | None, plan: int, export: bool) -> Figures:
    """Seconds of start, steps, reset, state and export; the peak of memory beside the plan's."""
    import torch
    import torch.distributed as dist

    from sweepft.training.timing import peak_bytes, time_steps

    first, second = _trial(runner, lora, 1e-4), _trial(runner, lora, 2e-4)
    begin = time.perf_counter()
    runner.start(first)
    start = time.perf_counter() - begin
    if runner.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    reset, steps = time_steps(runner, second, _STEPS, 20.0)
    if not runner.start(first)["warm"]:
        raise RuntimeError("a third trial did not start warm")
    losses = runner.run(first.batch_size)["history"]["loss"]
    if not all(np.isfinite(losses)):
        raise RuntimeError(f"losses {losses}")
    state = _state(runner, folder / "states" / str(runner.config.quantize), whole=lora is not None)
    found = {
        "ranks": dist.get_world_size(),
        "start_seconds": round(start, 2),
        "step_seconds": round(statistics.median(steps), 3),
        "reset_seconds": round(reset, 3),
        "state": state,
        "peak_gib": round(peak_bytes(runner.device) / 2**30, 2),
        "plan_gib": round(plan / 2**30, 2),
    }
    if export:
        (folder / "tokenizer").mkdir(exist_ok=True)
        found["export_seconds"] = round(
            runner.export(str(folder / "exported"), str(folder / "tokenizer"))["seconds"], 2
        )
    return found


def _state(runner: Any, folder: Path, whole: bool) -> Figures:
    """Seconds of a checkpoint: that training waits, and until it is written; of large ones by a short probe."""
    if not whole:
        found = runner.estimate_checkpoint(str(folder))
        return {"estimated": True} | {name: round(seconds, 3) for name, seconds in found.items()}
    begin = time.perf_counter()
    saved = runner.save(str(folder / "1"))
    settled = runner.settle_checkpoint()
    written = time.perf_counter() - begin
    if "skipped" in saved | settled:
        raise RuntimeError(f"no checkpoint: {saved | settled}")
    return {"stalled": round(saved["seconds"], 3), "written": round(written, 3), "bytes": saved["bytes"]}


def speed_job(runner: Any, folder: Path) -> Figures:
    """Tokens a second of all ranks, and the share of the GPUs' peak that they are."""
    import torch.distributed as dist

    from sweepft.training.timing import time_steps

    trial = _trial(runner, None, 1e-4)
    _, steps = time_steps(runner, trial, 2 * _STEPS, 15.0)
    tokens = trial.batch_size * float(np.mean(runner.train_set.lengths))
    seconds = statistics.median(steps)
    parameters = sum(p.numel() for p in runner.zero.module.parameters())
    found: Figures = {"tokens_per_second": round(tokens / seconds), "step_seconds": round(seconds, 4)}
    if runner.zero.liger.given_up is not None:
        found["without_liger"] = runner.zero.liger.given_up
    peak = _peak_tflops()
    if peak is not None:
        flops = 6 * parameters * tokens / seconds / dist.get_world_size()
        found["mfu"] = round(flops / (peak * 1e12), 3)
    return found


def head_job(runner: Any, folder: Path) -> Figures:
    """Milliseconds of the output layer, forward and backward, with a vocabulary that is no multiple of 8."""
    import torch

    from sweepft.training import output_layer

    gpu = runner.device.type == "cuda"
    hidden, vocab, rows = (4096, 32_771, 2048) if gpu else (64, 389, 512)
    model = torch.nn.Module()
    head = torch.nn.Linear(hidden, vocab, bias=False, device=runner.device, dtype=torch.bfloat16)
    model.get_output_embeddings = lambda: head  # type: ignore[assignment]
    states = torch.randn(rows, hidden, device=runner.device, dtype=torch.bfloat16, requires_grad=True)
    found: Figures = {"vocabulary": vocab, "hidden": hidden, "rows": rows}
    for way in ("plain", "padded"):
        if way == "padded":
            output_layer.pad_output_layer(model)
        for round_ in range(2):  # the first chooses kernels
            begin = time.perf_counter()
            for _ in range(10):
                head(states).float().logsumexp(-1).sum().backward()
            if gpu:
                torch.cuda.synchronize()
            if round_:
                found[f"{way}_ms"] = round(100 * (time.perf_counter() - begin), 3)
    return found


def _trial(runner: Any, lora: Mapping[str, Any] | None, rate: float) -> Any:
    from sweepft.spec import TrainConfig

    config = runner.config
    size = config.largest_batch
    return TrainConfig.model_validate(
        {
            "batch_size": size,
            "learning_rate": rate,
            "budget": {"samples": config.budget_samples},
            "budget_samples": config.budget_samples,
            "micro_batch": {"tokens": config.micro_batch} if config.packed else config.micro_batch,
            "precision": config.precision,
            "zero_stage": config.zero_stage,
            "gradient_checkpointing": True,
            "lora": None if lora is None else dict(lora),
        }
    )


def _peak_tflops() -> float | None:
    """The bf16 peak of this GPU by its name, as `sweepft plan --gpu` has it."""
    import torch

    from sweepft.plan.gpus import GPUS

    if not torch.cuda.is_available():
        return None
    name = re.sub(r"[^a-z0-9]+", " ", torch.cuda.get_device_name().lower())
    known = [key for key in GPUS if all(part in name for part in key.split("-"))]
    return GPUS[max(known, key=len)].tflops if known else None


def on_ranks(place: Place, config: Any, job: Callable[..., Figures]) -> Figures:
    """``job(runner, folder)`` on every rank of a process group; returns rank 0's figures."""
    from sweepft.training.rendezvous import open_listener

    context = multiprocessing.get_context("spawn")
    answers: Any = context.Queue()
    processes = []
    with open_listener("127.0.0.1") as listener:
        for rank in range(place.ranks):
            given = None if rank else listener
            args = (answers, rank, place, listener.getsockname()[1], given, config, job)
            processes.append(context.Process(target=_rank, args=args, daemon=True))
            processes[-1].start()
    found: dict[int, Any] = {}
    while len(found) < place.ranks:
        try:
            rank, answer = answers.get(timeout=2.0)
        except queue.Empty:
            dead = [p.exitcode for p in processes if p.exitcode not in (None, 0)]
            if dead:
                raise RuntimeError(f"a rank ended without an answer (exit statuses {dead})") from None
            continue
        if isinstance(answer, str):
            raise RuntimeError(answer)
        found[rank] = answer
    for process in processes:
        process.join(20)
    return dict(found[0])


def _rank(answers: Any, rank: int, place: Place, port: int, listener: Any, config: Any, job: Any) -> None:
    try:
        if place.gpu:
            shown = os.environ.get("CUDA_VISIBLE_DEVICES")
            os.environ["CUDA_VISIBLE_DEVICES"] = shown.split(",")[rank] if shown else str(rank)
        from sweepft.training.distributed import join, leave
        from sweepft.training.trainer import TrialRunner

        device = join(rank, place.ranks, "127.0.0.1", port, 1, float(place.gpu), listener=listener)
        found = job(TrialRunner(config, device), place.folder)
        leave()
        answers.put((rank, found))
    except Exception as error:
        import traceback

        answers.put((rank, f"rank {rank}: {type(error).__name__}: {error}\n{traceback.format_exc()}"))


def config_of(place: Place, name: str, zero_stage: int) -> Any:
    """A config over a model of that size and rows of random tokens, of four fifths to the whole of the length."""
    from sweepft.data.cache import write_token_set
    from sweepft.training.config import EngineConfig

    length, vocab = _LENGTH[place.form], _SHAPES[name][5]
    cache = place.folder / f"rows-{vocab}"
    if not cache.exists():
        draw = np.random.default_rng(0)
        rows = []
        for _ in range(64):
            n = int(draw.integers(length * 4 // 5, length + 1))
            rows.append((draw.integers(4, vocab, n), np.arange(n) > n // 4, "any"))
        write_token_set(cache, rows, digest="1" * 64, vocab_size=vocab)
    micro = 2
    batch = 2 * micro * place.ranks
    return EngineConfig(
        model_path=str(_model(place, name)),
        train_cache=str(cache),
        budget_samples=16 * batch,
        micro_batch=micro,
        largest_batch=batch,
        longest=length,
        scratch=str(place.folder / "base"),
        precision="bf16",
        zero_stage=zero_stage,
        liger="auto",
    )


def _model(place: Place, name: str) -> Path:
    """A Llama of that size with random bf16 weights, made once; on the GPU, where that takes seconds."""
    folder = place.folder / f"model-{name}"
    if folder.exists():
        return folder
    script = [sys.executable, __file__, place.form, name, str(folder)]
    subprocess.run(script, check=True)
    return folder


def make_model(form: str, name: str, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    hidden, layers, heads, kv, wide, vocab, tied = _SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv,
        intermediate_size=wide, vocab_size=vocab, tie_word_embeddings=tied, max_position_embeddings=4096,
        pad_token_id=0, bos_token_id=3, eos_token_id=3,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda" if form == "gpu" else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder.with_suffix(".new"))
    folder.with_suffix(".new").rename(folder)


def planned(config: Any, place: Place, lora: Mapping[str, Any] | None = None) -> int:
    """Bytes of a rank by `sweepft plan`."""
    from sweepft.plan.memory import rank_memory
    from sweepft.plan.model_shape import shape_of
    from sweepft.spec import Model

    shape = shape_of(Model(path=config.model_path))
    assert shape is not None
    return rank_memory(
        shape,
        stage=config.zero_stage,
        precision=config.precision,
        ranks=place.ranks,
        rows=config.micro_batch,
        tokens=config.longest,
        checkpointing=True,
        gpu=place.gpu,
        lora_rank=0 if lora is None else lora["rank"],
        quantized=config.quantize is not None,
    ).total


if __name__ == "__main__":
    make_model(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
