"""Trains one configuration by itself, as a sweep of one trial: the winner for another budget, or any trial again."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepft.bounded_json import read_json_file
from sweepft.driver.start import start_sweep
from sweepft.driver.sweep import SweepResult
from sweepft.errors import SweepftError
from sweepft.export.write import FACTS_FILE, write_trial_spec
from sweepft.ledger import winner
from sweepft.output import sweep_console
from sweepft.spec import SweepSpec, load

_RATE = "train.learning_rate="


def train_alone(
    spec_path: Path,
    overrides: Sequence[str],
    out: Path,
    *,
    address: str | None = None,
    console: Console | None = None,
) -> SweepResult:
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
    console = sweep_console(console)
    moved = [
        f"search.space.learning_rate.choice=[{o.removeprefix(_RATE)}]" if o.startswith(_RATE) else o
        for o in overrides
    ]
    spec = load(spec_path, moved)
    wide = [key for key, dimension in spec.search.space.items() if len(dimension.choices) != 1]
    if wide:
        raise SweepftError(
            f"{spec_path}: search.space.{wide[0]}: has more than one value: this is a sweep\n"
            f"  use sweepft run, or leave one value: --set 'search.space.{wide[0]}.choice=[VALUE]'",
            key=f"search.space.{wide[0]}",
        )
    file = spec_path.with_name(FACTS_FILE)
    before = read_json_file(file) if file.is_file() else None
    for note in horizon_notes(spec, before) if before else ():
        console.print(f"note: {note}", style="yellow", highlight=False, markup=False)
    finished = start_sweep(spec, out, address=address, console=console)
    best = winner(finished.view)
    if before and best is not None:
        was = before["objective"]  # None for a stopped trial
        had = "did not reach its end" if was is None else f"had {was:.4f}"
        text = f"{finished.view.objective.name} {best.objective:.4f}; in the sweep {before['trial_id']} {had}"
        console.print(text, highlight=False, markup=False)
    return finished


@contextlib.contextmanager
def spec_of(path: Path, trial_id: str | None) -> Iterator[Path]:
    """The spec to train: a file, or the spec of one trial of a run folder.

    Raises:
        LedgerError, LedgerCorrupt, LedgerVersion: If the run has no ledger or it cannot be trusted.
        SweepftError: If a folder is given without a trial or a file with one, or the run has no such trial.
    """
    if path.is_dir() != (trial_id is not None):
        what = "is a folder" if trial_id is None else "is not a run folder"
        raise SweepftError(
            f"{path}: {what}\n  name a spec such as best/spec.yaml, or a run folder and --trial with one of its trials",
            key="train.path",
        )
    if trial_id is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield write_trial_spec(Path(folder), path, trial_id)


def horizon_notes(spec: SweepSpec, before: Mapping[str, Any]) -> list[str]:
    """What changes when params are trained for another number of samples than in their sweep.

    Args:
        spec: With one value for each swept key; its budget in samples.
        before: ``best.json``.
    """
    samples, was = spec.train.budget.samples, int(before["budget_samples"])
    if samples is None or samples == was:
        return []
    params = {key: dimension.choices[0] for key, dimension in spec.search.space.items()}
    train_config = spec.train_config(params, samples)
    longer = samples > was
    notes = [
        f"{'longer' if longer else 'shorter'} than in the sweep: {was} -> {samples} samples, "
        f"{before['planned_steps']} -> {train_config.planned_steps} steps"
    ]
    if train_config.schedule not in ("constant", "inverse_sqrt"):
        notes.append(
            f"the {train_config.schedule} schedule {'stretches' if longer else 'shrinks'} to the new end"
        )
    if train_config.warmup_steps != before["warmup_steps"]:
        notes.append(
            f"warmup changes with the steps: {before['warmup_steps']} -> {train_config.warmup_steps}"
        )
    notes.append(
        f"the best learning rate moves with the horizon (it tends to {'fall' if longer else 'rise'}): "
        f"{train_config.learning_rate:.3g} was best over {was} samples; for a much "
        f"{'longer' if longer else 'shorter'} run, sweep it again around there"
    )
    return notes
