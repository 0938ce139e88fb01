"""Whether the tasks a sweep will end with can be had, found out before its first trial.

The idea to keep in mind: the harness imports torch, which the driver must not; so the tasks are looked at in a process
of its own.
"""
# MERGED What a rank must know to score a task: plain data, made without the harness.
# MERGED What was said and expected, item by item: JSON lines beside the ledger, which has their digest.

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sweepft.errors import EvaluateError


@dataclass(frozen=True)
class EvalTask:
    """A task of the lm-evaluation-harness, and how it is put.

    Attributes:
        name: Of a task or group.
        include_path: Folders with task files.
        limit: Items at most (of a group: of each of its tasks); None for all.
        num_fewshot: Examples before each item; None for the task's own number.
        chat_template: Whether items are put as chat turns.
        batch_size: Items a rank runs at once.
    """

    name: str
    include_path: tuple[str, ...] = ()
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = True
    batch_size: int = 8

    @property
    def digest(self) -> str:
        """Of what changes a score: settings, own task files, version of the harness; not of the data files they name.

        Scores under the same digest need not be computed again.
        """
        settings = {k: v for k, v in asdict(self).items() if k not in ("batch_size", "include_path")}
        digest = hashlib.sha256(json.dumps([settings, _harness()], sort_keys=True).encode())
        for folder in map(Path, self.include_path):
            for file in sorted(
                p for p in folder.rglob("*") if p.suffix in (".yaml", ".yml", ".py") and p.is_file()
            ):
                digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
        return digest.hexdigest()[:16]


def _harness() -> str | None:
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return None


def write_items(file: Path, items: Iterable[Mapping[str, Any]]) -> str:
    """Write gzipped JSON lines, all or nothing; equal items give equal bytes.

    Returns:
        SHA-256 of the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(item, ensure_ascii=False, default=str) + "\n" for item in items)
    data = gzip.compress(lines.encode("utf-8", "replace"), mtime=0)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(file)
    return hashlib.sha256(data).hexdigest()


def check_tasks(plans: Sequence[EvalTask]) -> dict[str, dict[str, Any]]:
    """Load every task in a child process.

    Returns:
        Task -> ``items`` (documents, after the limit) and ``metrics`` (names).
    Raises:
        EvaluateError: With every task that cannot be had.
    """
    if not plans:
        return {}
    with tempfile.TemporaryDirectory(prefix="sweepft-tasks-") as folder:
        outcome = Path(folder) / "outcome.json"
        job = {"plans": [asdict(plan) for plan in plans], "outcome": str(outcome)}
        command = [sys.executable, "-m", "sweepft.evaluation"]
        done = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=False)
        answer = json.loads(outcome.read_text()) if outcome.is_file() else None
    if answer is None:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-15:])
        raise EvaluateError(f"evaluate.tasks: looking at the tasks failed:\n{tail}")
    if answer["problems"]:
        raise EvaluateError("\n".join(answer["problems"]))
    return dict(answer["found"])


def look_at(plan: EvalTask) -> dict[str, Any]:
    """Load one task and put its first item (in the child process).

    Raises:
        EvaluateError: If the task cannot be loaded, or its text cannot be made of its first document.
    """
    from sweepft.evaluation.task_loading import load_tasks, metric_names

    loaded = load_tasks(plan)
    items, keys = 0, []
    for name, task in loaded["tasks"].items():
        items += min(len(task.eval_docs), plan.limit or len(task.eval_docs))
        try:
            first = task.eval_docs[0]
            task.doc_to_text(first)
            task.doc_to_target(first)
        except Exception as error:
            said = f"{type(error).__name__}: {str(error)[:200]}"
            raise EvaluateError(
                f"evaluate.tasks: {name}: no text can be made of its first document: {said}\n"
                "  mend doc_to_text and doc_to_target of the task file"
            ) from error
        keys += [f"{m},{f.name}" for m in task.aggregation() for f in task._filters]
    return {"items": items, "metrics": list(metric_names(dict.fromkeys(keys)).values())}
