"""Seeded chat rows whose answers can be checked: small skills, and questions over facts.

The idea to keep in mind: every skill is a function from a random generator to (question, answer), the answer
computed and never guessed. `BASE_SKILLS` and the facts go into the base model; `NEW_SKILLS` are what a sweep
teaches it. All text is our own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from random import Random
from typing import Any, Final

from sweepft.demo.facts import facts

__all__ = ["BASE_SKILLS", "NEW_SKILLS", "WORDS", "chat_row", "knowledge_rows", "skill_rows"]

Skill = Callable[[Random], tuple[str, str]]

_WORDS: Final = """
apple bread chair dream eagle flame grape horse island jewel kettle lemon mango night ocean paper queen river
stone table under violin water yellow zebra bridge candle desert engine forest garden hammer insect jacket
ladder market needle orange pencil rabbit silver tunnel window basket copper dragon feather guitar helmet
pepper saddle ticket velvet walnut anchor button carpet donkey
"""
WORDS: Final = tuple(_WORDS.split())
_MONTH_NAMES: Final = """
January February March April May June July August September October November December
"""
_MONTHS: Final = tuple(_MONTH_NAMES.split())
_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _join(items: Sequence[object]) -> str:
    return ", ".join(str(i) for i in items)


def _numbers(rng: Random, n: int) -> list[int]:
    return rng.sample(range(1, 100), n)


def _add(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(1, 49), rng.randint(1, 49)
    return f"What is {a} plus {b}?", str(a + b)


def _subtract(rng: Random) -> tuple[str, str]:
    a, b = sorted((rng.randint(1, 60), rng.randint(1, 60)), reverse=True)
    return f"What is {a} minus {b}?", str(a - b)


def _multiply(rng: Random) -> tuple[str, str]:
    a, b = rng.randint(2, 12), rng.randint(2, 12)
    return f"What is {a} times {b}?", str(a * b)


def _larger(rng: Random) -> tuple[str, str]:
    a, b = rng.sample(range(1, 100), 2)
    return f"Which is larger, {a} or {b}?", str(max(a, b))


def _sort_up(rng: Random) -> tuple[str, str]:
    numbers = _numbers(rng, rng.randint(3, 5))
    return f"Sort from small to large: {_join(numbers)}", _join(sorted(numbers))


def _sort_down(rng: Random) -> tuple[str, str]:
    numbers = _numbers(rng, rng.randint(3, 5))
    return f"Sort from large to small: {_join(numbers)}", _join(sorted(numbers, reverse=True))


def _sort_words(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(3, 4))
    return f"Put in alphabetical order: {_join(words)}", _join(sorted(words))


def _reverse_list(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(2, 4))
    return f"Write this list backwards: {_join(words)}", _join(words[::-1])


def _copy(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(1, 4))
    return f"Repeat: {_join(words)}", _join(words)


def _first_word(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(2, 4))
    return f"What is the first word of: {_join(words)}?", words[0]


def _spell(rng: Random) -> tuple[str, str]:
    word = rng.choice(WORDS)
    return f"Spell {word} with hyphens.", "-".join(word)


def _upper(rng: Random) -> tuple[str, str]:
    words = " ".join(rng.sample(WORDS, rng.randint(1, 2)))
    return f"Write in capitals: {words}", words.upper()


def _drop_word(rng: Random) -> tuple[str, str]:
    words = rng.sample(WORDS, rng.randint(3, 4))
    gone = rng.choice(words)
    return f"Remove {gone} from: {_join(words)}", _join([w for w in words if w != gone])


def _replace(rng: Random) -> tuple[str, str]:
    *words, new = rng.sample(WORDS, 4)
    old = rng.choice(words)
    return f"Replace {old} by {new} in: {_join(words)}", _join([new if w == old else w for w in words])


_UNITS: Final = (
    ("metres", "centimetres", 100),
    ("kilograms", "grams", 1000),
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("kilometres", "metres", 1000),
    ("weeks", "days", 7),
    ("dozens", "pieces", 12),
    ("days", "hours", 24),
)


def _convert(rng: Random) -> tuple[str, str]:
    large, small, factor = rng.choice(_UNITS)
    n = rng.randint(2, 20)
    if rng.random() < 0.5:
        return f"How many {small} are {n} {large}?", f"{n * factor} {small}"
    return f"How many {large} are {n * factor} {small}?", f"{n} {large}"


def _next_day(rng: Random) -> tuple[str, str]:
    day = dt.date(rng.randint(1990, 2030), 1, 1) + dt.timedelta(days=rng.randint(0, 364))
    after = day + dt.timedelta(days=1)
    return f"Which date follows {_date(day)}?", _date(after)


def _iso_date(rng: Random) -> tuple[str, str]:
    day = dt.date(rng.randint(1990, 2030), rng.randint(1, 12), rng.randint(1, 28))
    return f"Write as a number date: {_date(day)}", day.isoformat()


def _weekday(rng: Random) -> tuple[str, str]:
    start, later = rng.randrange(7), rng.randint(1, 20)
    return f"Today is {_DAYS[start]}. Which day is it in {later} days?", _DAYS[(start + later) % 7]


def _date(day: dt.date) -> str:
    return f"{day.day} {_MONTHS[day.month - 1]} {day.year}"


BASE_SKILLS: Final[Mapping[str, Sequence[Skill]]] = {
    "arithmetic": (_add,),
    "sorting": (_larger,),
    "strings": (_copy, _first_word),
}
"""What the base model has seen, by domain."""

NEW_SKILLS: Final[Mapping[str, Sequence[Skill]]] = {
    "arithmetic": (_subtract, _multiply),
    "sorting": (_sort_up, _sort_down, _sort_words),
    "strings": (_reverse_list, _spell, _upper, _drop_word, _replace),
    "units": (_convert,),
    "dates": (_next_day, _iso_date, _weekday),
}
"""What a sweep teaches it, by domain."""


def chat_row(question: str, answer: str, domain: str) -> dict[str, Any]:
    """One row of instruction data, as it stands in a JSON Lines file."""
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns, "domain": domain}


def skill_rows(skills: Mapping[str, Sequence[Skill]], n: int, seed: int) -> Iterator[dict[str, Any]]:
    """`n` different rows, all skills about equally often; those of a small skill run out first.

    Raises:
        ValueError: If the skills cannot make `n` different questions.
    """
    rng = Random(seed)
    flat = [(domain, skill) for domain, members in skills.items() for skill in members]
    seen: set[str] = set()
    misses = 0
    while len(seen) < n:
        domain, skill = flat[rng.randrange(len(flat))]
        question, answer = skill(rng)
        if question in seen:
            misses += 1
            if misses > 20 * n + 1000:
                raise ValueError(f"these skills make only about {len(seen)} different questions, not {n}")
            continue
        seen.add(question)
        yield chat_row(question, answer, domain)


def knowledge_rows(seed: int) -> list[dict[str, Any]]:
    """Every fact in every phrasing, once, in seeded order, domain ``knowledge``."""
    rows = [chat_row(question, answer, "knowledge") for question, answer in facts()]
    Random(seed).shuffle(rows)
    return rows
