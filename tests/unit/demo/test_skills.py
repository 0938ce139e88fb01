"""Generated rows: every answer is checked by independent code."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.demo.skills import BASE_SKILLS, NEW_SKILLS, facts, knowledge_rows, skill_rows

UNITS = {
    ("centimetres", "metres"): 100,
    ("grams", "kilograms"): 1000,
    ("minutes", "hours"): 60,
    ("seconds", "minutes"): 60,
    ("metres", "kilometres"): 1000,
    ("days", "weeks"): 7,
    ("pieces", "dozens"): 12,
    ("hours", "days"): 24,
}


def numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


def items(text: str) -> list[str]:
    return text.split(", ")


def convert(m: re.Match[str], answer: str) -> bool:
    wanted, count, given = m.groups()
    n, unit = answer.split() if " " in answer else (answer, wanted)
    if (wanted, given) in UNITS:
        return (int(n), unit) == (int(count) * UNITS[wanted, given], wanted)
    return (int(n) * UNITS[given, wanted], unit) == (int(count), wanted)


def date(text: str) -> dt.date:
    return dt.datetime.strptime(text, "%d %B %Y").date()


CHECKS: dict[str, Callable[[re.Match[str], str], bool]] = {
    r"What is (\d+) plus (\d+)\?": lambda m, a: int(a) - int(m[1]) == int(m[2]),
    r"What is (\d+) minus (\d+)\?": lambda m, a: int(a) + int(m[2]) == int(m[1]) and int(a) >= 0,
    r"What is (\d+) times (\d+)\?": lambda m, a: divmod(int(a), int(m[2])) == (int(m[1]), 0),
    r"Which is larger, (\d+) or (\d+)\?": lambda m, a: (
        a in m.groups() and all(int(a) >= int(n) for n in m.groups())
    ),
    r"Sort from small to large: (.*)": lambda m, a: (
        all(x < y for x, y in pairwise(numbers(a))) and Counter(items(a)) == Counter(items(m[1]))
    ),
    r"Sort from large to small: (.*)": lambda m, a: (
        all(x > y for x, y in pairwise(numbers(a))) and Counter(items(a)) == Counter(items(m[1]))
    ),
    r"Put in alphabetical order: (.*)": lambda m, a: (
        all(x < y for x, y in pairwise(items(a))) and Counter(items(a)) == Counter(items(m[1]))
    ),
    r"Write this list backwards: (.*)": lambda m, a: list(reversed(items(a))) == items(m[1]),
    r"Repeat: (.*)": lambda m, a: a == m[1],
    r"What is the first word of: (.*)\?": lambda m, a: m[1].startswith(a + ", "),
    r"Spell (\w+) with hyphens\.": lambda m, a: a.replace("-", "") == m[1] and a.count("-") == len(m[1]) - 1,
    r"Write in capitals: (.*)": lambda m, a: a.lower() == m[1] and a.isupper(),
    r"Remove (\w+) from: (.*)": lambda m, a: (
        m[1] not in items(a)
        and [w for w in items(m[2]) if w in items(a)] == items(a)
        and len(items(a)) == len(items(m[2])) - 1
    ),
    r"Replace (\w+) by (\w+) in: (.*)": lambda m, a: (
        m[1] not in a and re.sub(rf"\b{m[2]}\b", m[1], a) == m[3]
    ),
    r"How many (\w+) are (\d+) (\w+)\?": convert,
    r"Which date follows (.*)\?": lambda m, a: date(a) - date(m[1]) == dt.timedelta(days=1),
    r"Write as a number date: (.*)": lambda m, a: dt.date.fromisoformat(a) == date(m[1]),
    r"Today is (\w+)\. Which day is it in (\d+) days\?": lambda m, a: (
        # 2 January 2023 was a Monday
        any(
            (dt.date(2023, 1, 2) + dt.timedelta(days=d)).strftime("%A") == m[1]
            and (dt.date(2023, 1, 2) + dt.timedelta(days=d + int(m[2]))).strftime("%A") == a
            for d in range(7)
        )
    ),
}


def qa(row: dict[str, Any]) -> tuple[str, str]:
    user, assistant = row["messages"]
    assert (user["role"], assistant["role"]) == ("user", "assistant")
    return user["content"], assistant["content"]


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6))
def test_skills__answers_are_right(seed: int) -> None:
    asked = set()
    for skills in (BASE_SKILLS, NEW_SKILLS):
        for row in skill_rows(skills, 400, seed):
            question, answer = qa(row)
            [(pattern, match)] = [(p, m) for p in CHECKS if (m := re.fullmatch(p, question))]
            assert CHECKS[pattern](match, answer), (question, answer)
            asked.add(pattern)
    assert asked == set(CHECKS), "every kind of question was asked"


def test_skill_rows__seeded_different_and_of_all_domains() -> None:
    rows = list(skill_rows(NEW_SKILLS, 500, 3))
    assert rows == list(skill_rows(NEW_SKILLS, 500, 3)) != list(skill_rows(NEW_SKILLS, 500, 4))
    assert len({qa(row)[0] for row in rows}) == 500
    assert {row["domain"] for row in rows} == set(NEW_SKILLS)


def test_skills__base_and_new_share_no_question() -> None:
    base = {qa(row)[0] for row in skill_rows(BASE_SKILLS, 3000, 0)}
    assert not base & {qa(row)[0] for row in skill_rows(NEW_SKILLS, 3500, 1)}


def test_skill_rows__refuses_more_than_there_are() -> None:
    spell = {"strings": [s for s in NEW_SKILLS["strings"] if s.__name__ == "_spell"]}
    with pytest.raises(ValueError, match="only about"):
        list(skill_rows(spell, 1000, 0))


def test_facts__each_question_has_one_answer() -> None:
    pairs = list(facts())
    assert len(pairs) == len({question for question, _ in pairs}) > 400
    assert all(question.endswith(("?", ".")) and answer == answer.strip() != "" for question, answer in pairs)
    known = dict(pairs)
    assert known["What is the capital of Ethiopia?"] == "Addis Ababa"
    assert known["What is the past tense of wear?"] == "wore"


def test_knowledge_rows__all_facts_in_seeded_order() -> None:
    rows = knowledge_rows(0)
    assert {qa(row) for row in rows} == set(facts())
    assert rows == knowledge_rows(0) != knowledge_rows(1)
    assert {row["domain"] for row in rows} == {"knowledge"}
