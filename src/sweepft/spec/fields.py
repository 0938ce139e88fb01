"""Field types of the spec, the base class of its sections, and look-ups of keys and descriptions in them.

The docstring below a field is its documentation: the reference, the JSON schema and the remedies of errors are
generated from it. State units there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

Seed = Annotated[int, Field(ge=0, lt=2**32)]
PositiveInt = Annotated[int, Field(gt=0, le=2**53)]  # larger numbers have no exact float
NonNegativeInt = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class Section(BaseModel):
    """A mapping in the spec: frozen, without unknown keys, and strict (text is not converted to numbers or back)."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


def invalid(rule: str, remedy: str) -> PydanticCustomError:
    """The error that a validator raises; ``rule`` and ``remedy`` as in :class:`sweepft.errors.Problem`."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "remedy": remedy})


def exactly_one(section: Section, names: Sequence[str]) -> None:
    """Check that exactly one of the fields is given."""
    given = [name for name in names if getattr(section, name) is not None]
    if len(given) != 1:
        found = " and ".join(given) or "none"
        raise invalid(f"must have exactly one of {', '.join(names)}; {found} given", "give exactly one")


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
_FILE_SUFFIXES = (
    *(".jsonl", ".ndjson", ".json", ".gz", ".parquet", ".arrow", ".txt", ".csv", ".tsv"),
    *(".zst", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".7z"),
)


def is_hub_id(path: str) -> bool:
    """Whether ``path`` has the form ``org/name`` of a hub repository, which need not exist."""
    return _HUB_ID.match(path) is not None and not path.endswith(_FILE_SUFFIXES)


def has_pattern(path: str) -> bool:
    """Whether ``path`` is a pattern of several files, such as ``rows/*.jsonl``."""
    return any(sign in path for sign in "*?[")


def is_template_file(name: str) -> bool:
    """Whether a chat template is a file rather than a built-in name."""
    return "/" in name or name.endswith((".jinja", ".j2", ".txt"))


def _absolute(path: str, info: ValidationInfo) -> str:
    root = (info.context or {}).get("root")
    expanded = os.path.expanduser(path)
    if root is None or os.path.isabs(expanded):
        return expanded
    joined = os.path.normpath(Path(root) / expanded)
    return path if is_hub_id(path) and not os.path.exists(joined) else joined


def _local(path: str, info: ValidationInfo) -> str:
    root = (info.context or {}).get("root")
    expanded = os.path.expanduser(path)
    return expanded if root is None else os.path.normpath(Path(root) / expanded)


def path_problem(path: str) -> str | None:
    """Why the system cannot look a path up, or None where it can, whether or not anything is there."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return f"cannot be looked up: {error.strerror or error}"
    except ValueError as error:
        return f"cannot be a path: {error}"
    return None


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


LocalPath = Annotated[str, Field(min_length=1), AfterValidator(_local)]
"""A local path, relative to the spec file's folder."""

Paths = Annotated[
    tuple[LocalPath, ...],
    Field(strict=False),
    BeforeValidator(_listed, json_schema_input_type=str | list[str]),
]
"""One local path or a list of them, relative to the spec file's folder."""


def _template(name: str, info: ValidationInfo) -> str:
    return _absolute(name, info) if is_template_file(name) else name


Source = Annotated[str, Field(min_length=1), AfterValidator(_absolute)]
"""A local path, relative to the spec file's folder, or a hub id ``org/name``."""

TemplateName = Annotated[str, Field(min_length=1), AfterValidator(_template)]


class WarmupSteps(Section):
    """Warmup in optimizer steps."""

    steps: NonNegativeInt
    """Optimizer steps of linear warmup, for every batch size."""


def _warmup_kind(value: Any) -> str:
    return "as_steps" if isinstance(value, dict | WarmupSteps) else "as_fraction"


Warmup = Annotated[
    Annotated[Annotated[float, Field(ge=0, lt=1)], Tag("as_fraction")]
    | Annotated[WarmupSteps, Tag("as_steps")],
    Discriminator(_warmup_kind),
]


class MicroTokens(Section):
    """Micro-batch in tokens."""

    tokens: PositiveInt
    """Tokens per forward pass and rank, packed from as many samples as fit."""


def _targets_kind(value: Any) -> str:
    return "as_word" if isinstance(value, str) else "as_list"


TargetModules = Annotated[
    Annotated[Literal["all-linear"], Tag("as_word")]
    | Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, strict=False), Tag("as_list")
    ],
    Discriminator(_targets_kind),
]


def _switch_kind(value: Any) -> str:
    return "as_word" if isinstance(value, str) else "as_switch"


AutoSwitch = Annotated[
    Annotated[bool, Tag("as_switch")] | Annotated[Literal["auto"], Tag("as_word")],
    Discriminator(_switch_kind),
]


def _micro_batch_kind(value: Any) -> str:
    if isinstance(value, dict | MicroTokens):
        return "as_tokens"
    return "as_word" if isinstance(value, str) else "as_number"


MicroBatch = Annotated[
    Annotated[PositiveInt, Tag("as_number")]
    | Annotated[Literal["auto"], Tag("as_word")]
    | Annotated[MicroTokens, Tag("as_tokens")],
    Discriminator(_micro_batch_kind),
]


BatchSize = Annotated[
    Annotated[PositiveInt, Tag("as_number")] | Annotated[Literal["auto"], Tag("as_word")],
    Discriminator(_micro_batch_kind),
]


class CheckpointEvery(Section):
    """Checkpoints at rungs, with a minimum interval."""

    minutes: Positive
    """Minimum minutes between two checkpoints."""


def _checkpoint_kind(value: Any) -> str:
    return "as_minutes" if isinstance(value, dict | CheckpointEvery) else "as_word"


Checkpoint = Annotated[
    Annotated[Literal["auto", "none", "rungs"], Tag("as_word")]
    | Annotated[CheckpointEvery, Tag("as_minutes")],
    Discriminator(_checkpoint_kind),
]


def sections_in(annotation: Any) -> list[type[Section]]:
    """The sections inside a type, including those in unions, sequences and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections_in(part)]


def leaf_fields(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Dotted keys of a section and its nested sections. A field that may also be a plain value yields its own key
    too.
    """
    for name, info in section.model_fields.items():
        inner = sections_in(info.annotation)
        if not inner or info.annotation not in inner:
            yield prefix + name
        for model in inner:
            yield from leaf_fields(model, f"{prefix}{name}.")


def flat(value: Any, key: str = "", *, without: Sequence[Any] = ()) -> dict[str, Any]:
    """Nested mappings as dotted keys, but for values in ``without``. An empty mapping is a value."""
    if isinstance(value, Mapping) and value:
        parts = (
            flat(part, f"{key}.{name}" if key else str(name), without=without) for name, part in value.items()
        )
        return {k: v for part in parts for k, v in part.items()}
    return {} if value in without else {key: value}


def keys_at(root: type[Section], path: Sequence[str | int]) -> list[str]:
    """The keys allowed in the mapping at ``path``."""
    models = _models_at(root, path)
    return list(dict.fromkeys(name for model in models for name in model.model_fields))


def describe(root: type[Section], path: Sequence[str | int]) -> str:
    """The description of the field at ``path``, or of the nearest field above it that has one."""
    for end in range(len(path), 0, -1):
        for model in _models_at(root, path[: end - 1]):
            info: FieldInfo | None = model.model_fields.get(str(path[end - 1]))
            if info is not None and info.description:
                return f"{path[end - 1]}: {' '.join(info.description.split())}"
    return "see docs/reference/spec.md"


def _models_at(root: type[Section], path: Sequence[str | int]) -> list[type[Section]]:
    models = [root]
    for part in path:
        infos = [
            model.model_fields[part]
            for model in models
            if isinstance(part, str) and part in model.model_fields
        ]
        if infos:  # otherwise an index of a list or a key of a free mapping, which have the same models below
            models = [inner for info in infos for inner in sections_in(info.annotation)]
    return models
