"""Starts a sweep: a new one, or a run to be resumed from its ledger.

A resume restores study and scheduler from the ledger. Finished trials stay; an interrupted one trains up to its last
complete result without reporting and continues from there. With one slot, a resumed sweep equals an undisturbed one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepft.data import Prepared, prepare_in_child
from sweepft.driver.build import load_prior_sweeps, read_learned
from sweepft.driver.cluster_address import check_address
from sweepft.driver.configs import checkpoint_policy
from sweepft.driver.environment import use_short_temp_folder, use_writable_home
from sweepft.driver.final_stage import check_final_evaluation
from sweepft.driver.notify import notified, with_secret_apart
from sweepft.driver.resume_rules import (
    check_changes,
    check_data,
    check_model,
    check_own_metrics,
    drop_checkpoints,
    trials_in_force,
)
from sweepft.driver.run_folder import check_links, make_run_folder, sweep_row, with_trials, write_spec
from sweepft.driver.sidecars import check_mirror, mirrored
from sweepft.driver.sweep import Sweep, SweepResult, run_sweep
from sweepft.driver.task_objective import check_objective
from sweepft.errors import CommandError, LedgerError, Problem, SpecError
from sweepft.extras import require_run
from sweepft.ledger import (
    RETRY,
    Command,
    EventLog,
    Ledger,
    SweepState,
    TrialState,
    iter_ledger,
    ledger_path,
)
from sweepft.output import sweep_console
from sweepft.report import learned_lines
from sweepft.spec import SweepSpec, check_budget, load, missing_packages, packing_note


def start_sweep(
    spec: SweepSpec, out: Path, *, address: str | None = None, console: Console | None = None
) -> SweepResult:
    """Run a new sweep.

    Args:
        spec: As loaded and validated.
        out: Run folder; must not hold a run yet.
        address: Ray cluster to join, None for a local one.
        console: Where progress is shown.
    Raises:
        SpecError: If the spec needs a package that is not installed.
        ClusterError: If no cluster can be joined at the address.
        EvaluateError: If a benchmark task or its data cannot be loaded.
        DataError: If the data cannot be used.
        PriorSweepsError: If an entry of ``early_stop.prior_sweeps`` cannot be used.
        LearnFromError: If an entry of ``search.learn_from`` cannot be used.
        MirrorError: If the mirror cannot be used.
        ResourceError: If not even one trial fits.
        SweepftError: If the folder already holds a run.
        StorageError: If the folder cannot be written.
    """
    console = sweep_console(console)
    say = _warn_on(console)
    check_address(address)
    use_short_temp_folder(say)
    check_packages(spec)
    check_final_evaluation(spec)
    check_objective(spec, say)
    spec = with_secret_apart(spec, say)
    out = out.resolve()
    check_mirror(spec.mirror, out)
    prior_sweeps, learned = load_prior_sweeps(spec), read_learned(spec)
    with make_run_folder(out, spec, say=say) as ledger:
        use_writable_home(out, say)
        prepared = _prepare(spec, out, console)
        event_log = EventLog(ledger, SweepState())
        sweep = Sweep.begin(spec, prepared, out, event_log, console)
        with sweep.signals:
            event_log.write(
                "sweep",
                **sweep_row(spec, prepared),
                prior_sweeps=prior_sweeps.to_dict(),
                learned=learned,
            )
            for line in learned_lines(event_log.state):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            with (
                notified(spec, out, event_log.state, say) as results,
                mirrored(spec.mirror, out, event_log, console),
            ):
                results.append(run_sweep(sweep, sweep.new_search(prior_sweeps), address))
            return results[0]


def _warn_on(console: Console) -> Callable[[str], None]:
    """A function that prints a line as a warning."""

    def warn(text: str) -> None:
        console.print(f"warning: {text}", style="yellow", highlight=False, markup=False, soft_wrap=True)

    return warn


def check_packages(spec: SweepSpec) -> None:
    """Refuse a spec that needs a package which is not installed, before ranks fail over it.

    Raises:
        SpecError: With the key and the package to install.
    """
    require_run(spec.name)
    problems = missing_packages(spec)
    if problems:
        raise SpecError(problems)


def _prepare(spec: SweepSpec, out: Path, console: Console) -> Prepared:
    with (
        console.status("reading and tokenising the data") if console.is_terminal else contextlib.nullcontext()
    ):
        prepared = prepare_in_child(spec, (out / "cache").resolve())
    problems = check_budget(spec, prepared.budget_samples, prepared.train.rows)
    if problems:
        raise SpecError(problems)
    for line in prepared.notes:
        console.print(line, highlight=False, markup=False)
    note = packing_note(spec.train, prepared.model_type)
    for warning in (*prepared.warnings, *([note] if note else [])):
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)
    sets = ", ".join(f"{h.name} {h.data.rows}" for h in prepared.validation)
    console.print(
        f"data: {prepared.train.rows} training rows, validation: {sets}; "
        f"budget {prepared.budget_samples} samples a trial",
        highlight=False,
        markup=False,
    )
    return prepared


def resume_sweep(
    run_dir: Path,
    overrides: Sequence[str] = (),
    *,
    address: str | None = None,
    retry_failed: Sequence[str] | None = None,
    take_over: bool = False,
    console: Console | None = None,
) -> SweepResult:
    """Resume a run that was interrupted, crashed, or has finished and is to be extended.

    Args:
        run_dir: The run folder.
        overrides: ``search.trials=64`` and the like; only keys that keep trials comparable.
        address: Ray cluster to join, None for a local one.
        retry_failed: Failed trials to run again, by trial id; an empty sequence for all of them, None for none.
        take_over: Whether a driver on another host that has not released the run is known to be dead.
        console: Where progress is shown.
    Raises:
        CommandError: If ``retry_failed`` names a trial that has not failed; nothing is written then.
        LedgerError: If the ledger is damaged or holds nothing, or another driver writes it.
        ClusterError: If no cluster can be joined at the address.
        SpecError: If a key changes that must not; lists all of them.
        DataError: If the data have changed.
        MirrorError: If the mirror cannot be used, or holds more of the run than the folder.
    """
    console = sweep_console(console)
    say = _warn_on(console)
    run_dir = run_dir.resolve()
    check_links(run_dir)
    _check_begun(run_dir)
    check_address(address)
    use_short_temp_folder(say)
    ledger, rows = Ledger.reopen(run_dir, take_over=take_over, say=say)
    with ledger:
        view = SweepState.from_rows(rows)
        del rows  # half a million of them take a GiB
        if view.simulated:
            raise LedgerError(
                f"{run_dir}: a simulated sweep cannot be resumed\n"
                "  run its spec.yaml with: sweepft run, or simulate it again in another folder",
                key="ledger.simulated",
            )
        spec, in_file = _spec_now(run_dir, overrides)
        spec = with_secret_apart(spec, say)
        changes = check_changes(view.spec, spec)
        check_model(view, spec)
        check_own_metrics(view.header.get("own_metrics") or {}, spec)
        retried = failed_trials(view, retry_failed)
        check_final_evaluation(spec)
        check_objective(spec)
        check_mirror(spec.mirror, run_dir)
        use_writable_home(run_dir, say)
        prepared = prepare_in_child(spec, (run_dir / "cache").resolve())
        check_data(view.header["data"], prepared)
        event_log = EventLog(ledger, view)
        sweep = Sweep.begin(spec, prepared, run_dir, event_log, console)
        checkpoints = Path(checkpoint_policy(spec, run_dir).folder)
        again = drop_checkpoints(view, checkpoints, changes)
        trials = trials_in_force(view, spec, in_file, overrides)
        changes.pop("search.trials", None)
        if trials != view.asked_trials:
            changes["search.trials"] = [view.asked_trials, trials]
        with sweep.signals:
            sweep.write_resume_row(trials, changes)
            if changes:
                write_spec(run_dir, with_trials(spec, trials))
            _tell_changes(changes, again, say)
            _write_retries(event_log, retried)
            search = sweep.restored_search()
            waiting, paused = search.proposer.waiting, len(search.proposer.paused)
            done = sum(t.replicate_of is None for t in view.trials.values()) - waiting - paused
            text = f"{done} trials done, {waiting} to continue" + (f", {paused} paused" if paused else "")
            console.print(f"resuming {spec.name}: {text}", highlight=False, markup=False)
            with (
                notified(spec, run_dir, event_log.state, say) as results,
                mirrored(spec.mirror, run_dir, event_log, console),
            ):
                results.append(run_sweep(sweep, search, address))
            return results[0]


def failed_trials(view: SweepState, wanted: Sequence[str] | None) -> list[TrialState]:
    """The failed trials that are to be run again.

    Args:
        view: State of the sweep.
        wanted: Trial ids; an empty sequence for all failed trials, None for none.
    Raises:
        CommandError: With every name that is not that of a failed trial.
    """
    failed = {trial.trial_id: trial for trial in view.with_status("failed")}
    if wanted is None:
        return []
    problems = []
    for name in wanted:
        if name not in failed:
            trial = view.trials.get(name)
            rule = "there is no such trial" if trial is None else f"the trial has not failed ({trial.status})"
            remedy = f"failed trials: {', '.join(failed) or 'none'}"
            problems.append(Problem("--retry-failed", name, rule, remedy))
    if problems:
        raise CommandError(problems)
    return [failed[name] for name in dict.fromkeys(wanted)] if wanted else list(failed.values())


def _write_retries(event_log: EventLog, trials: Sequence[TrialState]) -> None:
    for trial in trials:
        command = Command.new(RETRY, trial.trial_id)
        answer = f"runs again; it had failed: {(trial.reason or '').partition(chr(10))[0]}"
        event_log.write("command", **asdict(command), accepted=True, answer=answer)


def _spec_now(run_dir: Path, overrides: Sequence[str]) -> tuple[SweepSpec, int | None]:
    """The run's spec with the overrides, and the number of trials in its file."""
    file = run_dir / "spec.yaml"
    spec = load(file, overrides, recorded=True)
    plain = load(file, (), recorded=True, check_files=False) if overrides else spec
    return spec, plain.search.trials


def _tell_changes(
    changes: Mapping[str, Sequence[Any]], again: Sequence[str], say: Callable[[str], None]
) -> None:
    """Report what differs from the run so far, and what that means for its numbers."""
    for key, (was, now) in changes.items():
        say(f"{key} has changed: {was!r} -> {now!r}")
    if again:
        say(
            f"the number of ranks has changed: {', '.join(again)} train again from their start up to where they were, "
            "without recording; from there on their numbers may differ in the last digits from those of the old ranks"
        )


def _check_begun(run_dir: Path) -> None:
    """Refuse a run folder in which nothing is recorded, or that is none (`Ledger.reopen` refuses the latter, too)."""
    ledger = ledger_path(run_dir)
    begun = any(True for _ in iter_ledger(run_dir, steps=False)) if ledger.is_file() else False
    if not begun and (ledger.is_file() or (run_dir / "spec.yaml").is_file()):
        raise LedgerError(
            f"{run_dir}: nothing is recorded in it: the sweep ended before it began\n"
            f"  start it: sweepft run {run_dir / 'spec.yaml'} --out {run_dir}",
            key="ledger.empty",
        )
