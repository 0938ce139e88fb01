"""Translate pydantic's errors into problems with place, key, rule, value and remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sweepft.errors import Problem
from sweepft.spec.fields import Section, describe, keys_at
from sweepft.spec.yaml_source import KeyPath, dotted

_RULES: Final[dict[str, str]] = {
    "missing": "is required",
    "extra_forbidden": "is not a known key",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_too_short": "must not be empty",
    "string_too_long": "must not be longer than {max_length} characters",
    "string_pattern_mismatch": "must be letters, digits, '.', '_' or '-', starting with a letter or digit",
    "model_type": "must be a mapping of keys",
    "model_attributes_type": "must be a mapping of keys",
    "dict_type": "must be a mapping of keys",
    "mapping_type": "must be a mapping of keys",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_short": "must have at least {min_length} entry",
    "too_long": "must have at most {max_length} entries",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "literal_error": "must be one of {expected}",
    "rule": "{rule}",
}


def problems_of(
    error: ValidationError,
    root: type[Section],
    data: Any,
    where: Callable[[KeyPath], str],
    prefix: KeyPath = (),
    most: int | None = None,
) -> list[Problem]:
    """One problem for each of pydantic's errors.

    Args:
        error: The error of the validation.
        root: The section that was validated.
        data: The data that were validated.
        where: Place of a key path (with prefix).
        prefix: Key path of ``root`` within the spec.
        most: Errors that are looked at; by default all.
    """
    problems: dict[str, Problem] = {}
    replaced = set()  # keys that the spec gives under an unknown name
    for detail, path in zip(error.errors()[:most], paths_of(error, data)[:most], strict=True):
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # too short only without the invalid entries, which are reported themselves
        full = (*prefix, *path)
        key = dotted(full)
        value = None if detail["type"] in ("missing", "extra_forbidden", "rule") else detail["input"]
        rule = _RULES.get(detail["type"], detail["msg"]).format(**detail.get("ctx", {}))
        if detail["type"] == "missing" and isinstance(detail["loc"][-1], int):
            rule = f"must have at least {detail['loc'][-1] + 1} entries"
        remedy = _remedy(detail, path, root)
        if detail["type"] == "extra_forbidden":
            meant = RENAMED_KEYS.get(key)
            if meant is not None:
                rule, remedy = "was renamed in version 0.2", f"write {meant}"
            else:
                meant = dotted((*full[:-1], nearest(str(path[-1]), keys_at(root, path[:-1])) or ""))
            replaced.add(meant)
        problems[key] = Problem(where(full), key, rule, remedy, value)
    missing = {key for key, problem in problems.items() if problem.rule == _RULES["missing"]}
    return [problem for key, problem in problems.items() if key not in replaced & missing]


def paths_of(error: ValidationError, data: Any) -> list[KeyPath]:
    """Key path in ``data`` of each error, without the names pydantic gives to the members of a union."""
    return [_in_data(detail, data) for detail in error.errors()]


def did_you_mean(key: str, known: Iterable[str]) -> str:
    """Remedy for an unknown key: the nearest known key, and all of them."""
    names = list(known)
    meant = nearest(key, names)
    listed = ", ".join(names) or "none"
    return f"did you mean `{meant}`? Known keys: {listed}" if meant else f"known keys: {listed}"


def nearest(key: str, names: Sequence[str]) -> str | None:
    """The most likely intended name: the same name in a section, a similar one, or one with these initials."""
    ends = [name for name in names if name.endswith("." + key)]
    alike = difflib.get_close_matches(key.lower(), names, n=1, cutoff=0.6)
    initials = [name for name in names if "".join(word[0] for word in name.split("_")) == key.lower()]
    return next(iter([*ends, *alike, *initials]), None)


def _remedy(detail: ErrorDetails, path: KeyPath, root: type[Section]) -> str:
    kind, value = detail["type"], detail["input"]
    if kind == "rule":
        return str(detail["ctx"]["remedy"])
    if kind == "extra_forbidden":
        return did_you_mean(str(path[-1]), keys_at(root, path[:-1]))
    about = describe(root, path)
    if kind == "missing" and isinstance(detail["loc"][-1], str):
        return f"add `{path[-1]}`. {about}"
    if kind == "literal_error" and isinstance(value, str):
        if (new := RENAMED_VALUES.get((dotted(path), value))) is not None:
            return f"{value} was renamed in version 0.2: write {new}"
        options = re.findall(r"'([^']+)'", str(detail["ctx"]["expected"]))
        close = difflib.get_close_matches(value.lower(), options, n=1, cutoff=0.6)
        return f"did you mean `{close[0]}`?" if close else about
    if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        return f"write a plain value without quotes or unit. {about}"
    return about


def _in_data(detail: ErrorDetails, data: Any) -> KeyPath:
    path: list[str | int] = []
    here = data
    parts = detail["loc"]
    for i, part in enumerate(parts):
        if _has(here, part):
            here = here[part]
        elif i < len(parts) - 1 or detail["type"] != "missing" or isinstance(part, int):
            continue  # the name of a member of a union, or an index missing from a list
        path.append(part)
    return tuple(path)


def _has(data: Any, part: str | int) -> bool:
    if isinstance(data, dict):
        return part in data
    return isinstance(data, list | tuple) and isinstance(part, int) and part < len(data)


RENAMED_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "data.held_out": "data.validation",
        "early_stop.windows": "early_stop.rungs",
        "early_stop.good": "early_stop.top_fraction",
        "early_stop.false_stop": "early_stop.max_false_stop_rate",
        "early_stop.max_bad_stops": "early_stop.max_false_discovery_rate",
        "early_stop.history": "early_stop.prior_sweeps",
        "early_stop.park": "early_stop.pause",
        "evaluate.confirm": "evaluate.replicates",
    }
)
"""Old to new key of the spec."""

RENAMED_VALUES: Final[Mapping[tuple[str, str], str]] = MappingProxyType({("checkpoint", "windows"): "rungs"})
"""Key of the spec and its old value, to the new value."""

RENAMED_COMMANDS: Final[Mapping[str, str]] = MappingProxyType({"settings": "presets"})
"""Old to new command of the CLI."""
