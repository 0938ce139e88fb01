"""One evaluation job on a slot: kept weights, or the base model, scored item by item on the slot's living ranks.

Each item is a result of its own, so that an interrupted sweep keeps the scores it has. An item that cannot be scored
gets a reason instead, and the next one starts on new ranks.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

from sweepft.errors import DataError, JudgeError, StorageError, TrialError
from sweepft.evaluation import EvalTask, OwnTask
from sweepft.evaluation.mt_bench import Chat, MtBenchResult, Score, score
from sweepft.evaluation.tasks import smaller_batch, write_items
from sweepft.slot.group import WorkerGroup
from sweepft.slot.jobs import EvalItem, EvalJob, Judging
from sweepft.slot.state import TASK_PATIENCE, SlotState

_Batched = TypeVar("_Batched", EvalTask, OwnTask, Judging, EvalTask | OwnTask)


class EvalRun:
    """Scores the items of one job.

    Args:
        slot: Its slot.
        job: What to score, on what.

    Attributes:
        name: Of the job.
        faults: What went wrong so far, as ``fault`` rows have it.
        restarts: How often new ranks were started after a fault.
        position: 0, for the fault handling of the slot: an item has no report points.
    """

    def __init__(self, slot: SlotState, job: EvalJob) -> None:
        self._slot = slot
        self._job = job
        self._items = list(job.items)
        self._started = False
        self.name = job.name
        self.faults: list[dict[str, Any]] = []
        self.restarts = 0
        self.position = 0

    def advance(self) -> dict[str, Any]:
        """Score the next item."""
        if not self._started:
            self._start()
        begin = time.monotonic()
        fields = self._score(self._items[0], TASK_PATIENCE * self._slot.config.patience)
        seconds = 0.0 if fields.get("reason") and not fields["metrics"] else time.monotonic() - begin
        self._slot.clock.spend("evaluate", seconds)
        return self._result({**fields, "seconds": seconds})

    @property
    def starting(self) -> bool:
        """Whether the weights are not loaded yet."""
        return not self._started

    def reset(self) -> None:
        """The ranks are gone: the next `advance` starts new ones."""
        self._started = False

    def save_memory(self) -> str | None:
        """Lower the tasks' batch size after the ranks ran out of memory; what was done, None where nothing can be."""
        first = self._items[0]
        batched = first.judging or (first.task if first.measured is None else first.measured.task)
        size = None if batched is None else smaller_batch(batched.batch_size)
        if batched is None or size is None:
            return None
        self._items = [_with_batch_size(item, size) for item in self._items]
        return f"evaluate.batch_size {batched.batch_size or 'auto'} -> {size}"

    def failure(self, error: TrialError) -> dict[str, Any]:
        """The result of an item that cannot be scored."""
        return self._result({"metrics": {}, "reason": str(error), "seconds": 0.0})

    def leave(self) -> None:
        """The slot takes another job."""

    def _start(self) -> None:
        self._slot.start(self._job.train_config)
        self._started = True
        if self._job.weights is not None:
            loaded = self._slot.group.load_weights(self._job.weights, self._slot.config.patience)
            self._slot.clock.spend("switch", loaded["seconds"])

    def _score(self, item: EvalItem, patience: float) -> dict[str, Any]:
        """The fields of a ``score`` row about one item."""
        group, tokenizer = self._slot.group, self._job.tokenizer
        if item.task is not None:
            found = group.score(item.task, tokenizer, f"{self._job.run_dir}/{item.items}", patience)
            return {**found, "file": item.items}
        if item.measured is not None:
            wanted = item.measured
            value = group.measure(wanted.task, wanted.metric, wanted.tokenizer, patience)
            metric = {key: value[key] for key in ("value", "stderr")}
            shown = {**metric, "higher_is_better": wanted.higher_is_better}
            return {"metrics": {wanted.metric: shown}, "items": value["items"]}
        if item.judging is not None:
            file = Path(self._job.run_dir, str(item.items))
            try:
                found = score_mt_bench(
                    group, tokenizer, item.judging, file, patience, self._slot.config.judge_key
                )
            except (JudgeError, DataError, StorageError) as error:
                return {"metrics": {}, "reason": str(error)}
            return {**found, "file": item.items}
        loss = group.set_loss(str(item.cache), patience)
        metric = {"value": loss["loss"], "stderr": loss["stderr"], "higher_is_better": False}
        return {"metrics": {"loss": metric}, "items": loss["samples"]}

    def _result(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The result of the next item, which is then done."""
        item = self._items.pop(0)
        about = {
            "trial_id": self._job.subject,
            "what": item.what,
            "name": item.name,
            "digest": item.digest,
        }
        return {
            "scored": about | fields,
            "slot": self._slot.name,
            "faults": list(self.faults),
            "done": not self._items,
            "phase_seconds": self._slot.clock.close(),
        }


def _with_batch_size(item: EvalItem, size: int) -> EvalItem:
    """An item whose task, chats or measured task run in batches of at most ``size``."""
    if item.measured is not None:
        return replace(item, measured=replace(item.measured, task=_lowered(item.measured.task, size)))
    if item.judging is not None:
        return replace(item, judging=_lowered(item.judging, size))
    return item if item.task is None else replace(item, task=_lowered(item.task, size))


def _lowered(batched: _Batched, size: int) -> _Batched:
    return replace(batched, batch_size=min(size, batched.batch_size or size))


def score_mt_bench(
    group: WorkerGroup, tokenizer: str, judging: Judging, items: Path, patience: float, key: str | None
) -> dict[str, Any]:
    """Have the ranks answer MT-Bench, and the judge score the answers: fields of a ``score`` row.

    The judge is called from the slot's own process.

    Raises:
        JudgeError, DataError, StorageError: See ``sweepft.evaluation.mt_bench.score``.
        TrialError: If a rank fails.
    """

    def generate(
        chats: Sequence[Chat], *, temperature: float, max_new_tokens: int, seed: int
    ) -> Sequence[str]:
        return group.answer(
            chats, patience, tokenizer=tokenizer, batch_size=judging.batch_size,
            temperature=temperature, max_new_tokens=max_new_tokens, seed=seed,
        )  # fmt: skip

    with _environment(judging.settings.key_env, key):
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
def _environment(name: str, value: str | None) -> Iterator[None]:
    """Set an environment variable while the block runs, unless ``value`` is None."""
    before = os.environ.get(name)
    if value is not None:
        os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before
