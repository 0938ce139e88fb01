"""Put search, scheduler, slots and recorder together into one Ray Tuner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from sweepft.data import Prepared
from sweepft.driver.command_handler import CommandHandler
from sweepft.driver.configs import checkpoint_policy, placement, shape, slot_config
from sweepft.driver.control import SweepControl, SweepScheduler, SweepStopper
from sweepft.driver.fault_policy import FaultPolicy
from sweepft.driver.ledger_callback import LedgerCallback
from sweepft.driver.pausing import resume_candidates
from sweepft.early_stopping import PriorSweeps, read_prior_sweeps
from sweepft.ledger import EventLog
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.slot.trainable import Slot
from sweepft.spec import SweepSpec


def load_prior_sweeps(spec: SweepSpec) -> PriorSweeps:
    """What ``early_stop.prior_sweeps`` names, read.

    Raises:
        PriorSweepsError: If an entry cannot be used (the spec's validation says so earlier).
    """
    stop = spec.early_stop
    return read_prior_sweeps(
        stop.prior_sweeps,
        rule=stop.rule,
        top_fraction=stop.top_fraction,
        max_false_stop_rate=stop.max_false_stop_rate,
    )


def build_scheduler(spec: SweepSpec, budget_samples: int, prior_sweeps: PriorSweeps) -> SweepScheduler:
    """The scheduler a spec asks for, told of earlier sweeps."""
    stop = spec.early_stop
    return SweepScheduler(
        metric="eval_loss",
        mode="min",
        budget=budget_samples,
        rungs=stop.rungs,
        min_steps=stop.min_steps,
        min_peers=stop.min_peers,
        rule=stop.rule,
        covariates=stop.covariates,
        top_fraction=stop.top_fraction,
        max_false_stop_rate=stop.max_false_stop_rate,
        audit=stop.audit,
        max_false_discovery_rate=stop.max_false_discovery_rate,
        seed=spec.search.seed,
        prior_sweeps=prior_sweeps,
        pause=stop.pause,
    )


def build_callback(
    spec: SweepSpec,
    run_dir: Path,
    event_log: EventLog,
    scheduler: SweepScheduler,
    searcher: OptunaSearcher,
    control: SweepControl,
    command_handler: CommandHandler | None = None,
    elapsed: Callable[[], float] | None = None,
) -> LedgerCallback:
    """What turns Tune's events into ledger rows, and brings lost trials back; `close` it when the sweep is over."""

    def ending() -> bool:
        return control.soft or (command_handler is not None and command_handler.pausing)

    fault_policy = FaultPolicy(spec.faults, event_log.view, searcher, control, ending)
    scheduler.lost, searcher.faults, searcher.ending = fault_policy.lost, fault_policy.faults, ending
    ranks = shape(spec)
    begin, _ = event_log.view.sessions[-1]
    return LedgerCallback(
        event_log,
        scheduler,
        searcher,
        fault_policy.losses,
        gpus_per_slot=ranks.gpus * ranks.workers,
        begin=begin,
        slots=spec.resources.concurrent_trials,
        checkpoints=Path(checkpoint_policy(spec, run_dir).folder),
        command_handler=command_handler,
        elapsed=elapsed,
    )


def build_tuner(
    spec: SweepSpec,
    prepared: Prepared,
    run_dir: Path,
    *,
    searcher: OptunaSearcher,
    scheduler: SweepScheduler,
    callback: LedgerCallback,
    control: SweepControl,
    command_handler: CommandHandler | None = None,
) -> tune.Tuner:
    """A Tuner ready to ``fit``. Tune's own state is not relied upon: the ledger is the truth."""
    trainable: Any = tune.with_parameters(Slot, plan=slot_config(spec, prepared, run_dir))
    trainable = tune.with_resources(trainable, placement(spec))
    scheduler.control, scheduler.command_handler = control, command_handler
    searcher.resume_candidates = resume_candidates(spec, scheduler)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="eval_loss",
            mode="min",
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=-1,  # the searcher says when it has finished
            max_concurrent_trials=spec.resources.concurrent_trials,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.config.get("trial_id", trial.trial_id),
            trial_dirname_creator=lambda trial: trial.config.get("trial_id", trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(run_dir),
            verbose=0,
            callbacks=[callback],
            stop=SweepStopper(control),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
