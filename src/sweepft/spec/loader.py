"""From a YAML file to a frozen spec, or to all of its problems at once.

The order of work: read, override, put values in the place of names, validate each section, check across sections,
look at the files. Nothing here needs torch, Ray or the network.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sweepft.errors import Problem, SpecError
from sweepft.spec.checks import check_all
from sweepft.spec.fields import leaf_fields
from sweepft.spec.files import check_files as _check_files
from sweepft.spec.files import check_prior_sweeps as _check_history
from sweepft.spec.partial import partial
from sweepft.spec.presets import check_presets, expand_presets
from sweepft.spec.sections import Train
from sweepft.spec.sweep import SweepSpec, is_sweepable
from sweepft.spec.yaml_source import Document, read, to_yaml


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    check_files: bool = True,
    check_prior_sweeps: bool = True,
) -> SweepSpec:
    """Read a sweep's YAML file.

    Args:
        path: The file. Relative paths in it and in overrides start from its folder; the spec's are absolute.
        overrides: ``key.path=value`` texts, applied in order; values are YAML, null removes a key.
        check_files: Whether model and data files must be there.
        check_prior_sweeps: Whether ``early_stop.prior_sweeps`` must be readable: no more so once a sweep has begun.

    Raises:
        SpecError: With every problem found.
    """
    path = Path(path)
    document = read(path, str(path))
    fields = set(leaf_fields(Train))
    problems = document.override(overrides, lambda key: key in fields or is_sweepable(key))
    if problems:
        raise SpecError(problems)
    return _validated(document, path.absolute().parent, check_files, check_files and check_prior_sweeps)


def from_dict(data: Mapping[str, Any], *, check_files: bool = False) -> SweepSpec:
    """A spec from plain data such as :meth:`SweepSpec.to_dict` gives; relative paths stay relative.

    Raises:
        SpecError: With every problem found.
    """
    return _validated(Document("spec", dict(data)), None, check_files, check_files)


def dump(spec: SweepSpec) -> str:
    """The resolved spec as YAML that :func:`load` reads back equal."""
    return to_yaml(spec.to_dict())


def _validated(
    document: Document, root: Path | None, check_files: bool, check_prior_sweeps: bool
) -> SweepSpec:
    names, unknown = expand_presets(document)
    found = partial(document, root)
    found.problems += unknown
    check_presets(found, names)
    check_all(found)
    if check_files:
        _check_files(found)
    if check_prior_sweeps:
        _check_history(found)
    if found.problems:
        raise SpecError(sorted(found.problems, key=_line))
    return SweepSpec.model_validate(document.data, context={"root": root})


def _line(problem: Problem) -> int:
    line = re.search(r":(\d+)$", problem.where)
    return int(line[1]) if line else 0
