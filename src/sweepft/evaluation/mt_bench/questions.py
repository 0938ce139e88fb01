"""MT-Bench questions and reference answers, read from files in FastChat's format.

Every invalid line is reported by file and line before anything is generated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json
from sweepft.errors import DataError, Problem
from sweepft.unpacking import UNPACKING_ERRORS, lines_of, open_maybe_gzip

_FORM: Final = '{"question_id": 81, "category": "writing", "turns": ["...", "..."]}'
_REFERENCE_FORM: Final = '{"question_id": 81, "choices": [{"turns": ["...", "..."]}]}'


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        question_id: As in the file, as text.
        category: Determines the temperature and whether the judge sees the reference.
        turns: One or two messages of the user.
        references: A reference answer to each turn, or empty.
    """

    question_id: str
    category: str
    turns: tuple[str, ...]
    references: tuple[str, ...] = ()


def read_questions(path: str | Path, references: str | Path | None = None) -> list[Question]:
    """Read questions, and reference answers from a separate file if one is given.

    Raises:
        DataError: If a file is missing, empty or has invalid lines; lists each of them.
    """
    given = _read_references(Path(references)) if references is not None else {}
    problems: list[Problem] = []
    questions: dict[str, Question] = {}
    for where, row in read_lines(Path(path), "MT-Bench questions, one a line: " + _FORM):
        name, category = row.get("question_id"), row.get("category")
        turns = _texts(row.get("turns"))
        if name is None or not isinstance(category, str) or not 1 <= len(turns) <= 2:
            rule = "must have question_id, category and one or two turns"
            problems.append(Problem(where, "question", rule, f"write it as {_FORM}"))
            continue
        if str(name) in questions:
            problems.append(
                Problem(where, "question_id", "must be unique", "remove one of the two", str(name))
            )
        own = _texts(row.get("reference"))
        found = given.get(str(name), own)
        questions[str(name)] = Question(str(name), category, turns, found if len(found) >= len(turns) else ())
    if problems:
        raise DataError(problems)
    return list(questions.values())


def read_lines(path: Path, wanted: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """``(file:line, object)`` of a JSON Lines file, also gzipped; blank lines are skipped.

    Args:
        path: The file.
        wanted: The expected content, for the remedy.
    Raises:
        DataError: If it cannot be read, is empty, or a line is not a JSON object.
    """
    count = 0
    try:
        with open_maybe_gzip(path) as stream:
            for number, line in lines_of(stream):
                if not line.strip():
                    continue
                count += 1
                row = read_json(line)
                if not isinstance(row, dict):
                    raise ValueError("not a JSON object")
                yield f"{path}:{number}", row
    except (*UNPACKING_ERRORS, ValueError) as error:
        what = (isinstance(error, OSError) and error.strerror) or str(error)
        rule = f"cannot be read: {what}"
        raise DataError([Problem(str(path), "file", rule, f"provide {wanted}")]) from None
    if count == 0:
        raise DataError([Problem(str(path), "file", "must have at least one line", f"provide {wanted}")])


def _read_references(path: Path) -> dict[str, tuple[str, ...]]:
    found = {}
    for where, row in read_lines(path, "reference answers, one a line: " + _REFERENCE_FORM):
        choices = row.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else row
        turns = _texts(first.get("turns") if isinstance(first, dict) else None)
        if row.get("question_id") is None or not turns:
            rule = "must have question_id and choices with turns"
            raise DataError([Problem(where, "reference", rule, f"write it as {_REFERENCE_FORM}")])
        found[str(row["question_id"])] = turns
    return found


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return tuple(value)
    return ()
