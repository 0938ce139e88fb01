"""An exam: one trial's kept weights, or the base model, scored part by part on a slot's living ranks.

One idea: a part is a result of its own, so that a sweep which dies in the middle keeps the parts before. A part that
cannot be scored says why, and the next one begins on new ranks.
"""
# MERGED MT-Bench as a part of an exam: the slot's ranks answer, the judge is asked from the slot's own process.

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sweepft.errors import DataError, JudgeError, StorageError
from sweepft.evaluation import EvalTask
from sweepft.evaluation.mt_bench import Chat, MtBenchResult, Score, score
from sweepft.evaluation.tasks import write_items
from sweepft.slot.group import WorkerGroup
from sweepft.spec import MtBench


@dataclass(frozen=True)
class Judging:
    """How a model is judged.

    Attributes:
        settings: The spec's section.
        weights: Names the weights: answers of the same ones are kept.
        cache: Folder of answers and verdicts.
        end_ids: Tokens that end an answer.
        batch_size: Chats that a rank runs at once.
    """

    settings: MtBench
    weights: str
    cache: str
    end_ids: tuple[int, ...]
    batch_size: int


def judge(
    group: WorkerGroup, tokenizer: str, judging: Judging, items: Path, patience: float, key: str | None
) -> dict[str, Any]:
    """Answers, verdicts, and what they come to: fields of a `score` row.

    Raises:
        JudgeError, DataError, StorageError: See ``sweepft.evaluation.mt_bench.score``.
        TrialError: If a rank fails.
    """

    def generate(
        chats: Sequence[Chat], *, temperature: float, max_new_tokens: int, seed: int
    ) -> Sequence[str]:
        return group.answer(
            chats, patience, tokenizer=tokenizer, end_ids=judging.end_ids, batch_size=judging.batch_size,
            temperature=temperature, max_new_tokens=max_new_tokens, seed=seed,
        )  # fmt: skip

    with _in_environment(judging.settings.key_env, key):
        result = score(generate, judging.settings, Path(judging.cache), model=judging.weights)
    digest = write_items(items, [asdict(one) for one in result.judgements])
    return {**_fields(result), "file_digest": digest}


def _fields(result: MtBenchResult) -> dict[str, Any]:
    shown = {"score": result.mean} | {f"turn_{turn}": found for turn, found in result.turns.items()}
    failed = {"value": float(result.failed), "stderr": None, "higher_is_better": False}
    return {
        "metrics": {name: _metric(found) for name, found in shown.items() if found.mean is not None}
        | {"failed_verdicts": failed},
        "parts": {c: {"score": _metric(s)} for c, s in result.categories.items() if s.mean is not None},
        "items": result.mean.questions,
        "version": f"{result.judge} {result.setting[:12]}",
        "reason": None if result.mean.mean is not None else "no question has all its verdicts",
    }


def _metric(found: Score) -> dict[str, Any]:
    return {"value": found.mean, "stderr": found.stderr, "higher_is_better": True}


@contextlib.contextmanager
def _in_environment(name: str, key: str | None) -> Iterator[None]:
    before = os.environ.get(name)
    if key is not None:
        os.environ[name] = key
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


@dataclass(frozen=True)
class EvalItem:
    """A sealed or held-out set (``cache`` is its token set), or a task.

    Attributes:
        what: ``test``, ``validation``, ``task`` or ``mt_bench``.
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
    task: EvalTask | None = None
    judging: Judging | None = None
    items: str | None = None


class EvalJob:
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
        self._parts: list[EvalItem] = list(config["parts"])

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
