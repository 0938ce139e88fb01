"""Load a sweep's YAML file as a frozen spec, or report all of its problems at once.

Steps: read the YAML, apply overrides, expand presets, validate each section, check between sections, check the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweepft.errors import Problem, SpecError
from sweepft.spec.checks import check_all, check_secrets
from sweepft.spec.fields import leaf_fields
from sweepft.spec.files import check_files as _check_files
from sweepft.spec.files import check_learn_from as _check_learn_from
from sweepft.spec.files import check_prior_sweeps as _check_prior_sweeps
from sweepft.spec.partial import MAX_PROBLEMS, partial
from sweepft.spec.presets import check_presets, expand_presets
from sweepft.spec.sections import Train
from sweepft.spec.sweep import SweepSpec, is_sweepable
from sweepft.spec.yaml_source import Document, read, to_yaml


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    check_files: bool = True,
    recorded: bool = False,
) -> SweepSpec:
    """Read a sweep's YAML file.

    Args:
        path: The file. Relative paths in it and in overrides are resolved against its folder.
        overrides: ``key.path=value`` strings, applied in order. Values are YAML; null removes a key.
        check_files: Check that model and data files exist.
        recorded: Whether it is the spec of a run that has started: its prior sweeps are not read again, and only
            overrides are searched for secrets.

    Raises:
        SpecError: With every problem.
    """
    path = Path(path)
    document = read(path, str(path))
    fields = set(leaf_fields(Train))
    problems = document.override(overrides, lambda key: key in fields or is_sweepable(key))
    if problems:
        raise SpecError(problems)
    return _validated(document, path.absolute().parent, check_files, recorded)


def from_dict(data: Mapping[str, Any], *, check_files: bool = False, recorded: bool = False) -> SweepSpec:
    """A spec from plain data, e.g. of :meth:`SweepSpec.to_dict`; relative paths stay relative.

    Args:
        data: The sections.
        check_files, recorded: See :func:`load`.
    Raises:
        SpecError: With every problem.
    """
    return _validated(Document("spec", dict(data)), None, check_files, recorded)


def dump(spec: SweepSpec) -> str:
    """The resolved spec as YAML; :func:`load` reads it back as an equal spec."""
    return to_yaml(spec.to_dict())


def _validated(document: Document, root: Path | None, check_files: bool, recorded: bool) -> SweepSpec:
    names, unknown = expand_presets(document)
    found = partial(document, root)
    found.problems += unknown
    check_presets(found, names)
    check_all(found)
    if check_files:
        _check_files(found)
    if check_files and not recorded:
        _check_prior_sweeps(found)
        _check_learn_from(found)
    check_secrets(found, document.data, overrides_only=recorded)
    if not found.problems:
        spec = SweepSpec.model_validate(document.data, context={"root": root})
        # Again, now with the spec's folder before its paths: a run is resumed from this form.
        check_secrets(found, spec.to_dict(), overrides_only=recorded)
    if found.problems:
        raise SpecError(sorted(found.problems, key=_line)[:MAX_PROBLEMS])
    return spec


def _line(problem: Problem) -> int:
    line = re.search(r":(\d+)$", problem.where)
    return int(line[1]) if line else 0
