"""MT-Bench as a part of an exam: the slot's ranks answer, the judge is asked from the slot's own process.

One idea: the key is the driver's. It comes with the slot's plan, by way of Ray's memory, stands in this process's
environment while the judge is asked, and in no file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweepft.evaluate.items import write_items
from sweepft.evaluate.judge import Chat, MtBenchResult, Score, score
from sweepft.spec import MtBench
from sweepft.workers.group import WorkerGroup

__all__ = ["Judging", "judge"]


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
        JudgeError, DataError, StorageError: See ``sweepft.evaluate.judge.score``.
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
