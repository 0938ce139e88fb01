"""Presets: published configurations that ``search.start_with`` and ``search.baseline`` may refer to by name.

A preset is a set of values of ``train`` and of the sample order. Loading a spec replaces the name by those of its
values that are swept, so the run folder holds plain values, and refuses a preset that the sweep cannot reproduce.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final, Literal

from sweepft.errors import Problem
from sweepft.spec.curriculum import is_data_key
from sweepft.spec.fields import flat
from sweepft.spec.partial import PartialSpec
from sweepft.spec.partial import partial as read_partial
from sweepft.spec.problems import did_you_mean
from sweepft.spec.sections import Lora
from sweepft.spec.space import same
from sweepft.spec.sweep import SweepSpec, is_sweepable, train_dict
from sweepft.spec.yaml_source import Document, KeyPath, read_value

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
        date: Year and month of it.
        trains: ``full`` for all weights, ``lora`` for adapters; None where it makes no difference.
    """

    name: str
    params: Mapping[str, Any]
    about: str
    source: str
    date: str
    trains: Literal["full", "lora"] | None = None


def _read_presets() -> dict[str, Preset]:
    text = files("sweepft.spec").joinpath("presets.yaml").read_text(encoding="utf-8")
    entries = read_value(text)
    return {
        entry["name"]: Preset(**{**entry, "params": MappingProxyType(entry["params"])}) for entry in entries
    }


PRESETS: Final[Mapping[str, Preset]] = MappingProxyType(_read_presets())


def expand_presets(document: Document) -> tuple[dict[KeyPath, str], list[Problem]]:
    """Replace the presets in ``search.start_with`` and ``search.baseline`` by those of their values that are swept.

    Returns:
        The names of the presets by their place, and a problem for each unknown name.
    """
    search = document.data.get("search")
    if not isinstance(search, dict):
        return {}, []
    space = search.get("space")
    swept = space if isinstance(space, dict) else {}
    names: dict[KeyPath, str] = {}
    problems = []

    def expanded(entry: Any, path: KeyPath) -> Any:
        if not isinstance(entry, str):
            return entry
        preset = PRESETS.get(entry)
        if preset is None:
            remedy = f"{did_you_mean(entry, PRESETS)}; or write a mapping of keys to values"
            key = ".".join(map(str, path))
            problems.append(Problem(document.where(path), key, "is not a known preset", remedy, entry))
            return {}
        names[path] = entry
        return {key: value for key, value in preset.params.items() if key in swept}

    changed = {}
    if "baseline" in search:
        changed["baseline"] = expanded(search["baseline"], ("search", "baseline"))
    entries = search.get("start_with")
    if isinstance(entries, list | tuple):
        changed["start_with"] = [
            expanded(entry, ("search", "start_with", i)) for i, entry in enumerate(entries)
        ]
    document.data = {**document.data, "search": {**search, **changed}}
    return names, problems


def check_presets(partial: PartialSpec, names: Mapping[KeyPath, str]) -> None:
    """Refuse presets that lie outside the search space or would train too few steps."""
    for path, name in names.items():
        if (problem := preset_problem(partial, PRESETS[name])) is not None:
            partial.add(path, *problem)


def preset_problem(partial: PartialSpec, preset: Preset) -> tuple[str, str] | None:
    """Rule and remedy if a sweep cannot reproduce a preset; None if it can, or a section is invalid."""
    train, search, name = partial.train, partial.search, preset.name
    if train is None or search is None or partial.data is None:
        return None
    if "data.strategy" in preset.params and not partial.data.phases:
        return (
            f"{name} trains in phases, but data.phases is not set",
            "define data.phases, or remove the preset",
        )
    lora = train.lora is not None or any(key.startswith("lora.") for key in search.space)
    if preset.trains is not None and lora != (preset.trains == "lora"):
        own = "adapters" if preset.trains == "lora" else "all weights"
        remedy = "add train.lora" if preset.trains == "lora" else "remove train.lora"
        return f"{name} trains {own}, and the sweep does not", f"{remedy}, or remove the preset"
    fixed = flat(train_dict(train)) | train_dict(train)
    if lora and train.lora is None:
        fixed |= flat(Lora().model_dump(mode="json"), "lora")
    fixed |= {f"data.{key}": value for key, value in partial.data.curriculum}
    for key, value in preset.params.items():
        dimension = search.space.get(key)
        batch = preset.params.get("batch_size", train.batch_size)
        if dimension is not None and not dimension.contains(value, batch):
            return (
                f"{name} has {key} {format_value(value)}, which is outside search.space.{key}",
                f"extend search.space.{key}, or write explicit values instead of the preset",
            )
        if dimension is None and not same(fixed.get(key), value):
            full = key if is_data_key(key) else f"train.{key}"
            sweep = f"sweep {key}, or " if is_sweepable(key) else ""
            return (
                f"{name} has {key} {format_value(value)}, but {full} is fixed at another value",
                f"{sweep}set {full} to that value, or remove the preset",
            )
    budget, batch = train.budget.samples, int(preset.params.get("batch_size", 0))
    if budget is not None and batch and -(-budget // batch) < FEWEST_STEPS:
        samples = FEWEST_STEPS * batch
        return (
            f"{name} would train {-(-budget // batch)} optimizer steps: {budget} samples in batches of {batch}",
            f"raise train.budget to {samples} samples ({FEWEST_STEPS} steps), or remove the preset",
        )
    return None


def presets_for(spec: SweepSpec) -> dict[str, tuple[str, str] | None]:
    """Every preset, with rule and remedy where the sweep cannot reproduce it."""
    found = read_partial(Document("spec", spec.to_dict()), None)
    return {name: preset_problem(found, preset) for name, preset in PRESETS.items()}


def format_value(value: Any) -> str:
    """A value in few characters: ``2e-05``, ``25 steps``."""
    if isinstance(value, Mapping):
        return ", ".join(f"{format_value(part)} {name}" for name, part in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)
