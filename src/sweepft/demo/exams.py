"""Benchmark tasks for ``run --tiny``: the names and metrics of the spec's own, over a few questions we make.

The idea to keep in mind: a sweep's benchmarks need a network, and their scores would mean nothing here. What is to be
seen is the way through: both kinds of request (likelihood of choices, generation), the harness, the order of finalists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

from sweepft.demo.skills import BASE_SKILLS, skill_rows
from sweepft.spec import Evaluate

__all__ = ["tiny_evaluate", "write_tasks"]

_FOLDER: Final = "tasks"
_ITEMS: Final = 8
_LIMIT: Final = 4
_CHOICES: Final = 4
_BY_CHOICE: Final = ("acc", "acc_norm")
"""Metrics that the harness computes of multiple-choice items; whatever else is asked for is made of generated text."""

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
process_results: !function exam.score
"""
_SCORE: Final = '''\
"""Every metric that is asked for is whether the text is the answer."""


def score(doc, results):
    return dict.fromkeys(doc["metrics"], float(results[0].strip() == doc["answer"]))
'''


def write_tasks(evaluate: Evaluate, folder: Path) -> None:
    """A task file and its items for each task that the section names, in ``folder/tasks``."""
    home = folder / _FOLDER
    home.mkdir(exist_ok=True)
    (home / "exam.py").write_text(_SCORE)
    for task in evaluate.each_task():
        metrics = _metrics(task.name, evaluate)
        listed = "".join(f"  - {{metric: {m}, aggregation: mean, higher_is_better: true}}\n" for m in metrics)
        kind = _CHOICE if set(metrics) <= set(_BY_CHOICE) else _GENERATED
        (home / f"{task.name}.yaml").write_text(_COMMON.format(name=task.name) + listed + kind)
        rows = [json.dumps(row | {"metrics": metrics}) for row in _items()]
        (home / f"{task.name}.jsonl").write_text("\n".join(rows) + "\n")


def tiny_evaluate(evaluate: Evaluate, folder: Path, tests: int) -> dict[str, Any] | None:
    """The section with few items of the tasks in ``folder/tasks``, and without MT-Bench, whose judge is far away.

    Args:
        evaluate: As asked for.
        folder: Which ``write_tasks`` was given.
        tests: Sealed test sets there are.
    Returns:
        None where nothing is left to score.
    """
    tasks = [{"name": t.name, "chat_template": t.chat_template} for t in evaluate.each_task()]
    tiny: dict[str, Any] = {"limit": _LIMIT, "finalists": {"top": 2}, "tasks": tasks}
    tiny |= {"batch_size": evaluate.batch_size, "rank_by": _rank_by(evaluate.weights)}
    if tiny["tasks"]:
        tiny["include_path"] = [str(folder / _FOLDER)]
    if evaluate.confirm is not None:
        tiny["confirm"] = {"top": 1, "seeds": 2}
    return tiny if tiny["tasks"] or tests or evaluate.confirm is not None else None


def _rank_by(weights: Mapping[str, float]) -> dict[str, float]:
    """Without the judge, and without the names of filters, of which made tasks have one."""
    kept: dict[str, float] = {}
    for key, weight in weights.items():
        if key.partition(".")[0] != "mt_bench":
            name = key.partition(",")[0]
            kept[name] = kept.get(name, 0.0) + weight
    return kept or {"objective": 1.0}


def _metrics(task: str, evaluate: Evaluate) -> list[str]:
    """What ``rank_by`` asks of a task; where it asks for none, what choices give."""
    asked = [key.removeprefix(f"{task}.") for key in _rank_by(evaluate.weights) if key.startswith(f"{task}.")]
    return asked or list(_BY_CHOICE)


def _items() -> list[dict[str, Any]]:
    """Questions with their answer, and with the answer among those of others."""
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
