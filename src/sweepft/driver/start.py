"""Starts a new sweep: checks, run folder, data, then the sweep itself."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

from rich.console import Console

from sweepft.data import Prepared, prepare_in_child
from sweepft.driver.build import load_prior_sweeps
from sweepft.driver.final_stage import check_final_evaluation
from sweepft.driver.run_folder import make_run_folder, sweep_row
from sweepft.driver.sidecars import check_mirror, mirrored
from sweepft.driver.sweep import Sweep, SweepResult, run_sweep
from sweepft.errors import Problem, SpecError
from sweepft.ledger import EventLog, Ledger, SweepState
from sweepft.spec import SweepSpec, check_budget, packing_note


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
        EvaluateError: If a benchmark task or its data cannot be loaded.
        DataError: If the data cannot be used.
        PriorSweepsError: If an entry of ``early_stop.prior_sweeps`` cannot be used.
        MirrorError: If the mirror cannot be used.
        ResourceError: If not even one trial fits.
        SweepftError: If the folder already holds a run.
        StorageError: If the folder cannot be written.
    """
    console = console or Console()
    check_packages(spec)
    check_final_evaluation(spec)
    out = out.resolve()
    check_mirror(spec.mirror, out)
    prior_sweeps = load_prior_sweeps(spec)
    make_run_folder(out, spec)
    prepared = _prepare(spec, out, console)
    with Ledger.create(out) as ledger:
        event_log = EventLog(ledger, SweepState())
        event_log.write("sweep", **sweep_row(spec, prepared), prior_sweeps=prior_sweeps.to_dict())
        with mirrored(spec.mirror, out, event_log, console):
            sweep = Sweep.begin(spec, prepared, out, event_log, console)
            return run_sweep(sweep, sweep.new_search(prior_sweeps), address)


def check_packages(spec: SweepSpec) -> None:
    """Refuse a spec that needs a package which is not installed, before ranks fail over it.

    Raises:
        SpecError: With the key and the package to install.
    """
    adapters = spec.train.lora is not None or any(key.split(".")[0] == "lora" for key in spec.search.space)
    names = [spec.train.optimizer.name, *getattr(spec.search.space.get("optimizer.name"), "choices", ())]
    needs = {
        ("train.lora", "peft", "lora"): adapters,
        ("train.optimizer.name", "bitsandbytes", "8bit"): "adamw_8bit" in names,
        ("train.liger", "liger_kernel", "liger"): spec.train.liger,
        ("track.wandb", "wandb", "wandb"): spec.track.wandb is not None,
        ("track.mlflow", "mlflow", "mlflow"): spec.track.mlflow is not None,
    }
    problems = [
        Problem(
            spec.name,
            key,
            f"needs the package {package.replace('_', '-')}, which is not installed",
            f"pip install 'sweepft[{extra}]'",
        )
        for (key, package, extra), needed in needs.items()
        if needed and importlib.util.find_spec(package) is None
    ]
    if problems:
        raise SpecError(problems)


def _prepare(spec: SweepSpec, out: Path, console: Console) -> Prepared:
    with (
        console.status("reading and tokenising the data") if console.is_terminal else contextlib.nullcontext()
    ):
        prepared = prepare_in_child(spec, (out / "cache").resolve())
    problems = check_budget(spec, prepared.budget_samples)
    if problems:
        raise SpecError(problems)
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
