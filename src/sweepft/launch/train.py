"""Train one configuration alone - ``best/spec.yaml`` - by the engine that found it: a sweep of one trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepft.best.write import FACTS_FILE
from sweepft.errors import SweepftError
from sweepft.launch.conduct import Finished
from sweepft.launch.run import run_sweep
from sweepft.spec import SweepSpec, load, plan

__all__ = ["horizon_notes", "train_alone"]

_RATE = "train.learning_rate="


def train_alone(
    spec_path: Path,
    overrides: Sequence[str],
    out: Path,
    *,
    address: str | None = None,
    console: Console | None = None,
) -> Finished:
    """Train the one configuration a spec holds.

    Args:
        spec_path: A spec whose space has one point, as ``best/spec.yaml``.
        overrides: ``train.budget.samples=50000`` and the like; ``train.learning_rate=...`` too, which there is the
            space's one dimension.
        out: Run folder; must not hold a run yet.
        address: Ray cluster to join, None for a local one.
        console: Where progress is shown.
    Raises:
        SpecError: With every problem found.
        SweepftError: If the space has more than one point.
    """
    console = console or Console()
    moved = [
        f"search.space.learning_rate.choice=[{o.removeprefix(_RATE)}]" if o.startswith(_RATE) else o
        for o in overrides
    ]
    spec = load(spec_path, moved)
    wide = [key for key, dimension in spec.search.space.items() if len(dimension.choices) != 1]
    if wide:
        raise SweepftError(
            f"{spec_path}: search.space.{wide[0]}: has more than one value: this is a sweep\n"
            f"  use sweepft run, or leave one value: --set 'search.space.{wide[0]}.choice=[VALUE]'"
        )
    file = spec_path.with_name(FACTS_FILE)
    before = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    for note in horizon_notes(spec, before) if before else ():
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    finished = run_sweep(spec, out, address=address, console=console)
    best = finished.view.best
    if before and best is not None:
        told = f"held-out loss {best.objective:.4f}; in the sweep {before['trial_id']} had {before['objective']:.4f}"
        console.print(told, highlight=False, markup=False)
    return finished


def horizon_notes(spec: SweepSpec, before: Mapping[str, Any]) -> list[str]:
    """What changes when the settings are trained for another number of samples than in their sweep.

    Args:
        spec: Of one point; its budget in samples.
        before: ``best.json``.
    """
    samples, was = spec.train.budget.samples, int(before["budget_samples"])
    if samples is None or samples == was:
        return []
    config = {key: dimension.choices[0] for key, dimension in spec.search.space.items()}
    settings = spec.trial_settings(config)
    steps = plan(settings, samples)
    longer = samples > was
    notes = [
        f"{'longer' if longer else 'shorter'} than in the sweep: {was} -> {samples} samples, "
        f"{before['planned_steps']} -> {steps.planned_steps} steps"
    ]
    if settings.schedule not in ("constant", "inverse_sqrt"):
        notes.append(
            f"the {settings.schedule} schedule {'stretches' if longer else 'shrinks'} to the new end"
        )
    if steps.warmup_steps != before["warmup_steps"]:
        notes.append(f"warmup changes with the steps: {before['warmup_steps']} -> {steps.warmup_steps}")
    notes.append(
        f"the best learning rate moves with the horizon (it tends to {'fall' if longer else 'rise'}): "
        f"{settings.learning_rate:.3g} was best over {was} samples; for a much "
        f"{'longer' if longer else 'shorter'} run, sweep it again around there"
    )
    return notes
