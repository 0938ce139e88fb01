"""Checks each row when it is read: fields, types and ranges of its kind. A checksum is no proof: anybody can make one.

Readers fold rows without looking again. A field that a kind does not have is left alone, because a later version may
have added it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from sweepft.files import PLAIN_NAME
from sweepft.ledger.rows import KINDS, REQUIRED, Row, declared_types, default_of, is_time

Check: TypeAlias = Callable[[Any], str | None]
"""The rule that a value breaks, or None."""

LARGEST: Final = 2**53
"""Larger whole numbers have no exact float."""

_NUMERIC: Final = {int, float}
_OR_NONE: Final = {int, float, type(None)}


def row_problem(row: Row) -> tuple[str, str] | None:
    """The field of a row that is wrong, and the rule that it breaks; None if all is well.

    Fields with a default that the row lacks are filled in.
    """
    kind = row.get("kind")
    if not isinstance(kind, str):
        return "kind", "must be text"
    broken = _time(row.get("time"))
    if broken is not None:
        return "time", broken
    checks = _CHECKS.get(kind)
    if checks is None:
        return None  # of a later version
    for name, required, check in checks:
        if name not in row:
            if required:
                return name, "is missing"
            row[name] = default_of(kind, name)
            continue
        broken = check(row[name])
        if broken is not None:
            return name, broken
    wanted = _ARGUMENTS.get(row["command"]) if kind == "command" and row["accepted"] else None
    broken = wanted(row["arguments"]) if wanted is not None else None
    return None if broken is None else ("arguments", broken)


# --- values -------------------------------------------------------------------------------------------


def _of(kind: type, what: str) -> Check:
    return lambda value: None if isinstance(value, kind) else f"must be {what}"


_text = _of(str, "text")
_flag = _of(bool, "true or false")
_mapping = _of(dict, "an object")


def _anything(value: Any) -> str | None:
    return None


def _whole(value: Any) -> str | None:
    return (
        None
        if type(value) is int and -LARGEST <= value <= LARGEST
        else f"must be a whole number up to {LARGEST}"
    )


def _count(value: Any) -> str | None:
    return (
        None
        if type(value) is int and 0 <= value <= LARGEST
        else f"must be a whole number from 0 to {LARGEST}"
    )


def _progress(value: Any) -> str | None:
    """A count that a slot may report as a float."""
    return None if type(value) in _NUMERIC and 0 <= value <= LARGEST else "must be a count"


def _number(value: Any) -> str | None:
    """Any float, or a whole number that has one."""
    return None if type(value) is float else _whole(value) and "must be a number"


def _finite(value: Any) -> str | None:
    fits = type(value) in _NUMERIC and abs(value) <= 1e15  # false for NaN
    return None if fits else "must be a finite number"


def _amount(value: Any) -> str | None:
    return None if type(value) in _NUMERIC and 0 <= value <= 1e15 else "must be a finite number, 0 or more"


def _time(value: Any) -> str | None:
    return None if is_time(value) else "must be a time in Unix seconds"


def _share(value: Any) -> str | None:
    return None if type(value) in _NUMERIC and 0 <= value <= 1 else "must lie between 0 and 1"


def _name(value: Any) -> str | None:
    good = isinstance(value, str) and PLAIN_NAME.fullmatch(value)
    return None if good else "must be a plain name, of letters, digits, dots, hyphens and underscores"


def _slot(value: Any) -> str | None:
    return None if isinstance(value, str) or type(value) is int else "must be a number or text"


def _word(value: Any) -> str | None:
    """A status or action; a later version may have more of them."""
    good = isinstance(value, str) and value.isprintable() and 0 < len(value) <= 80
    return None if good else "must be a word"


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _list_of(check: Check, most: int | None = None) -> Check:
    def checked(value: Any) -> str | None:
        if not isinstance(value, list) or (most is not None and len(value) > most):
            return "must be a list" + (f" of at most {most}" if most is not None else "")
        return next((f"[{i}] {broken}" for i, item in enumerate(value) if (broken := check(item))), None)

    return checked


def _values(check: Check, names: Check = _anything) -> Check:
    """An object with any keys."""

    def checked(value: Any) -> str | None:
        if not isinstance(value, dict):
            return "must be an object"
        for key, inner in value.items():
            broken = names(key) or check(inner)
            if broken is not None:
                return f"{key}: {broken}"
        return None

    return checked


def _fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these keys, and any others."""

    def checked(value: Any) -> str | None:
        if not isinstance(value, dict):
            return "must be an object"
        for key, check in required.items():
            broken = check(value[key]) if key in value else "is missing"
            if broken is not None:
                return f"{key} {broken}"
        for key, check in (optional or {}).items():
            broken = check(value[key]) if key in value else None
            if broken is not None:
                return f"{key} {broken}"
        return None

    return checked


# --- the columns of steps -----------------------------------------------------------------------------


def _columns(value: Any, first: str, counted: tuple[str, ...]) -> str | None:
    """Lists of numbers of equal length: ``first`` ascends, ``counted`` hold counts, others may lack values."""
    if not isinstance(value, dict):
        return "must be an object of lists"
    for key, column in value.items():
        if not isinstance(column, list):
            return f"{key} must be a list"
        types = set(map(type, column))
        if not types <= (_NUMERIC if key in counted else _OR_NONE):
            return f"{key} must hold numbers"
        whole = [v for v in column if type(v) is int] if types != {float} else ()
        if whole and not -LARGEST <= min(whole) <= max(whole) <= LARGEST:
            return f"{key} must hold numbers up to {LARGEST}"
        if key in counted and column and not all(0 <= v <= LARGEST for v in column):
            return f"{key} must hold counts"
    leading = value.get(first, [])
    if any(a > b for a, b in itertools.pairwise(leading)):
        return f"{first} must ascend"
    return None


def _history(value: Any) -> str | None:
    return _columns(value, "step", ("step", "samples_seen", "tokens_seen"))


def _blocks(value: Any) -> str | None:
    return _columns(value, "index", ("index", "tokens"))


def _task(value: Any) -> str | None:
    return (_of_function if isinstance(value, dict) and "task" not in value else _of_harness)(value)


def _loss_or_task(value: Any) -> str | None:
    return None if isinstance(value, str) else _task(value)


# --- the spec, as far as readers look into it without validating it -----------------------------------

_section = _or_none(_mapping)
_of_harness = _fields({"task": _text, "metric": _text})
_of_function = _fields({"data": _text, "metric": _text})


def _bound(value: Any) -> str | None:
    amount = "at_least" if isinstance(value, dict) and "at_most" not in value else "at_most"
    return _fields({amount: _finite})(value)


_spec = _fields(
    {},
    {
        "mirror": _section,
        "objective": _or_none(
            _fields(
                {},
                {
                    "maximize": _or_none(_task),
                    "minimize": _or_none(_loss_or_task),
                    "max_share": _or_none(_share),
                    "measure": _or_none(_list_of(_task, 1000)),
                },
            )
        ),
        "search": _or_none(
            _fields(
                {},
                {
                    "trials": _or_none(_count),
                    "enough": _or_none(_fields({"gain": _amount}, {"min_trials": _count})),
                    "space": _or_none(_values(_section)),
                    "tied": _or_none(_values(_section)),
                    "subject_to": _or_none(_values(_bound)),
                },
            )
        ),
        "data": _or_none(
            _fields(
                {},
                {
                    "validation": _or_none(_list_of(_fields({"name": _text}, {"weight": _amount}), 1000)),
                    "train": _or_none(_list_of(_mapping)),
                },
            )
        ),
        "early_stop": _or_none(
            _fields(
                {},
                {
                    "rungs": _or_none(_list_of(_share, 1000)),
                    "rule": _or_none(_text),
                    "patience": _or_none(_count),
                    **dict.fromkeys(
                        ("audit", "top_fraction", "max_false_stop_rate", "max_false_discovery_rate"),
                        _or_none(_finite),
                    ),
                },
            )
        ),
        "resources": _or_none(
            _fields(
                {},
                {
                    **dict.fromkeys(("concurrent_trials", "workers_per_trial"), _or_none(_count)),
                    **dict.fromkeys(("price_per_gpu_hour", "gpus_per_worker"), _or_none(_amount)),
                },
            )
        ),
    },
)

_sets = _values(
    _fields(
        {"loss": _or_none(_number)},
        {
            "stderr": _or_none(_number),
            "tokens": _or_none(_count),
            "samples": _or_none(_count),
            "residuals": _or_none(_list_of(_or_none(_number), 100_000)),
        },
    )
)
_scored = _fields(
    {"seconds": _amount, "items": _count},
    {"stderr": _or_none(_number), "residuals": _or_none(_list_of(_or_none(_number), 100_000))},
)
_measured = _values(
    _fields(
        {"value": _or_none(_number), "seconds": _amount, "items": _count, "higher_is_better": _flag},
        {"stderr": _or_none(_number)},
    )
)
_metric = _fields({"value": _or_none(_number), "stderr": _or_none(_number), "higher_is_better": _flag})

_earlier_trial = _fields({"values": _mapping, "place": _share, "over": _values(_finite)})
_earlier_sweep = _fields(
    {
        "source": _text,
        "name": _text,
        "began": _time,
        "spread": _amount,
        "trials": _list_of(_earlier_trial, 1000),
        "notes": _list_of(_text, 1000),
    }
)

_ARGUMENTS: Final[dict[str, Check]] = {
    "clone": _fields({"params": _mapping}),
    "extend": _fields({"trials": _count}),
}
"""Of accepted commands."""

_BY_TYPE: Final[dict[str, Check]] = {
    "str": _text,
    "FreeText": _text,
    "int": _count,
    "float": _number,
    "bool": _flag,
    "int | str": _slot,
    "Any": _anything,
    "dict[str, Any]": _mapping,
    "Numbers": _mapping,
    "list[str]": _list_of(_text, 100_000),
    "list[int]": _list_of(_count, 100_000),
    "list[float]": _list_of(_number, 100_000),
    "list[dict[str, Any]]": _list_of(_mapping, 100_000),
}

_BY_FIELD: Final[dict[str, Check]] = {
    "trial_id": _name,
    "replicate_of": _name,
    "samples_seen": _progress,
    "tokens_seen": _progress,
    "sweep.name": _name,
    "sweep.command": lambda value: _text(value) and _list_of(_text, 100_000)(value),
    "sweep.spec": _spec,
    "sweep.seed": _whole,
    "sweep.learned": _fields({"sweeps": _list_of(_earlier_sweep, 1000)}),
    "sweep.changes": _values(_anything),
    "steps.history": _history,
    "steps.blocks": _blocks,
    "steps.phase_seconds": _values(_amount),
    "eval.sets": _sets,
    "eval.task": _scored,
    "eval.tasks": _measured,
    "trial.objective_rungs": _list_of(_share, 1000),
    "eval.rung": _share,
    "decision.rung": _share,
    "decision.action": _word,
    "end.status": _word,
    "command.asked": _time,
    "enough.expected": _amount,
    "enough.gain": _amount,
    "finalists.chosen": _list_of(_fields({"trial_id": _name, "why": _text}), 10_000),
    "finalists.items": _list_of(_fields({"what": _text, "name": _text, "digest": _text}), 10_000),
    "finalists.rank_by": _values(_amount),
    "score.metrics": _values(_metric),
    "score.parts": _values(_values(_metric)),
    "finish.status": _word,
    **dict.fromkeys(
        (
            *("start.switch_seconds", "eval.seconds", "cost.seconds", "cost.gpus", "fault.lost_seconds"),
            "score.seconds",
        ),
        _amount,
    ),
}
"""Of fields that are not all that their type allows, by name or ``kind.name``."""


def _check_of(kind: str, name: str, declared: str) -> Check:
    base = declared.removesuffix(" | None")
    check = _BY_FIELD.get(f"{kind}.{name}") or _BY_FIELD.get(name) or _BY_TYPE[base]
    return _or_none(check) if base != declared else check


_CHECKS: Final = {
    kind: [
        (name, name in REQUIRED[kind], _check_of(kind, name, text))
        for name, text in declared_types(kind).items()
    ]
    for kind in KINDS
}
