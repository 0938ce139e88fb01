"""The sample order of a trial: all domains together or in phases, and the weight of each domain.

Sources get their domains in ``data.train``; phases, replay and weights refer to domains, not to files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sweepft.spec.fields import Fraction, NonNegative, Section, invalid

CURRICULUM_KEYS: Final = ("data.strategy", "data.replay")
"""Keys of this module allowed in ``search.space``, besides ``data.mixture.DOMAIN``."""

_MIXTURE: Final = re.compile(r"data\.mixture\.([^.]+)")
DomainProblem = tuple[tuple[str | int, ...], str, str]
"""Key path, rule and remedy."""


def is_data_key(key: str) -> bool:
    """Whether a dotted key of the search space belongs to ``data`` rather than to ``train``."""
    return key.startswith("data.")


def is_mixture_key(key: str) -> bool:
    """Whether a dotted key is the weight of a domain."""
    return _MIXTURE.fullmatch(key) is not None


def _fixed(example: str) -> BeforeValidator:
    """Refuse a search dimension where a fixed value belongs."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and value.keys() & {"choice", "uniform", "log_uniform", "int_uniform"}:
            raise invalid(
                "must be a value, not a search dimension", f"to sweep it, add {example} to search.space"
            )
        return value

    return BeforeValidator(check)


class Phase(Section):
    """One phase of ``strategy: phased``."""

    domains: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """Domains of this phase. Together, the phases must name every domain of the training rows."""
    share: Fraction | None = None
    """Fraction of the budget. Phases without a share divide the rest in proportion to their rows, which gives them
    equally many passes."""


def _phases(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    if len(phases) == 1:
        raise invalid("must have at least two phases", "for a single phase use strategy: stacked")
    for i, phase in enumerate(phases):
        if len(set(phase.domains)) < len(phase.domains):
            raise invalid(f"must not name a domain twice in a phase (phase {i})", "remove one of them")
    given = [phase.share for phase in phases if phase.share is not None]
    total = round(sum(given), 9)
    if phases and (total > 1 or (total != 1) == (len(given) == len(phases))):
        rule = f"the shares must add up to 1; they add up to {total:g}"
        raise invalid(rule, "change the shares, or omit some: those phases divide the rest")
    return phases


class Curriculum(Section):
    """Order of the training samples."""

    strategy: Annotated[
        Literal["stacked", "phased"], _fixed("data.strategy: {choice: [stacked, phased]}")
    ] = "stacked"
    """`stacked` mixes all domains; `phased` trains the `phases` one after another. Can be swept as `data.strategy`."""
    phases: Annotated[tuple[Phase, ...], Field(strict=False), AfterValidator(_phases)] = ()
    """For `phased`: domains and length of each phase. Lengths are counted in samples, so a phase ends at the same
    sample
    for every batch size."""
    replay: Annotated[float, Field(ge=0, lt=1), _fixed("data.replay: {choice: [0.0, 0.1]}")] = 0.0
    """Fraction of every phase after the first that is drawn from domains of earlier phases. Can be swept as
    `data.replay`."""
    mixture: Mapping[str, Annotated[NonNegative, _fixed("data.mixture.DOMAIN: {choice: [1.0, 2.0]}")]] = {}
    """Sampling weight by domain, relative to 1 for domains without a weight. Can be swept as `data.mixture.DOMAIN`."""


def domain_problems(
    curriculum: Curriculum,
    swept: Mapping[str, Sequence[Any]],
    domains: Sequence[str],
) -> Iterator[DomainProblem]:
    """Check a curriculum against the domains of the training rows.

    Args:
        curriculum: Of the spec.
        swept: Values that can be proposed, by key of ``search.space``.
        domains: Domains of the training rows; ``""`` stands for rows without a domain.
    """
    weights = dict(curriculum.mixture)
    for key, values in swept.items():
        if (found := _MIXTURE.fullmatch(key)) is not None:
            weights[found[1]] = min((v for v in values if isinstance(v, int | float)), default=1.0)
            if found[1] not in domains:
                yield ("search", "space", key), _unknown(found[1]), _known(domains)
    for name in curriculum.mixture:
        if name not in domains:
            yield ("data", "mixture", name), _unknown(name), _known(domains)
    phased = "phased" in swept.get("data.strategy", (curriculum.strategy,))
    groups: list[Sequence[str]] = [domains]
    if phased and curriculum.phases:
        groups += [phase.domains for phase in curriculum.phases]
        yield from _phase_problems(curriculum, domains)
    if any(not any(weights.get(name, 1.0) > 0 for name in group) for group in groups):
        rule = "must leave rows to train on: all domains, or all domains of a phase, can have weight 0"
        yield ("data", "mixture"), rule, "give one of them a weight above 0"


def _phase_problems(curriculum: Curriculum, domains: Sequence[str]) -> Iterator[DomainProblem]:
    named = {name for phase in curriculum.phases for name in phase.domains}
    for i, phase in enumerate(curriculum.phases):
        for j, name in enumerate(phase.domains):
            if name not in domains:
                yield ("data", "phases", i, "domains", j), _unknown(name), _known(domains)
    if "" in domains:
        rule = "must name the domain of every training row; some rows have no domain"
        yield ("data", "phases"), rule, "set domain: NAME on their source and name it in a phase"
    missing = [name for name in domains if name and name not in named]
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        rule = f"must name every domain of the training rows; missing: {some}"
        yield ("data", "phases"), rule, "add them to a phase, or remove their rows from data.train"


def _unknown(name: str) -> str:
    return f"no training row has the domain {name!r}"


def _known(domains: Sequence[str]) -> str:
    named = [name for name in domains if name]
    some = ", ".join(named[:12]) + (", ..." if len(named) > 12 else "")
    return f"known domains: {some}" if some else "set domain: NAME on a source in data.train"
