"""What the models say about themselves: which keys stand where, and what each means.

Error messages, the reference and the schema read the models through this, so that none can disagree with
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

from pydantic.fields import FieldInfo

from sweepft.spec.fields import Section

__all__ = ["describe", "keys_at", "leaf_fields", "sections_in"]


def sections_in(annotation: Any) -> list[type[Section]]:
    """Sections that a type holds, through unions, sequences and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_in(part)]


def leaf_fields(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a section, nested sections opened; a field of several forms counts itself too."""
    for name, info in section.model_fields.items():
        inner = sections_in(info.annotation)
        if not inner or info.annotation not in inner:
            yield prefix + name
        for model in inner:
            yield from leaf_fields(model, f"{prefix}{name}.")


def keys_at(root: type[Section], path: Sequence[str | int]) -> list[str]:
    """Keys that may stand in the mapping at ``path``."""
    models = _models_at(root, path)
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def describe(root: type[Section], path: Sequence[str | int]) -> str:
    """First sentence on the field at ``path``, or on the nearest field above it that has one."""
    for end in range(len(path), 0, -1):
        for model in _models_at(root, path[: end - 1]):
            info: FieldInfo | None = model.model_fields.get(str(path[end - 1]))
            if info is not None and info.description:
                return f"{path[end - 1]}: {' '.join(info.description.split())}"
    return "see docs/spec.md"


def _models_at(root: type[Section], path: Sequence[str | int]) -> list[type[Section]]:
    models = [root]
    for part in path:
        infos = [
            model.model_fields[part]
            for model in models
            if isinstance(part, str) and part in model.model_fields
        ]
        if infos:  # anything else is an index of a list or a key of a free mapping: the same models lie below
            models = [inner for info in infos for inner in sections_in(info.annotation)]
    return models
