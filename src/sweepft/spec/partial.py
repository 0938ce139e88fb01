"""A spec that may still be partly wrong, so that one run of the checks finds every problem.

One idea: where a section does not validate, the offending keys are left out and it is tried again; checks
between sections then see what can be seen, and what they say about a key that is already reported is dropped.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sweepft.errors import Problem
from sweepft.spec.evaluation import Evaluate
from sweepft.spec.fields import Section, sections_in
from sweepft.spec.problems import paths_of, problems_of
from sweepft.spec.sections import Data, EarlyStop, Model, Resources, Search, Train
from sweepft.spec.sweep import SweepSpec
from sweepft.spec.yaml_source import Document, KeyPath, dotted

_SectionT = TypeVar("_SectionT", bound=Section)


@dataclass
class PartialSpec:
    """Sections that could be read (None where not), and the problems so far."""

    document: Document
    model: Model | None = None
    data: Data | None = None
    train: Train | None = None
    search: Search | None = None
    early_stop: EarlyStop | None = None
    resources: Resources | None = None
    evaluate: Evaluate | None = None
    problems: list[Problem] = field(default_factory=list)

    def add(self, path: KeyPath, rule: str, remedy: str, value: Any = None) -> None:
        """Report a problem, unless one is known at this key, above it or below it."""
        key = dotted(path)
        for known in (problem.key for problem in self.problems):
            if key == known or key.startswith(known + ".") or known.startswith(key + "."):
                return
        self.problems.append(Problem(self.document.where(path), key, rule, remedy, value))


def partial(document: Document, root: Path | None) -> PartialSpec:
    """Validate the sections of a document, each as far as it goes.

    Args:
        document: What was read.
        root: Folder that relative paths start from; None leaves them as they are.
    """
    result = PartialSpec(document)
    data = document.data
    try:
        SweepSpec.model_validate(data, context={"root": root})
    except ValidationError as error:
        result.problems = problems_of(error, SweepSpec, data, document.where)
    for name in ("model", "data", "train", "search", "early_stop", "resources"):
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
    """Remove the innermost mapping key on ``path`` that is there; False when there is none to remove.

    Whole entries of lists stay, lest the places of later entries shift.
    """
    chain: list[tuple[dict[str, Any], str]] = []
    here = data
    for part in path:
        if isinstance(here, dict) and part in here and isinstance(part, str):
            chain.append((here, part))
        elif not isinstance(here, list):
            # A required key is missing: the mapping that lacks it must go.
            break
        here = here[part]
    if not chain:
        return False
    parent, key = chain[-1]
    del parent[key]
    return True
