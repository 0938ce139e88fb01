"""The stages of ``gpu_check.py``: ``python benchmarks/gpu_stages.py STAGE FORM GPUS FOLDER`` writes FOLDER/STAGE.json.

Models have random weights. Each stage raises where something is wrong; what it returns are figures.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml
from gpu_ranks import Figures, Place, config_of, head_job, on_ranks, planned, speed_job, train_job

__all__ = ["STAGES", "Stage"]


@dataclass(frozen=True)
class Stage:
    """What a stage does, and its time limit in seconds by form."""

    run: Callable[[Place], Figures]
    limits: Mapping[str, float]


def imports(place: Place) -> Figures:
    """Everything that a sweep loads, and the installed command."""
    needed = ("torch", "transformers", "deepspeed", "accelerate", "ray", "optuna", "safetensors", "sweepft")
    optional = ("peft", "bitsandbytes", "liger_kernel", "lm_eval")
    seconds = {}
    for name in (*needed, *(name for name in optional if importlib.util.find_spec(name))):
        begin = time.perf_counter()
        importlib.import_module("lm_eval.models.huggingface" if name == "lm_eval" else name)
        seconds[name] = round(time.perf_counter() - begin, 2)
    said = _sweepft("--version", place=place)
    import torch

    return {
        "import_seconds": seconds,
        "missing": [name for name in optional if name not in seconds],
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "devices": torch.cuda.device_count(),
        "command": said.strip(),
    }


def zero3(place: Place) -> Figures:
    """Load a 3B model at ZeRO-3, each weight partitioned as it is read; steps, reset, state and export."""
    config = config_of(place, "3B" if place.gpu else "tiny", zero_stage=3)
    return on_ranks(place, config, partial(train_job, lora=None, plan=planned(config, place), export=True))


def lora(place: Place) -> Figures:
    """Adapters on a 7B model in 16 bits."""
    return _adapters(place, None)


def qlora(place: Place) -> Figures:
    """Adapters on a 7B model in 4 bits; trials run warm on it."""
    return _adapters(place, "nf4")


def _adapters(place: Place, quantize: str | None) -> Figures:
    config = replace(config_of(place, "7B" if place.gpu else "tiny", zero_stage=1), quantize=quantize)
    settings = {"rank": 16, "quantize": quantize}
    return on_ranks(
        place, config, partial(train_job, lora=settings, plan=planned(config, place, settings), export=False)
    )


def throughput(place: Place) -> Figures:
    """Tokens a second and MFU of a 1B model: padded, packed, with Liger's kernels; the output layer alone."""
    plain = replace(config_of(place, "1B" if place.gpu else "tiny", zero_stage=1), liger=False)
    tokens = plain.micro_batch * plain.longest
    ways = {"eager": plain, "packed": replace(plain, packed=True, micro_batch=tokens)}
    if place.gpu and importlib.util.find_spec("liger_kernel"):
        ways["packed_liger"] = replace(ways["packed"], liger="auto")
    found = {name: on_ranks(place, config, speed_job) for name, config in ways.items()}
    found["output_layer"] = on_ranks(place, plain, head_job)
    return found if "packed_liger" in found else {**found, "not_run": "liger: needs a GPU and liger-kernel"}


def out_of_memory(place: Place) -> Figures:
    """A micro-batch that does not fit is halved, and the sweep goes on."""
    rows, model = (4096, "tiny") if place.gpu else (4, "faulty")
    run = _sweep(
        place,
        "memory",
        model=model,
        train={
            "micro_batch": rows,
            "budget": {"samples": 2 * rows},
            "batch_size": rows,
            "learning_rate": 1e-3,
        },
        resources={"gpus_per_worker": 0.05} if place.gpu else {},
    )
    _finish(run.process)
    faults = [row for row in _rows(run.folder) if row["kind"] == "fault"]
    halved = [fault["action"] for fault in faults if fault["action"].startswith("micro_batch")]
    ends = [row["status"] for row in _rows(run.folder) if row["kind"] == "end"]
    if not halved or ends != ["completed"]:
        raise RuntimeError(f"no halving, or no trial: faults {faults}, ends {ends}")
    return {"halved": halved, "errors": sorted({fault["error"] for fault in faults})}


def killed_rank_and_exam(place: Place) -> Figures:
    """A rank is killed in a trial, which is brought back; the finalist then takes an exam."""
    tasks = _tasks(place.folder / "tasks")
    evaluate = {"tasks": ["check_choice"], "include_path": str(tasks), "finalists": {"top": 1}}
    run = _sweep(
        place,
        "killed",
        train={"micro_batch": 4, "budget": {"samples": 1600}, "batch_size": 8, "learning_rate": 1e-3},
        resources={"workers_per_trial": place.ranks, "gpus_per_worker": 1 if place.gpu else 0},
        evaluate=evaluate,
    )
    killed = _kill_a_rank(run)
    _finish(run.process)
    rows = _rows(run.folder)
    faults = [row for row in rows if row["kind"] == "fault"]
    ends = [row["status"] for row in rows if row["kind"] == "end"]
    scores = [
        row for row in rows if row["kind"] == "score" and row["name"] == "check_choice" and row["metrics"]
    ]
    if [fault["error"] for fault in faults] != ["RankDied"] or ends != ["completed"] or len(scores) != 2:
        raise RuntimeError(f"killed {killed}: faults {faults}, ends {ends}, {len(scores)} scores")
    return {
        "lost_seconds": faults[0]["lost_seconds"],
        "action": faults[0]["action"],
        "exams": [{"trial": row["trial_id"], "seconds": round(row["seconds"], 2)} for row in scores],
    }


STAGES: Final[dict[str, Stage]] = {
    "imports": Stage(imports, {"gpu": 60, "cpu": 600}),
    "zero3": Stage(zero3, {"gpu": 120, "cpu": 600}),
    "lora": Stage(lora, {"gpu": 100, "cpu": 600}),
    "qlora": Stage(qlora, {"gpu": 90, "cpu": 600}),
    "throughput": Stage(throughput, {"gpu": 110, "cpu": 600}),
    "out_of_memory": Stage(out_of_memory, {"gpu": 90, "cpu": 600}),
    "killed_rank_and_exam": Stage(killed_rank_and_exam, {"gpu": 110, "cpu": 600}),
}
"""In the order in which a failure is cheapest; the limits of all together are above that of the whole check, which
ends them first."""


# Sweeps


@dataclass(frozen=True)
class Run:
    """A running `sweepft run`, and its run folder."""

    process: subprocess.Popen[bytes]
    folder: Path


_FAULTY: Final = """
import torch
from transformers import LlamaForCausalLM

class FaultyLlama(LlamaForCausalLM):
    def forward(self, input_ids=None, **kw):
        if self.training and input_ids.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB (injected)")
        return super().forward(input_ids=input_ids, **kw)
"""
"""A CPU has no memory of its own to run out of: in that form the model raises what torch raises on a GPU."""


def _sweep(place: Place, name: str, *, model: str = "tiny", **sections: Any) -> Run:
    """Start a sweep of one trial on a twin model with a tokenizer and generated rows."""
    from sweepft.demo.skills import NEW_SKILLS, skill_rows

    folder = place.folder / name
    folder.mkdir()
    subprocess.run([sys.executable, "-m", "sweepft.demo.twin", str(folder / "model"), "llama"], check=True)
    if model == "faulty":
        (folder / "model" / "modeling_faulty.py").write_text(_FAULTY)
        config = json.loads((folder / "model" / "config.json").read_text())
        config |= {"auto_map": {"AutoModelForCausalLM": "modeling_faulty.FaultyLlama"}}
        (folder / "model" / "config.json").write_text(json.dumps(config | {"architectures": ["FaultyLlama"]}))
    rows = list(skill_rows(NEW_SKILLS, 200, 0))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec: dict[str, Any] = {
        "name": f"gpu-check-{name}",
        "model": {"path": "model", "trust_remote_code": model == "faulty"},
        "data": {
            "train": [{"path": "rows.jsonl"}],
            "validation": [{"name": "own", "fraction": 0.1}],
            "max_length": 128,
        },
        "search": {"trials": 1, "space": {"seed": {"choice": [0, 1]}}},
        "early_stop": {"rule": "none", "rungs": [0.25, 0.5]},
        **sections,
    }
    spec["train"] = {"precision": "bf16" if place.gpu else "fp32", "zero_stage": 1, **spec["train"]}
    if not spec.get("resources"):
        spec.pop("resources", None)
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec))
    command = [
        sys.executable,
        "-m",
        "sweepft",
        "run",
        str(folder / "sweep.yaml"),
        "--out",
        str(folder / "run"),
    ]
    return Run(subprocess.Popen(command, cwd=folder), folder / "run")


def _finish(process: subprocess.Popen[bytes]) -> None:
    if (code := process.wait()) != 0:
        raise RuntimeError(f"sweepft run ended with exit status {code}")


def _rows(run: Path) -> list[Any]:
    from sweepft.ledger import read_ledger

    return list(read_ledger(run))


def _kill_a_rank(run: Run) -> int:
    """SIGKILL to one rank of the run once its trial has reported; returns its process id."""
    ledger = run.folder / "ledger" / "ledger.jsonl"
    while run.process.poll() is None:
        if ledger.exists() and b'"kind":"steps"' in ledger.read_bytes():
            for pid, name in _descendants(run.process.pid):
                if name.startswith("ray::Rank"):
                    os.kill(pid, signal.SIGKILL)
                    return pid
        time.sleep(0.01)
    raise RuntimeError("the sweep ended before a rank was seen")


def _descendants(of: int) -> list[tuple[int, str]]:
    """Process ids and command lines of the processes below one, from /proc."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            names[int(entry.name)] = (
                (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            continue
        parents[int(entry.name)] = int(fields[1])
    found, level = [], {of}
    while level:
        level = {pid for pid, parent in parents.items() if parent in level}
        found += [(pid, names[pid]) for pid in level]
    return found


def _tasks(folder: Path) -> Path:
    """A harness task of ten items with four choices each."""
    folder.mkdir()
    words = ["red", "blue", "green", "black"]
    items = [{"question": f"Item {i}: which colour?", "choices": words, "answer": i % 4} for i in range(10)]
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    task = {
        "task": "check_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "check_choice.yaml").write_text(yaml.safe_dump(task))
    return folder


def _sweepft(*arguments: str, place: Place) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "sweepft", *arguments],
        capture_output=True,
        text=True,
        check=True,
        cwd=place.folder,
    )
    return done.stdout


def _main() -> None:
    name, form, gpus, folder = sys.argv[1:]
    place = Place(form, int(gpus), Path(folder))
    found = STAGES[name].run(place)
    for used in ("states", "exported", "base", "model-3B"):  # 7B and the rows are used again
        shutil.rmtree(place.folder / used, ignore_errors=True)
    (place.folder / f"{name}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    _main()
