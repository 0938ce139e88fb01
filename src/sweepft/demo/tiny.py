"""Shrink a sweep so that it runs on a CPU in a minute or two (``run --tiny``).

The tiny sweep keeps everything that selects code paths: ZeRO stage, precision, sampler, early-stopping rule, schedules,
chat template and kept weights. Model, data, batch sizes, budget, ranks and trials become tiny, and benchmark tasks are
replaced by a few generated questions with the same names and metrics.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Final

from sweepft.bounded_json import read_json_file
from sweepft.children import run_module
from sweepft.data.files import Location, records
from sweepft.demo.skills import BASE_SKILLS, NEW_SKILLS, knowledge_rows, skill_rows
from sweepft.errors import SweepftError
from sweepft.files import atomic_write
from sweepft.spec import (
    Evaluate,
    MicroTokens,
    Objective,
    OwnMetric,
    SweepSpec,
    TaskMetric,
    from_dict,
    is_template_file,
)

_ROWS: Final = 400
_VALIDATION: Final = 24
_RANKS: Final = 2
_MICRO_BATCH: Final = 2
_MICRO_TOKENS: Final = 256
_TRIALS: Final = 6
_STEPS: Final = 12  # with the largest batch size
_NO_GPU: Final = {"offload": "none", "compile": False}
_FOLDER: Final = "tasks"
_ITEMS: Final = 8
_LIMIT: Final = 4
_CHOICES: Final = 4
_BY_CHOICE: Final = ("acc", "acc_norm")
"""Metrics of multiple-choice tasks; other metrics are computed from generated text."""

_COMMON: Final = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {name}.jsonl}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
metric_list:
"""

_CHOICE: Final = """\
output_type: multiple_choice
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
"""

_GENERATED: Final = """\
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["\\n"], do_sample: false, max_gen_toks: 8}
process_results: !function scoring.score
"""

_SCORE: Final = '''\
"""Every metric is 1 if the generated text equals the answer, else 0."""


def score(doc, results):
    return dict.fromkeys(doc["metrics"], float(results[0].strip() == doc["answer"]))
'''


def make_tiny(spec: SweepSpec, folder: Path) -> SweepSpec:
    """Create model and data in ``folder`` and return the spec of the tiny sweep.

    Args:
        spec: Any spec. Of its model only a local config.json is read, of its data nothing.
        folder: Created if missing.

    Raises:
        SweepftError: With key ``tiny.model`` if the model cannot be created.
    """
    folder = folder.resolve()  # processes with other working directories read these files
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(spec, folder / "train.jsonl")
    _write(folder / "other.jsonl", list(knowledge_rows(0)))
    write_tasks(spec, folder)
    model = folder / "model"
    done = run_module("sweepft.demo.twin", str(model), architecture_of(spec.model.path))
    if done.returncode != 0:
        raise SweepftError(
            f"the tiny model could not be created (exit status {done.returncode}):\n{done.tail}",
            key="tiny.model",
        )
    return tiny_spec(spec, model, folder)


def write_rows(spec: SweepSpec, file: Path) -> None:
    """Write training rows with the domains that the spec's phases and weights name."""
    rows, names = list(skill_rows(NEW_SKILLS, _ROWS, 0)), _domains(spec)
    if names:
        rows = [row | {"domain": names[i % len(names)]} for i, row in enumerate(rows)]
    _write(file, rows)


def architecture_of(path: str) -> str:
    """``granite``, ``mistral`` or ``llama``: from a local config.json, otherwise from the model's name.

    Granite models before the third generation are Llamas. Other architectures become Llamas too.
    """
    config = Path(path) / "config.json"
    kind = read_json_file(config).get("model_type") if config.is_file() else None
    if kind is None:
        name = path.lower().rsplit("/", 1)[-1]
        kind = (
            "mistral"
            if "mistral" in name
            else "granite"
            if name.startswith(("granite-3", "granite-4"))
            else None
        )
        kind = (
            "llama" if name.startswith("granite-3b") else kind
        )  # 3 billion parameters, not third generation
    return kind if kind in ("granite", "mistral", "llama") else "llama"


def tiny_spec(spec: SweepSpec, model: Path, data: Path) -> SweepSpec:
    """The sweep with tiny sizes.

    Args:
        spec: The full sweep.
        model: Folder of the tiny model.
        data: Folder with ``train.jsonl``, ``other.jsonl`` and, for benchmarks, ``tasks``.
    """
    tiny = spec.to_dict()
    ranks = min(_RANKS, spec.resources.workers_per_trial)
    sizes = _tiny_sizes(spec, ranks)
    tiny.pop("mirror", None)  # reserved for the full sweep
    tiny["name"] = f"{spec.name[:74]}-tiny"
    tiny["model"] = {"path": str(model)} | _template(spec)
    tiny["data"] |= {
        "train": [{"path": str(data / "train.jsonl")}],
        "validation": [_validation(held, data) for held in tiny["data"]["validation"]],
        "test": [{"name": t["name"], "path": str(data / "other.jsonl")} for t in tiny["data"]["test"]],
        "max_length": 128,
        "max_lost": 0.5,  # generated rows have other lengths than the spec's
        "overlap": "drop",
    }
    packed = isinstance(spec.train.micro_batch, MicroTokens)
    micro = {"tokens": _MICRO_TOKENS} if packed else _MICRO_BATCH
    tiny["train"] |= {"budget": {"samples": _STEPS * max(sizes.values())}, "micro_batch": micro} | _NO_GPU
    if spec.train.liger is True:  # `auto` needs none
        tiny["train"]["liger"] = False
    tiny["train"] = _shrunk(tiny["train"], sizes)
    search = tiny["search"]
    search.pop("limit", None)
    search.pop("learn_from", None)  # its trials have the full sweep's batch sizes
    search["trials"] = min(_TRIALS, spec.search.trials or _TRIALS)
    if "enough" in search:
        search["enough"]["min_trials"] = min(search["enough"]["min_trials"], search["trials"] - 1)
    search["start_with"] = [_shrunk(_unscaled(entry, spec), sizes) for entry in search["start_with"]]
    if search.get("baseline") is not None:
        search["baseline"] = _shrunk(_unscaled(search["baseline"], spec), sizes)
    search["space"] = {key: _dimension(key, value, sizes) for key, value in search["space"].items()}
    if spec.objective.measured:
        tiny["objective"] = tiny_objective(spec.objective, data)
    if spec.evaluate is not None:
        tiny["evaluate"] = tiny_evaluate(spec.evaluate, data, len(spec.data.test))
    stop = tiny["early_stop"]
    stop |= {"min_steps": 2, "min_peers": 2}
    evaluations = {math.ceil(_STEPS * rung) for rung in spec.early_stop.rungs} - {
        _STEPS
    }  # ends of epochs: none
    patience = min(stop.pop("patience", 0), len(evaluations) - 1)
    stop |= {"patience": patience} if patience > 0 else {}
    tiny["resources"] = {
        "workers_per_trial": ranks,
        "gpus_per_worker": 0,
        "cpus_per_worker": 1,
        "concurrent_trials": 1,
    }
    return from_dict(tiny, check_files=True)


def _tiny_sizes(spec: SweepSpec, ranks: int) -> dict[int, int]:
    """Maps each batch size of the sweep, in order, to 1, 2, 3, ... micro-batches per rank."""
    swept = spec.search.space.get("batch_size")
    sizes = sorted({*(swept.choices if swept is not None else ()), spec.train.batch_size} - {None})
    return {size: (i + 1) * _MICRO_BATCH * ranks for i, size in enumerate(sizes)}


def _domains(spec: SweepSpec) -> list[str]:
    """Domains named by phases and weights; without phases also one that is not named."""
    phases, mixture = spec.data.phases, "data.mixture."
    named = [name for phase in phases for name in phase.domains] + list(spec.data.mixture)
    named += [key.removeprefix(mixture) for key in spec.search.space if key.startswith(mixture)]
    return list(dict.fromkeys([*named, *(["other"] if named and not phases else [])]))


def _template(spec: SweepSpec) -> dict[str, str]:
    name = spec.model.chat_template
    return {} if name is None or is_template_file(name) else {"chat_template": name}


def _validation(held: Mapping[str, Any], data: Path) -> dict[str, Any]:
    """A few of the training rows, or of the rows of ``other.jsonl``."""
    kept = {"name": held["name"], "weight": held["weight"], "limit": _VALIDATION}
    if "fraction" in held:
        return {"name": held["name"], "weight": held["weight"], "fraction": 0.05}
    return kept | {"path": str(data / "other.jsonl")}


def _shrunk(values: Mapping[str, Any], sizes: Mapping[int, int]) -> dict[str, Any]:
    """Train settings with tiny batch sizes, at most 3 warmup steps, and an optimizer that runs on CPU."""
    shrunk = dict(values)
    if "optimizer" in shrunk:
        shrunk["optimizer"] = shrunk["optimizer"] | {
            "name": _on_cpu(shrunk["optimizer"].get("name", "adamw"))
        }
    if "optimizer.name" in shrunk:
        shrunk["optimizer.name"] = _on_cpu(shrunk["optimizer.name"])
    if "batch_size" in shrunk:
        shrunk["batch_size"] = sizes[shrunk["batch_size"]]
    if isinstance(shrunk.get("warmup"), dict):
        shrunk["warmup"] = {"steps": min(3, shrunk["warmup"]["steps"])}
    if "warmup.steps" in shrunk:
        shrunk["warmup.steps"] = min(3, shrunk["warmup.steps"])
    return shrunk


def _unscaled(entry: Mapping[str, Any], spec: SweepSpec) -> dict[str, Any]:
    """Params with the learning rate as it is at ``at_batch``: tiny batch sizes do not scale it."""
    dimension, rate = spec.search.space.get("learning_rate"), entry.get("learning_rate")
    if dimension is None or dimension.at_batch is None or rate is None:
        return dict(entry)
    own = rate / dimension.scale(int(entry.get("batch_size", spec.train.batch_size)))
    ends = dimension.choices or dimension.bounds
    nearest = min(ends, key=lambda end: abs(end - own))  # rounding must not put an end outside the range
    return {**entry, "learning_rate": nearest if math.isclose(own, nearest, rel_tol=1e-9) else own}


def _on_cpu(optimizer: str) -> str:
    return "adamw" if optimizer == "adamw_8bit" else optimizer


def _dimension(key: str, dimension: Mapping[str, Any], sizes: Mapping[int, int]) -> dict[str, Any]:
    dimension = {name: value for name, value in dimension.items() if name not in ("at_batch", "scaling")}
    if key == "warmup.steps" and "int_uniform" in dimension:
        low, high = dimension["int_uniform"]
        return {"int_uniform": [min(low, 2), min(high, 3)]}
    if key not in ("batch_size", "warmup", "warmup.steps", "optimizer.name") or "choice" not in dimension:
        return dict(dimension)
    return {"choice": _different([_shrunk({key: value}, sizes)[key] for value in dimension["choice"]])}


def _different(values: Sequence[Any]) -> list[Any]:
    """Without duplicates: different warmup steps may have become equal."""
    return [value for i, value in enumerate(values) if value not in values[:i]]


def _write(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    atomic_write(file, "".join(json.dumps(row) + "\n" for row in rows), mode=0o666)


def write_tasks(spec: SweepSpec, folder: Path) -> None:
    """Write a task file and its items for each benchmark task and that of the objective to ``folder/tasks``."""
    found: dict[str, list[str]] = {}
    if spec.evaluate is not None:
        found = {task.name: _metrics(task.name, spec.evaluate) for task in spec.evaluate.each_task()}
    for wanted in spec.objective.measured.values():
        if isinstance(wanted, TaskMetric):
            found[wanted.task] = list(dict.fromkeys([*found.get(wanted.task, ()), _plain(wanted.metric)]))
    if not found:
        return
    home = folder / _FOLDER
    home.mkdir(exist_ok=True)
    atomic_write(home / "scoring.py", _SCORE, mode=0o666)
    for name, metrics in found.items():
        listed = "".join(f"  - {{metric: {m}, aggregation: mean, higher_is_better: true}}\n" for m in metrics)
        kind = _CHOICE if set(metrics) <= set(_BY_CHOICE) else _GENERATED
        atomic_write(home / f"{name}.yaml", _COMMON.format(name=name) + listed + kind, mode=0o666)
        rows = [json.dumps(row | {"metrics": metrics}) for row in _items()]
        atomic_write(home / f"{name}.jsonl", "\n".join(rows) + "\n", mode=0o666)


def _plain(metric: str) -> str:
    """A metric without the name of a filter; generated tasks have a single filter."""
    return metric.partition(",")[0]


def tiny_objective(objective: Objective, folder: Path) -> dict[str, Any]:
    """The section with few items of its tasks in ``folder/tasks``, or with few rows for functions of your own.

    Args:
        objective: The section of the full sweep, with a task.
        folder: The folder given to ``write_tasks``.
    """
    tiny: dict[str, Any] = {"at": objective.at, "max_share": objective.max_share}
    tiny["measure"] = [
        _tiny_task(wanted, folder) | {"lower_is_better": wanted.lower_is_better}
        for wanted in objective.measure
    ]
    if objective.task is not None:
        tiny[objective.key.removeprefix("objective.")] = _tiny_task(objective.task, folder)
    return tiny


def _tiny_task(wanted: TaskMetric | OwnMetric, folder: Path) -> dict[str, Any]:
    if isinstance(wanted, OwnMetric):  # your rows and your function, with few answers of few tokens
        rows = sum(1 for _ in islice(records(Location(wanted.data)), wanted.limit or _LIMIT))
        few = {"limit": min(_LIMIT, rows), "max_tokens": min(16, wanted.max_tokens)}
        return wanted.model_dump(mode="json", exclude_none=True) | few
    kept = wanted.model_dump(mode="json", include={"task", "chat_template", "batch_size"})
    return kept | {"metric": _plain(wanted.metric), "limit": _LIMIT, "include_path": [str(folder / _FOLDER)]}


def tiny_evaluate(evaluate: Evaluate, folder: Path, tests: int) -> dict[str, Any] | None:
    """The section with few items of the tasks in ``folder/tasks`` and without MT-Bench, which needs a judge.

    Args:
        evaluate: The section of the full sweep.
        folder: The folder given to ``write_tasks``.
        tests: Number of test sets.

    Returns:
        The keys of the section, or None if nothing is left to score.
    """
    tasks = [{"name": t.name, "chat_template": t.chat_template} for t in evaluate.each_task()]
    tiny: dict[str, Any] = {"limit": _LIMIT, "finalists": {"top": 2}, "tasks": tasks}
    tiny |= {"batch_size": evaluate.batch_size, "rank_by": _rank_by(evaluate.weights)}
    if tiny["tasks"]:
        tiny["include_path"] = [str(folder / _FOLDER)]
    if evaluate.replicates is not None:
        tiny["replicates"] = {"top": 1, "seeds": 2}
    return tiny if tiny["tasks"] or tests or evaluate.replicates is not None else None


def _rank_by(weights: Mapping[str, float]) -> dict[str, float]:
    """The weights without MT-Bench and without filter names; generated tasks have a single filter."""
    kept: dict[str, float] = {}
    for key, weight in weights.items():
        if key.partition(".")[0] != "mt_bench":
            name = _plain(key)
            kept[name] = kept.get(name, 0.0) + weight
    return kept or {"objective": 1.0}


def _metrics(task: str, evaluate: Evaluate) -> list[str]:
    """The metrics of a task that ``rank_by`` needs, by default those of multiple-choice tasks."""
    asked = [key.removeprefix(f"{task}.") for key in _rank_by(evaluate.weights) if key.startswith(f"{task}.")]
    return asked or list(_BY_CHOICE)


def _items() -> list[dict[str, Any]]:
    """Questions with their answers and, as choices, the answers of other questions."""
    rows = [tuple(turn["content"] for turn in row["messages"]) for row in skill_rows(BASE_SKILLS, _ITEMS, 1)]
    rng, items = Random(0), []
    for question, answer in rows:
        others = sorted({other for _, other in rows} - {answer})
        choices = [answer, *rng.sample(others, _CHOICES - 1)]
        rng.shuffle(choices)
        items.append(
            {"question": question, "answer": answer, "choices": choices, "label": choices.index(answer)}
        )
    return items
