"""Put search, scheduler, slots and recorder together into one Ray Tuner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from sweepft.data import Prepared
from sweepft.driver.command_handler import Steering
from sweepft.driver.configs import placement, shape, slot_plan, state_plan
from sweepft.driver.control import SweepScheduler, Winding, WindingStopper
from sweepft.driver.fault_policy import Retries
from sweepft.driver.ledger_callback import LedgerCallback, Recorder
from sweepft.driver.pausing import comebacks
from sweepft.early_stopping import History, read_history
from sweepft.search.ray_searcher import OptunaSearcher
from sweepft.slot.trainable import Slot
from sweepft.spec import SweepSpec


def earlier_sweeps(spec: SweepSpec) -> History:
    """What ``early_stop.history`` names, read.

    Raises:
        HistoryError: If an entry cannot be used (the spec's validation says so earlier).
    """
    stop = spec.early_stop
    return read_history(stop.history, rule=stop.rule, good=stop.good, false_stop=stop.false_stop)


def build_scheduler(spec: SweepSpec, budget_samples: int, history: History) -> SweepScheduler:
    """The scheduler a spec asks for, told of earlier sweeps."""
    stop = spec.early_stop
    return SweepScheduler(
        metric="eval_loss",
        mode="min",
        budget=budget_samples,
        windows=stop.windows,
        min_steps=stop.min_steps,
        min_peers=stop.min_peers,
        rule=stop.rule,
        covariates=stop.covariates,
        good=stop.good,
        false_stop=stop.false_stop,
        audit=stop.audit,
        max_bad_stops=stop.max_bad_stops,
        seed=spec.search.seed,
        history=history,
        park=stop.park,
    )


def build_callback(
    spec: SweepSpec,
    run_dir: Path,
    recorder: Recorder,
    scheduler: SweepScheduler,
    searcher: OptunaSearcher,
    winding: Winding,
    steering: Steering | None = None,
    elapsed: Callable[[], float] | None = None,
) -> LedgerCallback:
    """What turns Tune's events into ledger rows, and brings lost trials back; `close` it when the sweep is over."""

    def ending() -> bool:
        return winding.soft or (steering is not None and steering.pausing)

    retries = Retries(spec.faults, recorder.view, searcher, winding, ending)
    scheduler.lost, searcher.faults, searcher.ending = retries.lost, retries.faults, ending
    ranks = shape(spec)
    begin, _ = recorder.view.sessions[-1]
    return LedgerCallback(
        recorder,
        scheduler,
        searcher,
        retries.losses,
        gpus_per_slot=ranks.gpus * ranks.workers,
        begin=begin,
        slots=spec.resources.concurrent_trials,
        states=Path(state_plan(spec, run_dir).folder),
        steering=steering,
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
    winding: Winding,
    steering: Steering | None = None,
) -> tune.Tuner:
    """A Tuner ready to ``fit``. Tune's own state is not relied upon: the ledger is the truth."""
    trainable: Any = tune.with_parameters(Slot, plan=slot_plan(spec, prepared, run_dir))
    trainable = tune.with_resources(trainable, placement(spec))
    scheduler.winding, scheduler.steering = winding, steering
    searcher.comebacks = comebacks(spec, scheduler)
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
            stop=WindingStopper(winding),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )
