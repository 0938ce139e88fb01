"""What becomes of the rows of a source when they are tokenised, in the same words for every command.

Rows from which nothing can be learned are left out. A few are a warning; more than ``data.max_lost`` of a source are an
error before anything starts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sweepft.data.rows import Row
from sweepft.errors import DataError, Problem

LOST: Final[Mapping[str, str]] = {
    "no_target": "have nothing to learn",
    "over_length": "are longer than data.max_length",
    "refused": "are refused by the chat template",
    "not_rendered": "have a turn that the chat template does not write",
}
"""Outcomes of rows that are left out."""
KEPT: Final[Mapping[str, str]] = {
    "truncated": "are longer than data.max_length and are cut off",
    "special_in_text": "spell a special token in their text, which is tokenised as that token",
    "not_as_written": "have text that the chat template changes or does not mark",
    "answer_cut": "have an answer that the chat template writes in part only",
    "variables_not_read": "give the chat template variables that it does not read",
}
"""Outcomes of rows that are kept, but not as they are."""


@dataclass(frozen=True)
class Outcomes:
    """What became of the rows of one source or set.

    Attributes:
        name: The source or set, in words.
        key: Its key in the spec.
        rows: Rows that were looked at.
        counts: Rows by outcome: ``kept`` and the keys of `LOST` and `KEPT`.
        example: For an outcome, the place of one row and what is special about it.
        total: Rows of the source, where only a sample was looked at.
    """

    name: str
    key: str
    rows: int
    counts: Mapping[str, int] = field(default_factory=dict)
    example: Mapping[str, str] = field(default_factory=dict)
    total: int | None = None

    @property
    def lost(self) -> int:
        """Rows that are left out."""
        return sum(self.counts.get(outcome, 0) for outcome in LOST)

    @property
    def kept(self) -> int:
        """Rows that remain, extrapolated if only a sample was looked at."""
        if not self.total:
            return self.rows - self.lost
        return round(self.total * (1 - self.lost / max(1, self.rows)))

    def warnings(self) -> Iterator[str]:
        """One sentence for each outcome but ``kept``."""
        for outcome, words in {**LOST, **KEPT}.items():
            if n := self.counts.get(outcome):
                left = " and are left out" if outcome in LOST else ""
                yield f"{self.name}: {n:,} of {self._of} {words}{left}, e.g. {self._example(outcome)}"

    def problem(self, max_lost: float) -> Problem | None:
        """What is wrong if no row is left, or more than the fraction `max_lost` is left out."""
        share = self.lost / max(1, self.rows)
        if not self.lost or (self.lost < self.rows and share <= max_lost):
            return None
        why = "; ".join(
            f"{self.counts[outcome]:,} {words}, e.g. {self._example(outcome)}"
            for outcome, words in LOST.items()
            if self.counts.get(outcome)
        )
        remedies = ["look at the rows named"]
        if self.counts.get("over_length"):
            remedies.append("raise data.max_length, or write data.over_length: truncate")
        if self.lost == self.rows:
            return Problem(self.name, self.key, f"none of {self._of} can be used: {why}", "; ".join(remedies))
        rule = f"{self.lost:,} of {self._of} ({share:.1%}) would be left out: {why}"
        accepted = min(1.0, math.ceil(round(100 * share, 9)) / 100)
        remedies.append(f"to go on without them, write data.max_lost: {accepted:g}")
        return Problem(self.name, "data.max_lost", rule, "; ".join(remedies), max_lost)

    @property
    def _of(self) -> str:
        sampled = "" if self.total in (None, self.rows) else "sampled "
        return f"{self.rows:,} {sampled}row{'' if self.rows == 1 else 's'}"

    def _example(self, outcome: str) -> str:
        return self.example.get(outcome, self.name)


def without_targets(name: str, key: str, rows: Iterable[Row]) -> Outcomes:
    """The outcomes that show without a tokenizer: rows that have nothing to learn."""
    total, missing = 0, 0
    example: dict[str, str] = {}
    for row in rows:
        total += 1
        if not row.has_target:
            missing += 1
            example.setdefault("no_target", f"{row.where}: {no_target(row)}")
    return Outcomes(name, key, total, {"kept": total - missing, "no_target": missing}, example)


def no_target(row: Row) -> str:
    """Why a row has nothing to learn."""
    if isinstance(row.content, str):
        return "the text is blank"
    answers = [turn for turn in row.content if turn.role == "assistant"]
    if not answers:
        roles = ", ".join(dict.fromkeys(turn.role for turn in row.content)) or "none"
        known = {"system", "developer", "user", "assistant", "tool"}
        other = any(turn.role not in known for turn in row.content)
        return (
            f"no assistant turn (roles: {roles}{'; `roles` of the source maps other names' if other else ''})"
        )
    return "every assistant turn is blank or not to be learned"


def check_lost(sets: Iterable[Outcomes], max_lost: float) -> None:
    """Refuse sources and sets that lose too many rows.

    Raises:
        DataError: With one problem for each.
    """
    problems = [problem for one in sets if (problem := one.problem(max_lost)) is not None]
    if problems:
        raise DataError(problems)
