"""An exam: one trial's kept weights, or the base model, scored part by part on a slot's living ranks.

One idea: a part is a result of its own, so that a sweep which dies in the middle keeps the parts before. A part that
cannot be scored says why, and the next one begins on new ranks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweepft.errors import DataError, JudgeError, StorageError
from sweepft.evaluate import TaskPlan
from sweepft.trainable.judged import Judging, judge
from sweepft.workers.group import WorkerGroup

__all__ = ["Exam", "ExamPart"]


@dataclass(frozen=True)
class ExamPart:
    """A sealed or held-out set (``cache`` is its token set), or a task.

    Attributes:
        what: ``test``, ``held_out``, ``task`` or ``judge``.
        name: Of the set or task.
        digest: Of what it is scored on.
        cache: Folder of the token set.
        task: How the task is put.
        judging: How answers are judged.
        items: File for the results item by item, relative to the run folder.
    """

    what: str
    name: str
    digest: str
    cache: str | None = None
    task: TaskPlan | None = None
    judging: Judging | None = None
    items: str | None = None


class Exam:
    """What is left of an exam.

    Args:
        config: ``subject`` (trial id, None for the base model), ``weights`` (folder, None for the base model),
            ``run_dir``, ``tokenizer`` and ``parts``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.subject: str | None = config["subject"]
        self.weights: str | None = config["weights"]
        self._run_dir: str = config["run_dir"]
        self._tokenizer: str = config["tokenizer"]
        self._parts: list[ExamPart] = list(config["parts"])

    @property
    def done(self) -> bool:
        """Whether no part is left."""
        return not self._parts

    def take(self, group: WorkerGroup, patience: float, judge_key: str | None = None) -> dict[str, Any]:
        """Score the next part on ranks that hold the weights: the fields of a `score` row."""
        part, begin = self._parts[0], time.monotonic()
        if part.task is not None:
            found = group.score(part.task, self._tokenizer, f"{self._run_dir}/{part.items}", patience)
            scored = {**found, "file": part.items}
        elif part.judging is not None:
            try:
                file = Path(self._run_dir, str(part.items))
                found = judge(group, self._tokenizer, part.judging, file, patience, judge_key)
            except (JudgeError, DataError, StorageError) as error:
                return self.give_up(str(error))
            scored = {**found, "file": part.items}
        else:
            loss = group.set_loss(str(part.cache), patience)
            metric = {"value": loss["loss"], "stderr": loss["stderr"], "higher_is_better": False}
            scored = {"metrics": {"loss": metric}, "items": loss["samples"]}
        return self._close(seconds=time.monotonic() - begin, **scored)

    def give_up(self, reason: str) -> dict[str, Any]:
        """The next part cannot be scored: the fields of a `score` row without scores."""
        return self._close(metrics={}, reason=reason, seconds=0.0)

    def halve(self) -> str | None:
        """Run fewer items at once from now on; what was done, or None when it is one already."""
        task = self._parts[0].task
        if task is None or task.batch_size == 1:
            return None
        size = task.batch_size // 2
        self._parts = [
            part if part.task is None else replace(part, task=replace(part.task, batch_size=size))
            for part in self._parts
        ]
        return f"evaluate.batch_size {task.batch_size} -> {size}"

    def _close(self, **fields: Any) -> dict[str, Any]:
        part = self._parts.pop(0)
        return {
            "trial_id": self.subject,
            "what": part.what,
            "name": part.name,
            "digest": part.digest,
            **fields,
        }
