"""Resumes a run from its ledger: finished trials stay, interrupted ones continue, and more may follow.

Study and scheduler are restored from the ledger. An interrupted trial trains up to its last complete result without
reporting, and continues from there: with one slot, a resumed sweep equals an undisturbed one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepft.data import Prepared, prepare_in_child
from sweepft.driver.final_stage import check_final_evaluation
from sweepft.driver.sidecars import check_mirror, mirrored
from sweepft.driver.sweep import Sweep, SweepResult, run_sweep
from sweepft.errors import DataError, LedgerError, Problem, SpecError
from sweepft.ledger import EventLog, Ledger, SweepState
from sweepft.spec import SweepSpec, from_dict, load

_MAY_CHANGE = (
    *("search.trials", "search.limit", "resources.concurrent_trials"),
    *("resources.price_per_gpu_hour", "keep", "checkpoint", "track", "mirror", "evaluate", "faults"),
)


def resume_sweep(
    run_dir: Path,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    console: Console | None = None,
) -> SweepResult:
    """Resume a run that was interrupted, crashed, or has finished and is to be extended.

    Args:
        run_dir: The run folder.
        overrides: ``search.trials=64`` and the like; only keys that keep trials comparable.
        address: Ray cluster to join, None for a local one.
        console: Where progress is shown.
    Raises:
        LedgerError: If the ledger is damaged, or another driver writes it.
        SpecError: If a key changes that must not; lists all of them.
        DataError: If the data have changed.
        MirrorError: If the mirror cannot be used, or holds more of the run than the folder.
    """
    console = console or Console()
    run_dir = run_dir.resolve()
    ledger, rows = Ledger.reopen(run_dir)
    with ledger:
        view = SweepState.from_rows(rows)
        del rows  # half a million of them take a GiB
        if not view.header:
            raise LedgerError(
                f"{run_dir}: the ledger is empty: the sweep never started\n  start it with: sweepft run",
                key="ledger.empty",
            )
        if view.simulated:
            raise LedgerError(
                f"{run_dir}: a simulated sweep cannot be resumed\n"
                "  run its spec.yaml with: sweepft run, or simulate it again in another folder",
                key="ledger.simulated",
            )
        spec = load(
            run_dir / "spec.yaml", overrides, check_prior_sweeps=False
        )  # the ledger holds what they taught
        _check_changes(view.spec, spec)
        check_final_evaluation(spec)
        check_mirror(spec.mirror, run_dir)
        prepared = prepare_in_child(spec, (run_dir / "cache").resolve())
        _check_data(view.header["data"], prepared)
        event_log = EventLog(ledger, view)
        sweep = Sweep.begin(spec, prepared, run_dir, event_log, console)
        sweep.write_resume_row()
        search = sweep.restored_search()
        waiting, paused = search.proposer.waiting, len(search.proposer.paused)
        done = sum(t.replicate_of is None for t in view.trials.values()) - waiting - paused
        text = f"{done} trials done, {waiting} to continue" + (f", {paused} paused" if paused else "")
        console.print(f"resuming {spec.name}: {text}", highlight=False)
        with mirrored(spec.mirror, run_dir, event_log, console):
            return run_sweep(sweep, search, address)


def _check_changes(before: Mapping[str, Any], spec: SweepSpec) -> None:
    """Refuse changes after which old and new trials would not be comparable."""
    old = _flat(from_dict(before).to_dict())  # keys that were unknown then have their defaults
    new = _flat(spec.to_dict())
    problems = [
        Problem(
            where="resume",
            key=key,
            rule=f"cannot change in a run that has started (it was {old.get(key)!r})",
            value=new.get(key),
            remedy=f"keep it, or start a new run; what may change: {', '.join(_MAY_CHANGE)}",
        )
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(_MAY_CHANGE)
    ]
    if problems:
        raise SpecError(problems)


def _check_data(before: Mapping[str, Any], prepared: Prepared) -> None:
    """Refuse data that have changed since the run started."""
    now = prepared.model_dump(mode="json")
    pairs = {"data.train": (before["train"]["digest"], now["train"]["digest"])}
    for old, new in zip(before["validation"], now["validation"], strict=True):
        pairs[f"data.validation.{old['name']}"] = (old["data"]["digest"], new["data"]["digest"])
    problems = [
        Problem(
            "resume",
            key,
            "has changed since the run started",
            "restore the old files, or start a new run",
        )
        for key, (old, new) in pairs.items()
        if old != new
    ]
    if problems:
        raise DataError(problems)


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {
            k: v
            for name, part in value.items()
            for k, v in _flat(part, f"{key}.{name}" if key else name).items()
        }
    return {key: list(value) if isinstance(value, tuple) else value}
