"""Benchmark tasks as plain data, the check that they can be loaded, and the file of a task's items.

`check_tasks` runs before the first trial, so that a missing task or data set is found before any GPU time is spent. It
loads the harness in a child process, because the harness imports torch and the driver must not.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Literal

from sweepft.bounded_json import read_json_file
from sweepft.children import run_module
from sweepft.errors import EvaluateError
from sweepft.files import atomic_write

_SCORING: Final = 2  # raise it when the same weights get other scores
LARGEST_BATCH: Final = 64
"""Largest batch that `auto` chooses: beyond it a token takes longer, and a long answer holds up more of the others."""
_AFTER_AUTO: Final = 8
"""Batch size after a chosen one has run out of memory."""


@dataclass(frozen=True)
class EvalTask:
    """A task of the lm-evaluation-harness and its settings.

    Attributes:
        name: Task or group.
        include_path: Folders with task files.
        limit: Largest number of items (for a group, of each of its tasks); None for all.
        num_fewshot: Examples before each item; None for the task's own number.
        chat_template: Whether items are rendered as chat turns, if the tokenizer has a chat template.
        batch_size: Items per forward pass of a rank; None for as many as fit (see ``sweepft.evaluation.batch_size``).
        place: Key of the spec that names it, for messages.
    """

    name: str
    include_path: tuple[str, ...] = ()
    limit: int | None = None
    num_fewshot: int | None = None
    chat_template: bool = True
    batch_size: int | None = None
    place: str = "evaluate.tasks"

    @property
    def digest(self) -> str:
        """Digest of all that changes a score: settings, local task files, version of the harness.

        Data files that a task file names are not part of it. Scores with equal digests are reused.
        """
        settings = {k: v for k, v in asdict(self).items() if k not in ("batch_size", "include_path", "place")}
        digest = hashlib.sha256(json.dumps([settings, _harness(), _SCORING], sort_keys=True).encode())
        for folder in map(Path, self.include_path):
            for file in sorted(
                p for p in folder.rglob("*") if p.suffix in (".yaml", ".yml", ".py") and p.is_file()
            ):
                digest.update(f"{file.relative_to(folder)}\n".encode() + file.read_bytes())
        return digest.hexdigest()[:16]


def batch_size_of(wanted: int | Literal["auto"]) -> int | None:
    """The batch size of a task from that of the spec; None for ``auto``."""
    return None if wanted == "auto" else wanted


def smaller_batch(size: int | None) -> int | None:
    """The batch size to go on with after running out of memory; None if there is no smaller one."""
    return _AFTER_AUTO if size is None else size // 2 or None


def _harness() -> str | None:
    try:
        return version("lm_eval")
    except PackageNotFoundError:
        return None


def write_items(file: Path, items: Iterable[Mapping[str, Any]]) -> str:
    """Write items as gzipped JSON lines, atomically; equal items give equal bytes.

    Returns:
        SHA-256 of the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(item, ensure_ascii=False, default=str) + "\n" for item in items)
    data = gzip.compress(lines.encode("utf-8", "replace"), mtime=0)
    atomic_write(file, data)
    return hashlib.sha256(data).hexdigest()


def check_tasks(tasks: Sequence[EvalTask], *, names_only: bool = False) -> dict[str, dict[str, Any]]:
    """Load every task in a child process.

    Args:
        tasks: To load.
        names_only: Whether to see only that there are such tasks: their data may not be on this machine.
    Returns:
        Task -> ``items`` (documents, after the limit), ``documents`` (of the largest task, without it), ``metrics``
        (names) and ``higher`` (those of which higher is better); empty with ``names_only``.
    Raises:
        EvaluateError: Lists every task that cannot be loaded.
    """
    if not tasks:
        return {}
    with tempfile.TemporaryDirectory(prefix="sweepft-tasks-") as folder:
        outcome = Path(folder) / "outcome.json"
        job = {"tasks": [asdict(task) for task in tasks], "names_only": names_only, "outcome": str(outcome)}
        done = run_module("sweepft.evaluation", job=job)
        answer = read_json_file(outcome) if outcome.is_file() else None
    if answer is None:
        raise EvaluateError(
            f"{tasks[0].place}: the check of the tasks failed:\n{done.tail}", key="evaluate.tasks"
        )
    if answer["problems"]:
        raise EvaluateError("\n".join(answer["problems"]), key="evaluate.tasks")
    return dict(answer["found"])


def inspect_task(wanted: EvalTask) -> dict[str, Any]:
    """Load one task and render its first item (in the child process).

    Raises:
        EvaluateError: If the task cannot be loaded or its first document cannot be rendered.
    """
    from sweepft.evaluation.task_loading import load_tasks, metric_names

    loaded = load_tasks(wanted)
    items, documents, keys, better = 0, 0, [], set[str]()
    for name, task in loaded["tasks"].items():
        items += min(len(task.eval_docs), wanted.limit or len(task.eval_docs))
        documents = max(documents, len(task.eval_docs))
        try:
            first = task.eval_docs[0]
            task.doc_to_text(first)
            task.doc_to_target(first)
        except Exception as error:
            cause = f"{type(error).__name__}: {str(error)[:200]}"
            raise EvaluateError(
                f"{wanted.place}: {name}: its first document cannot be rendered: {cause}\n"
                "  correct doc_to_text and doc_to_target of the task file",
                key="evaluate.tasks",
            ) from error
        keys += [f"{m},{f.name}" for m in task.aggregation() for f in task._filters]
        better |= {metric for metric, higher in (task.higher_is_better() or {}).items() if higher}
    metrics = list(metric_names(dict.fromkeys(keys)).values())
    higher = [name for name in metrics if name.partition(",")[0] in better]
    return {"items": items, "documents": documents, "metrics": metrics, "higher": higher}
