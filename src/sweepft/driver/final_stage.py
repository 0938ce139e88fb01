"""What follows the search: fresh seeds of the best configurations, then finalists and base model are scored.

One idea: all of it runs on the sweep's own slots as trials beside the search, which neither the study nor the
scheduler is told of. What is done stands in the ledger; this only asks what is missing.
"""
# MERGED Whether a sweep will be able to score its finalists, found out before its first trial.

from __future__ import annotations

import importlib.util
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from sweepft.data import Prepared, load_test_sets
from sweepft.driver.configs import eval_tasks, keep_policy
from sweepft.driver.control import SweepControl
from sweepft.errors import EvaluateError, Problem, SpecError
from sweepft.evaluation.mt_bench import check as check_judge
from sweepft.evaluation.mt_bench import setting
from sweepft.evaluation.tasks import check_tasks
from sweepft.ledger import EventLog, Row, TrialState, metric_of, missing_scores, ranking
from sweepft.slot.eval_job import EvalItem, Judging
from sweepft.slot.weight_retention import KeepPolicy
from sweepft.spec import Evaluate, SweepSpec, TrainConfig
from sweepft.training.fingerprint import weights_digest


def check_finals(spec: SweepSpec) -> dict[str, int]:
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
    if plans and importlib.util.find_spec("lm_eval") is None:
        rule, remedy = "needs the package lm-eval, which is not installed", "pip install 'sweepft[eval]'"
        raise SpecError([Problem(spec.name, "evaluate.tasks", rule, remedy)])
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


_TRIES = 2


"""How often an exam whose slot dies is begun."""


class FinalStage:
    """Proposes seeds and exams once the search is over.

    Args:
        spec: Of the sweep; its ``evaluate`` section says what.
        prepared: Its data.
        run_dir: Its folder.
        recorder: Whose view says what is done; the `finalists` row is written there.
        winding: Nothing is proposed once somebody has asked to stop.
        reported: Samples up to which the ledger holds each interrupted trial.
    """

    def __init__(
        self,
        spec: SweepSpec,
        prepared: Prepared,
        run_dir: Path,
        *,
        event_log: EventLog,
        control: SweepControl,
        reported: Mapping[str, int],
    ) -> None:
        self._spec = spec
        self._prepared = prepared
        self._run_dir = run_dir
        self._event_log = event_log
        self._control = control
        self._reported = reported
        self._begun = False
        self._caches: dict[str, str] = {}
        self._under_way: set[str] = set()
        self._tries: dict[str, int] = {}
        event_log.listeners.append(self._on_row)

    @property
    def begun(self) -> bool:
        """Whether the search is over and the finalists are chosen."""
        return self._begun

    def ask(self, busy: bool) -> dict[str, Any] | Literal["wait", "finished"]:
        """The config of what is to run next.

        Args:
            busy: Whether trials of the search are still under way.
        """
        evaluate = self._spec.evaluate
        if evaluate is None or self._control.soft:
            return "finished"
        if busy:
            return "wait"
        if not self._begun:
            self._begin(evaluate)
        for config in self._waiting(evaluate):
            name = config["trial_id"]
            if name not in self._under_way and self._tries.get(name, 0) < _TRIES:
                self._under_way.add(name)
                self._tries[name] = self._tries.get(name, 0) + 1
                return config
        return "wait" if self._under_way else "finished"

    def left(self, trial_id: str) -> None:
        """A seed or an exam is no longer on its slot, whether it is done or not."""
        self._under_way.discard(trial_id)

    def _begin(self, evaluate: Evaluate) -> None:
        """Choose the finalists, open the sealed sets, and say so in the ledger where it is not said yet."""
        self._begun = True
        view = self._event_log.view
        objectives = {r.trial.trial_id: r.trial.objective for r in ranking(view) if r.rank is not None}
        keep = KeepPolicy(
            folder="", tokenizer="", top=evaluate.finalists.top, random=evaluate.finalists.random,
            seed=self._spec.search.seed,
        )  # fmt: skip
        chosen = keep.chosen({name: value for name, value in objectives.items() if value is not None})
        if not chosen:
            return
        sets = {name: ("test", t) for name, t in load_test_sets(self._spec, self._run_dir / "cache").items()}
        sets |= {h.name: ("validation", h.data) for h in self._prepared.validation}
        self._caches = {name: data.path for name, (_, data) in sets.items()}
        parts = [{"what": what, "name": name, "digest": data.digest} for name, (what, data) in sets.items()]
        parts += [{"what": "task", "name": t.name, "digest": t.digest} for t in eval_tasks(self._spec)]
        if evaluate.mt_bench is not None:
            parts.append({"what": "mt_bench", "name": "mt_bench", "digest": setting(evaluate.mt_bench)[:16]})
        places = list(objectives)
        top = places[: evaluate.finalists.top]
        row = {
            "chosen": [
                {"trial_id": name, "why": "top" if name in top else "random"}
                for name in sorted(chosen, key=places.index)
            ],
            "items": parts,
            "rank_by": evaluate.weights,
        }
        if view.finalists is None or any(view.finalists[key] != value for key, value in row.items()):
            self._event_log.write("finalists", **row)

    def _waiting(self, evaluate: Evaluate) -> Iterator[dict[str, Any]]:
        """What is not done, in the order it shall be: seeds, each scored before more weights pile up; the rest."""
        row = self._event_log.view.finalists
        if row is None:
            return
        trials = self._event_log.view.trials
        seeds = list(self._seeds(evaluate, row))
        ended = [trials[s["trial_id"]] for s in seeds if s["trial_id"] in trials]
        yield from self._eval_jobs(t for t in ended if t.status == "completed")
        open_ends = ("running", "interrupted")
        yield from (
            s for s in seeds if s["trial_id"] not in trials or trials[s["trial_id"]].status in open_ends
        )
        yield from self._eval_jobs((None,))
        yield from self._eval_jobs(trials[entry["trial_id"]] for entry in row["chosen"])

    def _seeds(self, evaluate: Evaluate, row: Row) -> Iterator[dict[str, Any]]:
        """The best finalists with fresh seeds."""
        if evaluate.replicates is None:
            return
        view = self._event_log.view
        best = [entry["trial_id"] for entry in row["chosen"] if entry["why"] == "top"]
        for name in best[: evaluate.replicates.top]:
            trial = view.trials[name]
            for i in range(1, evaluate.replicates.seeds + 1):
                seed = f"{name}-seed{i}"
                train_config = TrainConfig.from_dict(trial.train_config, view.budget_samples)
                seed_value = (train_config.seed + i) % 2**32
                yield {
                    "trial_id": seed,
                    "number": trial.number,
                    "origin": "replicate",
                    "replicate_of": name,
                    "params": trial.params,
                    "train_config": train_config.model_copy(update={"seed": seed_value}),
                    "keep": bool(row["items"]),
                    "reported_samples": self._reported.get(seed, 0),
                }

    def _eval_jobs(self, subjects: Iterator[TrialState] | tuple[None]) -> Iterator[dict[str, Any]]:
        """An exam for each subject that lacks scores."""
        view, keep = self._event_log.view, keep_policy(self._spec, self._prepared, self._run_dir)
        anyone = next(iter(view.trials.values()))
        for trial in subjects:
            name = None if trial is None else trial.trial_id
            missing = missing_scores(view, name, since=view.sessions[-1][0])
            if missing and name is not None and not Path(keep.folder, name).is_dir():
                self._cannot_be_scored(name, missing)
                missing = []
            if not missing:
                continue
            yield {
                "trial_id": f"score-{name or 'base'}",
                "origin": "eval_job",
                "train_config": TrainConfig.from_dict((trial or anyone).train_config, view.budget_samples),
                "eval_job": {
                    "subject": name,
                    "weights": None if name is None else f"{keep.folder}/{name}",
                    "run_dir": str(self._run_dir),
                    "tokenizer": keep.tokenizer,
                    "parts": [self._part(part, name or "base") for part in missing],
                },
            }

    def _cannot_be_scored(self, name: str, missing: list[dict[str, Any]]) -> None:
        why = f"its weights were not kept: there is no weights/{name}; keep.top was smaller when it ended"
        for part in missing:
            self._event_log.write("score", trial_id=name, **part, metrics={}, reason=why)

    def _part(self, part: Mapping[str, Any], subject: str) -> EvalItem:
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
            end_ids=self._prepared.end_ids,
            batch_size=evaluate.batch_size,
        )

    def _on_row(self, row: Row) -> None:
        """Remove the weights of a seed that has every score: they were kept for these alone."""
        if row["kind"] != "score" or row["trial_id"] is None:
            return
        trial = self._event_log.view.trials.get(row["trial_id"])
        if trial is None or not trial.replicate_of:
            return
        if not missing_scores(self._event_log.view, trial.trial_id, since=math.inf):
            shutil.rmtree(self._run_dir / "weights" / trial.trial_id, ignore_errors=True)
