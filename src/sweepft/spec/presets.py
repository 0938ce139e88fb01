"""Presets: published configurations that ``search.start_with`` may refer to by name.

A preset is a set of values of ``train`` and of the sample order. Loading a spec replaces the name by those of its
values that are swept, so the run folder holds plain values, and refuses a preset that the sweep cannot reproduce.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from sweepft.errors import Problem
from sweepft.spec.curriculum import is_data_key
from sweepft.spec.partial import PartialSpec
from sweepft.spec.problems import did_you_mean
from sweepft.spec.space import same
from sweepft.spec.sweep import train_dict
from sweepft.spec.yaml_source import Document, KeyPath

FEWEST_STEPS: Final = 40
"""Minimum optimizer steps for a meaningful trial: presets with fewer are refused, and ``sweepft plan`` warns about
batch
sizes with fewer."""


@dataclass(frozen=True)
class Preset:
    """A published configuration.

    Attributes:
        name: Name to use in ``search.start_with``.
        params: Fields of ``train`` and of ``data`` (``data.strategy``).
        about: One sentence of description.
        source: Publication.
    """

    name: str
    params: Mapping[str, Any]
    about: str
    source: str


def _named(name: str, about: str, source: str, **params: Any) -> tuple[str, Preset]:
    return name, Preset(name, MappingProxyType(params), about, source)


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(
    dict(
        (
            _named(
                "large-batch",
                "the largest batch size, a low constant learning rate, no warmup",
                "arXiv 2412.13337",
                batch_size=7680,
                learning_rate=2e-5,
                warmup=0.0,
                schedule="constant",
            ),
            _named(
                "lab",
                "about 4k samples per step, a constant learning rate after 25 warmup steps, without LAB's phases",
                "LAB, arXiv 2403.01081, as InstructLab trains it",
                batch_size=3840,
                learning_rate=2e-5,
                warmup={"steps": 25},
                schedule="constant",
            ),
            _named(
                "tulu",
                "small batches, a short warmup, then linear decay to zero",
                "TULU, arXiv 2306.04751 and 2311.10702",
                batch_size=128,
                learning_rate=2e-5,
                warmup=0.03,
                schedule="linear",
            ),
            _named(
                "orca-phased",
                "one phase after another without replay; batch size and learning rate are not published and are "
                "sampled",
                "Orca and Orca 2, arXiv 2306.02707 and 2311.11045: answers of ChatGPT, then of GPT-4",
                **{"data.strategy": "phased", "data.replay": 0.0},
            ),
        )
    )
)


def expand_presets(document: Document) -> tuple[dict[int, str], list[Problem]]:
    """Replace the presets in ``search.start_with`` by their values, without fields that are not swept.

    Returns:
        The names of the presets by index in ``start_with``, and a problem for each unknown name.
    """
    search = document.data.get("search")
    entries = search.get("start_with") if isinstance(search, dict) else None
    if not isinstance(search, dict) or not isinstance(entries, list | tuple):
        return {}, []
    space = search.get("space")
    swept = space if isinstance(space, dict) else {}
    names: dict[int, str] = {}
    problems = []
    expanded: list[Any] = list(entries)
    for i, entry in enumerate(entries):
        if not isinstance(entry, str):
            continue
        preset = PRESETS.get(entry)
        if preset is None:
            path: KeyPath = ("search", "start_with", i)
            remedy = f"{did_you_mean(entry, PRESETS)}; or write a mapping of keys to values"
            where = document.where(path)
            problems.append(Problem(where, f"search.start_with.{i}", "is not a known preset", remedy, entry))
            expanded[i] = {}
        else:
            names[i] = entry
            expanded[i] = {key: value for key, value in preset.params.items() if key in swept}
    document.data = {**document.data, "search": {**search, "start_with": expanded}}
    return names, problems


def check_presets(partial: PartialSpec, names: Mapping[int, str]) -> None:
    """Refuse presets that lie outside the search space or would train too few steps."""
    train, search = partial.train, partial.search
    if train is None or search is None or partial.data is None:
        return
    fixed = train_dict(train) | {f"data.{key}": value for key, value in partial.data.curriculum}
    for i, name in names.items():
        path: KeyPath = ("search", "start_with", i)
        if "data.strategy" in PRESETS[name].params and not partial.data.phases:
            remedy = "define data.phases, or remove the preset"
            partial.add(path, f"{name} trains in phases, but data.phases is not set", remedy)
            continue
        for key, value in PRESETS[name].params.items():
            dimension = search.space.get(key)
            if dimension is not None and not dimension.contains(value):
                rule = f"{name} has {key} {format_value(value)}, which is outside search.space.{key}"
                remedy = f"extend search.space.{key}, or write explicit values instead of the preset"
                partial.add(path, rule, remedy)
            elif dimension is None and not same(fixed.get(key), value):
                full = key if is_data_key(key) else f"train.{key}"
                rule = f"{name} has {key} {format_value(value)}, but {full} is fixed at another value"
                remedy = f"sweep {key}, or set {full} to that value, or remove the preset"
                partial.add(path, rule, remedy)
        budget, batch = train.budget.samples, int(PRESETS[name].params.get("batch_size", 0))
        if budget is not None and batch and -(-budget // batch) < FEWEST_STEPS:
            rule = f"{name} would train {-(-budget // batch)} optimizer steps: {budget} samples in batches of {batch}"
            samples = FEWEST_STEPS * batch
            remedy = f"raise train.budget to {samples} samples ({FEWEST_STEPS} steps), or remove the preset"
            partial.add(path, rule, remedy)


def format_value(value: Any) -> str:
    """A value in few characters: ``2e-05``, ``25 steps``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{format_value(part)} {name}" for name, part in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
