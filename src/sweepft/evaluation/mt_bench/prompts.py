"""The judge's prompts: four templates in FastChat's format; sweepft ships its own.

All placeholders of a template are filled in one pass, so that braces in a question or an answer are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

from sweepft.errors import DataError, Problem
from sweepft.evaluation.mt_bench.cache import digest
from sweepft.evaluation.mt_bench.questions import Question, read_lines

_NAMES: Final = {
    (1, False): "single-v1",
    (1, True): "single-math-v1",
    (2, False): "single-v1-multi-turn",
    (2, True): "single-math-v1-multi-turn",
}

_NEEDS: Final = {
    (1, False): {"question", "answer"},
    (1, True): {"question", "answer", "ref_answer_1"},
    (2, False): {"question_2", "answer_1", "answer_2"},
    (2, True): {"question_2", "answer_1", "answer_2", "ref_answer_2"},
}

_PLACEHOLDER: Final = re.compile(
    r"\{(nonce|question|answer|question_1|question_2|answer_1|answer_2|ref_answer_1|ref_answer_2)\}"
)

_WANTED: Final = (
    'judge prompts, one a line: {"name": "single-v1", "system_prompt": "...", "prompt_template": "..."}'
)


@dataclass(frozen=True)
class Prompt:
    """A system text, and a user text with placeholders in braces."""

    system: str
    template: str

    def fill(self, values: Mapping[str, str]) -> str:
        """The template with its placeholders filled; other braces stay."""
        return _PLACEHOLDER.sub(lambda place: values.get(place[1], place[0]), self.template)


class Prompts:
    """The four prompts: first or second turn, with or without reference answers.

    Args:
        prompts: By turn and whether the reference is shown.
    """

    def __init__(self, prompts: Mapping[tuple[int, bool], Prompt]) -> None:
        self._prompts = dict(prompts)

    @classmethod
    def read(cls, path: str | Path | None = None) -> Prompts:
        """Read the four prompts from a file like FastChat's ``judge_prompts.jsonl``, or sweepft's own by default.

        Other prompts in the file are not used.

        Raises:
            DataError: If the file cannot be read, or one of the four is missing or lacks a placeholder.
        """
        if path is None:
            with as_file(files("sweepft.evaluation.mt_bench") / "prompts.jsonl") as own:
                return cls.read(own)
        rows = {row.get("name"): (where, row) for where, row in read_lines(Path(path), _WANTED)}
        prompts, problems = {}, []
        for kind, name in _NAMES.items():
            where, row = rows.get(name, (str(path), {}))
            template, system = row.get("prompt_template"), row.get("system_prompt") or ""
            if not isinstance(template, str) or not isinstance(system, str):
                problems.append(
                    Problem(where, name, "is missing or has no prompt_template", f"add {_WANTED}")
                )
                continue
            missing = _NEEDS[kind] - set(_PLACEHOLDER.findall(template))
            if missing:
                places = ", ".join(f"{{{place}}}" for place in sorted(missing))
                problems.append(Problem(where, name, f"its template lacks {places}", "add what is missing"))
            prompts[kind] = Prompt(system, template)
        if problems:
            raise DataError(problems)
        return cls(prompts)

    def to_dict(self) -> dict[str, list[str]]:
        """Plain data: system text and template by FastChat's name."""
        return {_NAMES[kind]: [prompt.system, prompt.template] for kind, prompt in self._prompts.items()}

    def messages(
        self, question: Question, answers: Sequence[str], *, with_reference: bool
    ) -> list[dict[str, str]]:
        """The chat that asks the judge to rate the last of ``answers``.

        Args:
            question: A question of one or two turns.
            answers: To its first turn, or to both.
            with_reference: Whether the judge sees the reference answers; the question must have them.
        """
        turn = len(answers)
        values = {"question": question.turns[0], "answer": answers[0], "nonce": _nonce(question, answers)}
        for i in range(turn):
            values |= {f"question_{i + 1}": question.turns[i], f"answer_{i + 1}": answers[i]}
            if with_reference:
                values[f"ref_answer_{i + 1}"] = question.references[i]
        prompt = self._prompts[turn, with_reference]
        instructions = prompt.system.replace("{nonce}", values["nonce"])
        system = [{"role": "system", "content": instructions}] if instructions else []
        return [*system, {"role": "user", "content": prompt.fill(values)}]


def _nonce(question: Question, answers: Sequence[str]) -> str:
    """A code for the tags around texts. An answer cannot contain it, because it depends on each of its letters; equal
    requests have equal codes, so that verdicts are found again in the cache."""
    return digest({"nonce for": [question.turns, answers, question.references]})[:12]
