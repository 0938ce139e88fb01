"""How the samples of a trial are put in order: all sources at once or in phases, and how often each domain comes.

One idea: everything is said by domain. A source gets its domain in ``data.train``; phases, replay and weights name
domains, and no file is named twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from sweepft.spec.fields import Fraction, NonNegative, Section, invalid

CURRICULUM_KEYS: Final = ("data.strategy", "data.replay")


"""What ``search.space`` may vary here, beside ``data.mixture.DOMAIN``."""


_MIXTURE: Final = re.compile(r"data\.mixture\.([^.]+)")


Fault = tuple[tuple[str | int, ...], str, str]


"""Key path, rule and remedy."""


def of_data(key: str) -> bool:
    """Whether a dotted key of a search space lies in ``data`` rather than in ``train``."""
    return key.startswith("data.")


def is_mixture_key(key: str) -> bool:
    """Whether a dotted key is the weight of a domain."""
    return _MIXTURE.fullmatch(key) is not None


def _fixed(example: str) -> BeforeValidator:
    """Refuse a search dimension that stands where a value belongs."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and value.keys() & {"choice", "uniform", "log_uniform", "int_uniform"}:
            raise invalid("is a value here; what is varied stands in search.space", f"write {example} there")
        return value

    return BeforeValidator(check)


class Phase(Section):
    """One phase of ``strategy: phased``."""

    domains: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    """Domains trained on in this phase; together the phases name every domain of the training rows."""
    share: Fraction | None = None
    """Share of the budget; phases without one divide what is left by their rows, so that each has as many passes."""


def _phases(phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    if len(phases) == 1:
        raise invalid("must be two phases or more", "one phase is strategy: stacked")
    for i, phase in enumerate(phases):
        if len(set(phase.domains)) < len(phase.domains):
            raise invalid(f"must not name a domain twice in a phase (phase {i})", "remove one of them")
    given = [phase.share for phase in phases if phase.share is not None]
    total = round(sum(given), 9)
    if phases and (total > 1 or (total != 1) == (len(given) == len(phases))):
        rule = f"must share the budget: the shares add up to {total:g}"
        raise invalid(rule, "let them add up to 1, or leave some out, which then divide what is left")
    return phases


class Curriculum(Section):
    """How the samples of a trial are put in order."""

    strategy: Annotated[
        Literal["stacked", "phased"], _fixed("data.strategy: {choice: [stacked, phased]}")
    ] = "stacked"
    """`stacked`: all domains at once; `phased`: one of `phases` after another. Can be swept as `data.strategy`."""
    phases: Annotated[tuple[Phase, ...], Field(strict=False), AfterValidator(_phases)] = ()
    """For `phased`: which domains when, and for how long. Counted in samples, so that a phase ends at the same sample
    whatever the batch size."""
    replay: Annotated[float, Field(ge=0, lt=1), _fixed("data.replay: {choice: [0.0, 0.1]}")] = 0.0
    """Share of every phase but the first that goes to the domains of earlier phases. Can be swept as `data.replay`."""
    mixture: Mapping[str, Annotated[NonNegative, _fixed("data.mixture.DOMAIN: {choice: [1.0, 2.0]}")]] = {}
    """Weight by domain: how often each of its rows comes where a row of a domain without one comes once. Can be swept
    as `data.mixture.DOMAIN`."""


def domain_faults(
    curriculum: Curriculum,
    swept: Mapping[str, Sequence[Any]],
    domains: Sequence[str],
) -> Iterator[Fault]:
    """What is wrong between a curriculum and the domains that the training rows have.

    Args:
        curriculum: Of the spec.
        swept: Values that can be proposed, by key of ``search.space``.
        domains: Domains of the training rows; the empty text stands for rows that have none.
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
        yield from _phase_faults(curriculum, domains)
    if any(not any(weights.get(name, 1.0) > 0 for name in group) for group in groups):
        rule = "must leave something to train on: all domains of a phase, or all there are, may have weight 0"
        yield ("data", "mixture"), rule, "give one of them a weight above 0"


def _phase_faults(curriculum: Curriculum, domains: Sequence[str]) -> Iterator[Fault]:
    named = {name for phase in curriculum.phases for name in phase.domains}
    for i, phase in enumerate(curriculum.phases):
        for j, name in enumerate(phase.domains):
            if name not in domains:
                yield ("data", "phases", i, "domains", j), _unknown(name), _known(domains)
    if "" in domains:
        rule = "must name the domain of every training row, and some rows have none"
        yield ("data", "phases"), rule, "give their source a domain: NAME, and name it in a phase"
    missing = [name for name in domains if name and name not in named]
    if missing:
        some = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        rule = f"must name every domain of the training rows; missing: {some}"
        yield ("data", "phases"), rule, "add them to a phase, or take their rows out of data.train"


def _unknown(name: str) -> str:
    return f"no training row has the domain {name!r}"


def _known(domains: Sequence[str]) -> str:
    named = [name for name in domains if name]
    some = ", ".join(named[:12]) + (", ..." if len(named) > 12 else "")
    return f"the domains are: {some}" if some else "give a source of data.train a domain: NAME"
