"""A partly valid spec, so that a single run of the checks finds every problem.

If a section does not validate, the invalid keys are removed and it is validated again. Checks between sections then
use what is left, and further problems at a key that is already reported are dropped.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from sweepft.errors import Problem
from sweepft.spec.evaluation import Evaluate
from sweepft.spec.fields import Section, sections_in
from sweepft.spec.objective import Objective
from sweepft.spec.problems import paths_of, problems_of
from sweepft.spec.sections import Data, EarlyStop, Keep, Model, Resources, Search, Train
from sweepft.spec.sweep import SweepSpec
from sweepft.spec.yaml_source import Document, KeyPath, dotted

_SectionT = TypeVar("_SectionT", bound=Section)
MAX_PROBLEMS: Final = 100
"""More are not looked for: their number would only depend on the size of the file."""


@dataclass
class PartialSpec:
    """The sections that could be validated (None for the others), and the problems found so far."""

    document: Document
    model: Model | None = None
    data: Data | None = None
    train: Train | None = None
    search: Search | None = None
    objective: Objective | None = None
    early_stop: EarlyStop | None = None
    resources: Resources | None = None
    keep: Keep | None = None
    evaluate: Evaluate | None = None
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: KeyPath, rule: str, remedy: str, value: Any = None) -> None:
        """Report a problem, unless one is already reported at this key, above it or below it."""
        if len(self.problems) >= MAX_PROBLEMS:
            return
        key = dotted(path)
        for known in (problem.key for problem in self.problems):
            if key == known or key.startswith(known + ".") or known.startswith(key + "."):
                return
        self.problems.append(Problem(self.document.where(path), key, rule, remedy, value))


def partial(document: Document, root: Path | None) -> PartialSpec:
    """Validate each section of a document as far as possible; relative paths are resolved against ``root``."""
    result = PartialSpec(document)
    data = document.data
    try:
        SweepSpec.model_validate(data, context={"root": root})
    except ValidationError as error:
        result.problems = problems_of(error, SweepSpec, data, document.where, most=MAX_PROBLEMS)
    for name in ("model", "data", "train", "search", "objective", "early_stop", "resources", "keep"):
        (section,) = sections_in(SweepSpec.model_fields[name].annotation)
        setattr(result, name, _salvage(section, data.get(name, {}), root))
    if isinstance(data.get("evaluate"), dict):
        result.evaluate = _salvage(Evaluate, data["evaluate"], root)
    return result


def _salvage(section: type[_SectionT], data: Any, root: Path | None) -> _SectionT | None:
    data = copy.deepcopy(data)
    for _ in range(8):
        try:
            return section.model_validate(data, context={"root": root})
        except ValidationError as error:
            pruned = [_prune(data, path) for path in paths_of(error, data)]
            if not all(pruned):
                return None
    return None


def _prune(data: Any, path: KeyPath) -> bool:
    """Remove the innermost existing mapping key on ``path``; False if there is none.

    List entries stay, so that the places of later entries do not shift.
    """
    chain: list[tuple[dict[str, Any], str]] = []
    here = data
    for part in path:
        if isinstance(here, dict) and part in here and isinstance(part, str):
            chain.append((here, part))
        elif not isinstance(here, list):
            break  # a required key is missing: remove the mapping that lacks it
        here = here[part]
    if not chain:
        return False
    parent, key = chain[-1]
    del parent[key]
    return True
