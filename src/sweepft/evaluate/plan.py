"""What a rank must know to score a task: plain data, made without the harness."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["TaskPlan"]


@dataclass(frozen=True)
class TaskPlan:
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
