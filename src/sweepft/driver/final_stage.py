"""The final evaluation: replicates of the best trials, then scores of the finalists and the base model. Where bounds
need the base model's losses or scores, these are measured first of all.

All of it runs on the sweep's own slots once the search is over; study and scheduler know nothing of it. The ledger
holds what is done, so a resumed sweep runs only what is missing. ``check_final_evaluation`` finds out before the
first trial whether the tasks can be run.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from sweepft.data import Prepared, load_test_sets
from sweepft.driver.configs import eval_tasks, keep_policy, measured_by_name
from sweepft.driver.control import DriverOnly, SweepControl
from sweepft.errors import EvaluateError, SpecError
from sweepft.evaluation.mt_bench import check as check_judge
from sweepft.evaluation.mt_bench import setting
from sweepft.evaluation.tasks import batch_size_of, check_tasks
from sweepft.extras import problems_of
from sweepft.ledger import EventLog, Row, TrialState, base_score, metric_of, missing_scores, ranking
from sweepft.slot.best_point import best_point_of
from sweepft.slot.jobs import EvalItem, EvalJob, Job, Judging, TrialJob
from sweepft.slot.weight_retention import choose_trials, standing_of
from sweepft.spec import Evaluate, SweepSpec, TrainConfig
from sweepft.training.fingerprint import weights_digest

_TRIES: Final = 2
"""How often a job whose slot is lost is started."""


def check_final_evaluation(spec: SweepSpec) -> dict[str, int]:
    """Load every task of ``evaluate`` in a child process, and see that ``rank_by`` is measured.

    Returns:
        Items by task.
    Raises:
        SpecError: If the harness is not installed, or ``rank_by`` names a metric that no task has.
        EvaluateError: If a task or its data cannot be had.
        DataError: If a file of MT-Bench is missing or broken.
    """
    plans = eval_tasks(spec)
    if spec.evaluate is None:
        return {}
    needs = [
        ("evaluate.tasks", "lm_eval", bool(plans)),
        ("evaluate.mt_bench", "openai", spec.evaluate.mt_bench is not None),
    ]
    problems = problems_of(needs, spec.name)
    if problems:
        raise SpecError(problems)
    found = check_tasks(plans)
    if spec.evaluate.mt_bench is not None:
        check_judge(spec.evaluate.mt_bench)
    metrics = {name: facts["metrics"] for name, facts in found.items()}
    metrics |= {"mt_bench": ["score", "turn_1", "turn_2"]} if spec.evaluate.mt_bench is not None else {}
    metrics |= {test.name: ["loss"] for test in spec.data.test}
    for key in spec.evaluate.weights:
        if key == "objective":
            continue
        try:
            metric_of(key, metrics, metrics)
        except ValueError as error:
            raise EvaluateError(f"{spec.name}: evaluate.rank_by: {error}") from None
    return {name: int(facts["items"]) for name, facts in found.items()}


def _is_scored(row: Row | None, since: float) -> bool:
    """Whether a score is known, or was tried in vain since then (Unix seconds)."""
    return row is not None and (not row.get("reason") or row["time"] >= since)


class FinalStage(DriverOnly):
    """Proposes replicates and evaluation jobs once the search is over, and the base model's before it.

    Args:
        spec: Of the sweep; its ``evaluate`` section says what to run.
        prepared: Its data.
        run_dir: Its folder.
        event_log: Its state says what is done; takes the ``finalists`` row.
        control: Of the sweep.
    """

    def __init__(
        self,
        spec: SweepSpec,
        prepared: Prepared,
        run_dir: Path,
        *,
        event_log: EventLog,
        control: SweepControl,
    ) -> None:
        self._spec = spec
        self._prepared = prepared
        self._run_dir = run_dir
        self._event_log = event_log
        self._control = control
        self._caches: dict[str, str] = {}
        self._running: set[str] = set()
        self._tries: dict[str, int] = {}

    def next_job(self) -> Job | Literal["wait", "finished"]:
        """What runs next, now that no trial of the search is left."""
        evaluate = self._spec.evaluate
        if evaluate is None or self._control.ending:
            return "finished"
        if self._control.phase != "final_evaluation":
            self._control.begin_final_evaluation()
            self._choose_finalists(evaluate)
        for job in self._missing(evaluate):
            if job.name not in self._running and self._tries.get(job.name, 0) < _TRIES:
                self._running.add(job.name)
                self._tries[job.name] = self._tries.get(job.name, 0) + 1
                return job
        return "wait" if self._running else "finished"

    def base_job(self) -> EvalJob | None:
        """The evaluation of the base model that the bounds need, if it is neither done nor running."""
        state = self._event_log.state
        since = state.sessions[-1][0]
        missing = [
            item for item in self._base_items() if not _is_scored(state.scores.get((None, item.name)), since)
        ]
        name = "base-losses"
        if not missing or name in self._running:
            return None
        if self._tries.get(name, 0) >= _TRIES:
            parts = [{"what": item.what, "name": item.name, "digest": item.digest} for item in missing]
            self._write_unscored(None, parts, f"its slot was lost {_TRIES} times")
            return None
        self._running.add(name)
        self._tries[name] = self._tries.get(name, 0) + 1
        params = {key: dimension.examples()[0][1] for key, dimension in self._spec.search.space.items()}
        return EvalJob(
            name=name,
            subject=None,
            weights=None,
            run_dir=str(self._run_dir),
            tokenizer=self._prepared.tokenizer,
            items=tuple(missing),
            train_config=self._spec.train_config(params, state.budget_samples, state.tokens_per_sample),
        )

    def _base_items(self) -> Iterator[EvalItem]:
        """What the base model is measured on for the bounds: sets that are bounded above it, and bounded tasks."""
        bounds = self._spec.search.subject_to
        for held in self._prepared.validation:
            if held.name in bounds and bounds[held.name].above == "base":
                yield EvalItem("validation", held.name, held.data.digest, cache=held.data.path)
        if any(wanted.names[0] in bounds for wanted in self._spec.objective.measured.values()):
            for name, wanted in measured_by_name(self._spec, self._prepared.tokenizer).items():
                if name in bounds:
                    yield EvalItem("measured", base_score(name, True), wanted.task.digest, measured=wanted)

    def on_left(self, name: str) -> None:
        """A job has left its slot, done or not."""
        self._running.discard(name)

    def on_row(self, row: Row) -> None:
        """Remove the weights of a replicate that has every score: they were kept for scoring only."""
        if row["kind"] != "score" or row["trial_id"] is None:
            return
        trial = self._event_log.state.trials.get(row["trial_id"])
        if trial is None or not trial.replicate_of:
            return
        if not missing_scores(self._event_log.state, trial.trial_id, since=math.inf):
            shutil.rmtree(self._run_dir / "weights" / trial.trial_id, ignore_errors=True)

    def _choose_finalists(self, evaluate: Evaluate) -> None:
        """Choose the finalists, open the test sets, and write both to the ledger where they are not there yet."""
        view = self._event_log.state
        objectives = {
            r.trial.trial_id: r.trial.objective
            for r in ranking(view)
            if r.rank is not None and r.trial.objective is not None
        }
        chosen = choose_trials(
            {name: standing_of(view, name) for name in objectives},
            top=evaluate.finalists.top,
            random=evaluate.finalists.random,
            seed=self._spec.search.seed,
        )
        if not chosen:
            return
        sets = {name: ("test", t) for name, t in load_test_sets(self._spec, self._run_dir / "cache").items()}
        sets |= {h.name: ("validation", h.data) for h in self._prepared.validation}
        self._caches = {name: data.path for name, (_, data) in sets.items()}
        items = [{"what": what, "name": name, "digest": data.digest} for name, (what, data) in sets.items()]
        items += [{"what": "task", "name": t.name, "digest": t.digest} for t in eval_tasks(self._spec)]
        if evaluate.mt_bench is not None:
            items.append({"what": "mt_bench", "name": "mt_bench", "digest": setting(evaluate.mt_bench)[:16]})
        in_order = list(objectives)
        top, baseline = in_order[: evaluate.finalists.top], self._spec.baseline_finalist
        why = {name: "top" if name in top else "random" for name in sorted(chosen, key=in_order.index)}
        if baseline in objectives and baseline not in top:
            why[baseline] = "baseline"
        row = {
            "chosen": [{"trial_id": name, "why": reason} for name, reason in why.items()],
            "items": items,
            "rank_by": evaluate.weights,
        }
        if view.finalists is None or any(view.finalists[key] != value for key, value in row.items()):
            self._event_log.write("finalists", **row)

    def _missing(self, evaluate: Evaluate) -> Iterator[Job]:
        """What is not done, in the order in which to do it.

        Each replicate is scored before the next one is trained, so that their weights do not pile up.
        """
        row = self._event_log.state.finalists
        if row is None:
            return
        trials = self._event_log.state.trials
        replicates = list(self._replicates(evaluate, row))
        started = [trials[job.trial_id] for job in replicates if job.trial_id in trials]
        yield from self._eval_jobs(t for t in started if t.status == "completed")
        for job in replicates:
            if job.trial_id not in trials or trials[job.trial_id].status in ("running", "interrupted"):
                yield job
        yield from self._eval_jobs([None])
        yield from self._eval_jobs(trials[entry["trial_id"]] for entry in row["chosen"])

    def _replicates(self, evaluate: Evaluate, row: Row) -> Iterator[TrialJob]:
        """The best finalists, and the baseline, with other seeds."""
        if evaluate.replicates is None:
            return
        trials, at_best = self._event_log.state.trials, self._spec.objective.at == "best"
        best = [entry["trial_id"] for entry in row["chosen"] if entry["why"] == "top"]
        names = best[: evaluate.replicates.top]
        baseline = self._spec.baseline_finalist
        if baseline not in names:  # so that the gain over it includes seed noise
            names += [entry["trial_id"] for entry in row["chosen"] if entry["trial_id"] == baseline]
        for name in names:
            trial = trials[name]
            train_config = self._train_config(trial)
            for i in range(1, evaluate.replicates.seeds + 1):
                replicate = f"{name}-seed{i}"
                seed = (train_config.seed + i) % 2**32
                yield TrialJob(
                    trial_id=replicate,
                    number=trial.number,
                    params=trial.params,
                    train_config=train_config.model_copy(update={"seed": seed}),
                    origin="replicate",
                    replicate_of=name,
                    reported_samples=trials[replicate].samples_seen if replicate in trials else 0,
                    best=best_point_of(trials[replicate], self._spec.search.subject_to)
                    if at_best and replicate in trials
                    else None,
                    limits=self._event_log.state.bounds.limits if at_best else {},
                    keep_weights=bool(row["items"]),
                    objective_rungs=(),
                    proven=train_config,
                )

    def _eval_jobs(self, subjects: Iterable[TrialState | None]) -> Iterator[EvalJob]:
        """An evaluation job for each trial, or for the base model (None), that lacks scores."""
        view, keep = self._event_log.state, keep_policy(self._spec, self._prepared, self._run_dir)
        any_trial = next(iter(view.trials.values()))
        for trial in subjects:
            name = None if trial is None else trial.trial_id
            missing = missing_scores(view, name, since=view.sessions[-1][0])
            if missing and name is not None and not Path(keep.folder, name).is_dir():
                why = f"its weights were not kept: there is no weights/{name}; keep.top was smaller when it ended"
                self._write_unscored(name, missing, why)
                missing = []
            if missing:
                yield EvalJob(
                    name=f"score-{name or 'base'}",
                    subject=name,
                    weights=None if name is None else f"{keep.folder}/{name}",
                    run_dir=str(self._run_dir),
                    tokenizer=keep.tokenizer,
                    items=tuple(self._item(part, name or "base") for part in missing),
                    train_config=self._train_config(trial or any_trial),
                )

    def _train_config(self, trial: TrialState) -> TrainConfig:
        return TrainConfig.from_dict(trial.train_config, self._event_log.state.budget_samples)

    def _write_unscored(self, name: str | None, missing: list[dict[str, Any]], why: str) -> None:
        for part in missing:
            self._event_log.write("score", trial_id=name, **part, metrics={}, reason=why)

    def _item(self, part: Mapping[str, Any], subject: str) -> EvalItem:
        name, digest = part["name"], part["digest"]
        file = f"items/{subject}/{re.sub(r'[^A-Za-z0-9._-]', '_', name)}.jsonl.gz"
        if part["what"] == "mt_bench":
            return EvalItem("mt_bench", name, digest, judging=self._judging(subject), items=file)
        if part["what"] != "task":
            return EvalItem(part["what"], name, digest, cache=self._caches[name])
        task = next(t for t in eval_tasks(self._spec) if t.name == name)
        return EvalItem("task", name, digest, task=task, items=file)

    def _judging(self, subject: str) -> Judging:
        evaluate = self._spec.evaluate
        assert evaluate is not None
        assert evaluate.mt_bench is not None
        folder = self._run_dir / "weights" / subject
        return Judging(
            settings=evaluate.mt_bench,
            weights=weights_digest(self._spec.model.path if subject == "base" else str(folder)),
            cache=str(self._run_dir / "cache" / "mt_bench"),
            batch_size=batch_size_of(evaluate.batch_size),
        )
