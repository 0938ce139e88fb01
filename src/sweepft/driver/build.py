"""Puts search, scheduler, slots and ledger together into one Ray Tuner, for a new sweep or as the ledger has it.

``restored_search`` needs the ledger only: a resume calls it after a crash, a running driver after a pause.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ray import tune

from sweepft.data import Prepared
from sweepft.driver.cluster_room import cluster_nodes
from sweepft.driver.configs import checkpoint_policy, objective_of, placement, shape, slot_config
from sweepft.driver.control import DriverOnly, KnownBounds, SweepControl
from sweepft.driver.fault_policy import FaultPolicy, restarts
from sweepft.driver.final_stage import FinalStage
from sweepft.driver.gpu_holder import GpuHolder
from sweepft.driver.ledger_callback import LedgerCallback
from sweepft.driver.node_health import NodeHealth, SlotPlacement
from sweepft.driver.scheduler import SweepScheduler, SweepStopper, write_end
from sweepft.driver.task_objective import objective_rungs
from sweepft.early_stopping import PATIENCE, PriorSweeps, read_prior_sweeps
from sweepft.ledger import EventLog, SweepState, is_baseline
from sweepft.ledger.codec import gc_paused
from sweepft.search import STUDY_FILE, Proposer
from sweepft.search.proposer import Proposal
from sweepft.search.ray_searcher import OptunaSearcher, Outcome, SearchControl, outcome_of
from sweepft.slot.best_point import BestPoint, best_point_of
from sweepft.slot.jobs import Job, job_of
from sweepft.slot.trainable import Slot
from sweepft.spec import SweepSpec, TrainConfig
from sweepft.spec.learn_from import EarlierSweep, read_earlier_sweeps


@dataclass(frozen=True)
class Search:
    """What proposes, judges and restarts the trials of one session.

    Attributes:
        searcher: Proposes trials, then the jobs of the final evaluation.
        scheduler: Judges them.
        fault_policy: Decides about lost slots.
        outcomes: How trials end; written by callback and fault policy, read by the searcher.
        final_stage: Follows the search; None where nothing does.
        gpu_holder: Keeps GPUs that are given up from Ray.
    """

    searcher: OptunaSearcher
    scheduler: SweepScheduler
    fault_policy: FaultPolicy
    outcomes: dict[str, Outcome]
    final_stage: FinalStage | None
    gpu_holder: GpuHolder

    @property
    def proposer(self) -> Proposer:
        """Behind the searcher."""
        return self.searcher.proposer


def load_prior_sweeps(spec: SweepSpec) -> PriorSweeps:
    """Read what ``early_stop.prior_sweeps`` names.

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


def read_learned(spec: SweepSpec) -> dict[str, Any] | None:
    """What ``search.learn_from`` names, for the ledger; None without any.

    Raises:
        LearnFromError: If an entry cannot be used (the spec's validation says so earlier).
    """
    sweeps = read_earlier_sweeps(spec.search, objective_of(spec).name)
    return {"sweeps": [sweep.to_dict() for sweep in sweeps]} if sweeps else None


def new_proposer(spec: SweepSpec, run_dir: Path, state: SweepState) -> Proposer:
    """A proposer with the earlier sweeps that the ledger records."""
    learned = state.header.get("learned") or {"sweeps": ()}
    return Proposer(
        spec, run_dir / STUDY_FILE, earlier=[EarlierSweep.from_dict(sweep) for sweep in learned["sweeps"]]
    )


def build_scheduler(
    spec: SweepSpec,
    budget_samples: int,
    prior_sweeps: PriorSweeps,
    *,
    control: SweepControl | None = None,
    fault_policy: FaultPolicy | None = None,
    bounds: KnownBounds | None = None,
) -> SweepScheduler:
    """The scheduler that a spec asks for."""
    stop = spec.early_stop
    return SweepScheduler(
        control=control,
        fault_policy=fault_policy,
        bounds=bounds,
        metric="objective",
        mode=spec.objective.mode,
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
        divergence_check=stop.divergence_check,
    )


def build_search(
    spec: SweepSpec,
    event_log: EventLog,
    control: SweepControl,
    proposer: Proposer,
    prior_sweeps: PriorSweeps,
    *,
    final_stage: FinalStage | None = None,
    restore: bool = False,
) -> Search:
    """Searcher, scheduler and fault policy of one session, wired to each other.

    Args:
        spec: Resolved.
        event_log: Of the sweep; its ``sweep`` row is written.
        control: Of the sweep.
        proposer: New, or rebuilt from the ledger.
        prior_sweeps: What the scheduler knows of earlier sweeps.
        final_stage: What follows the search.
        restore: Whether the scheduler, too, is restored from the ledger.
    """
    view, outcomes = event_log.state, dict[str, Outcome]()
    gpu_holder = GpuHolder(spec.resources.gpus_per_worker)
    health = NodeHealth(spec.resources, cluster_nodes, gpu_holder.want)
    fault_policy = FaultPolicy(spec.faults, view, control, outcomes, health)
    scheduler = build_scheduler(
        spec,
        view.budget_samples,
        prior_sweeps,
        control=control,
        fault_policy=fault_policy,
        bounds=KnownBounds(view),
    )
    if restore:
        scheduler.restore_ledger(view)
    search_control = _SweepSearchControl(spec, event_log, control, scheduler, fault_policy, final_stage)
    reported = {t.trial_id: t.samples_seen for t in view.trials.values()}
    searcher = OptunaSearcher(
        proposer, view.budget_samples, search_control, outcomes, reported, view.tokens_per_sample
    )
    return Search(searcher, scheduler, fault_policy, outcomes, final_stage, gpu_holder)


class _SweepSearchControl(DriverOnly, SearchControl):
    """The driver's answers to the searcher."""

    def __init__(
        self,
        spec: SweepSpec,
        event_log: EventLog,
        control: SweepControl,
        scheduler: SweepScheduler,
        fault_policy: FaultPolicy,
        final_stage: FinalStage | None,
    ) -> None:
        self._fault_policy = fault_policy
        self._spec = spec
        self._event_log = event_log
        self._control = control
        self._scheduler = scheduler
        self._final_stage = final_stage

    def ending(self) -> bool:
        return self._control.ending

    def may_propose(self) -> bool:
        return self._control.may_propose()

    def found_enough(self) -> bool:
        return self._control.enough is not None

    def resume_candidates(self) -> Sequence[str]:
        if not self._spec.early_stop.pause:
            return ()
        paused = self._scheduler.paused_trials(from_scratch=trains_from_scratch(self._spec))
        return [trial.trial_id for trial in paused if trial.worth]

    def limits(self) -> dict[str, float] | None:
        bounds = self._event_log.state.bounds
        return None if bounds.pending else bounds.limits

    def next_before_search(self) -> Job | None:
        if self._final_stage is None or not self._control.may_propose():
            return None
        return self._final_stage.base_job()

    def restarts(self, trial_id: str) -> int:
        return restarts(self._event_log.state, trial_id)

    def most_trials(self) -> int | None:
        left = self._fault_policy.health.slots_left()
        return None if left is None else max(1, left)

    def objective_rungs(self, trial_id: str) -> tuple[float, ...] | None:
        return objective_rungs(self._spec, self._event_log.state, trial_id)

    def proven(self, trial_id: str) -> TrainConfig | None:
        trial = self._fault_policy.proven(but=trial_id)
        if trial is None:
            return None
        return TrainConfig.from_dict(trial.train_config, self._event_log.state.budget_samples)

    def best_point(self, trial_id: str) -> BestPoint | None:
        trial = self._event_log.state.trials.get(trial_id)
        return None if trial is None else best_point_of(trial, self._spec.search.subject_to)

    def patience(self, proposal: Proposal) -> int | None:
        pinned = (row["trial_id"] for row in self._event_log.state.accepted("pin"))
        exempt = is_baseline(proposal.number, proposal.origin) or proposal.trial_id in pinned
        return None if exempt else self._spec.early_stop.patience

    def next_after_search(self) -> Job | Literal["wait", "finished"]:
        return "finished" if self._final_stage is None else self._final_stage.next_job()


def trains_from_scratch(spec: SweepSpec) -> bool:
    """Whether no checkpoint of a paused trial is kept, so that a resumed one trains again from its start."""
    return spec.checkpoint == "none"


def build_callback(
    spec: SweepSpec,
    run_dir: Path,
    event_log: EventLog,
    search: Search,
    elapsed: Callable[[], float] | None = None,
) -> LedgerCallback:
    """What writes the ledger rows of one session; `close` it when the slots are gone."""
    ranks = shape(spec)
    begin, _ = event_log.state.sessions[-1]
    return LedgerCallback(
        event_log,
        scheduler=search.scheduler,
        fault_policy=search.fault_policy,
        outcomes=search.outcomes,
        on_left=(lambda name: None) if search.final_stage is None else search.final_stage.on_left,
        gpus_per_slot=ranks.gpus * ranks.workers,
        begin=begin,
        slots=spec.resources.concurrent_trials,
        checkpoints=Path(checkpoint_policy(spec, run_dir).folder),
        elapsed=elapsed,
    )


def build_tuner(
    spec: SweepSpec,
    prepared: Prepared,
    run_dir: Path,
    *,
    search: Search,
    control: SweepControl,
    callbacks: Iterable[tune.Callback],
) -> tune.Tuner:
    """A Tuner ready to ``fit``. Tune's own checkpoints are not used: the ledger holds everything."""
    health = search.fault_policy.health
    SlotPlacement.kept_out = staticmethod(lambda: health.kept_out)
    trainable: Any = tune.with_parameters(Slot, slot_config=slot_config(spec, prepared, run_dir))
    trainable = tune.with_resources(trainable, placement(spec))

    def job_name(trial: Any) -> str:
        return job_of(trial.config).name

    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric="objective",
            mode=spec.objective.mode,
            search_alg=search.searcher,
            scheduler=search.scheduler,
            num_samples=-1,  # until the searcher says FINISHED
            max_concurrent_trials=spec.resources.concurrent_trials,
            reuse_actors=True,
            trial_name_creator=job_name,
            trial_dirname_creator=job_name,
        ),
        run_config=tune.RunConfig(
            name="ray",
            storage_path=str(run_dir),
            verbose=0,
            callbacks=list(callbacks),
            stop=SweepStopper(control),
            failure_config=tune.FailureConfig(max_failures=0),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        ),
    )


def restored_search(
    spec: SweepSpec,
    run_dir: Path,
    event_log: EventLog,
    control: SweepControl,
    final_stage: FinalStage | None = None,
) -> Search:
    """The search and the scheduler as of the last complete result; trials that had not ended are proposed first.

    Args:
        spec: Resolved.
        run_dir: The run folder.
        event_log: Open for writing: ``end`` rows that a crash prevented are written.
        control: Of the sweep.
        final_stage: What follows the search.
    """
    state = event_log.state
    with gc_paused():
        state.drop_partial_results()
        _write_missing_ends(event_log)
        proposer = new_proposer(spec, run_dir, state)
        proposer.rebuild(state)
        prior_sweeps = PriorSweeps.from_dict(state.header.get("prior_sweeps") or {})
        return build_search(
            spec, event_log, control, proposer, prior_sweeps, final_stage=final_stage, restore=True
        )


def _write_missing_ends(event_log: EventLog) -> None:
    """Write the ``end`` of trials that a crash prevented after their last result."""
    for trial in list(event_log.state.trials.values()):
        if not trial.reports or (trial.end is not None and trial.status != "interrupted"):
            continue
        decision = trial.decisions[-1] if trial.decisions else None
        grad_norm, budget = trial.history["grad_norm"][-1], event_log.state.budget_samples
        flagged = decision is not None and decision["action"] in ("stop", "divergence_check")
        diverged = not math.isfinite(grad_norm)
        out_of_patience = decision is not None and decision["action"] == PATIENCE
        if not (flagged or diverged or out_of_patience or trial.samples_seen >= budget):
            continue
        result: dict[str, Any] = {"samples_seen": trial.samples_seen, "budget_samples": budget}
        if trial.evals and trial.evals[-1]["final"]:
            result["objective"] = trial.evals[-1]["objective"]
        if trial.counted is not None and trial.counted["objective"] is not None:
            result["best_objective"] = trial.counted["objective"]
        if decision is not None and out_of_patience:
            result["patience"] = decision["reason"]
        if diverged:
            result["diverged"] = f"the gradient norm is {float(grad_norm)} at step {trial.step}"
        write_end(
            event_log,
            trial.trial_id,
            outcome_of(result, decision),
            attempt=trial.attempts[-1].attempt if trial.attempts else 1,
            step=trial.step,
            samples_seen=trial.samples_seen,
            tokens_seen=trial.tokens_seen,
        )
