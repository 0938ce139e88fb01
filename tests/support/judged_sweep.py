"""Ledgers of made-up sweeps, judged by the real referee: slots, audits, parking, comebacks, failures, crashes.

One idea: a driver without Ray. What is random comes from one seed; what is decided comes from the rules, and every row
is one the recorder would write.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

from sweepft.early_stopping import EarlyStopper, PriorSweeps, make_report, make_rule, replay_rows
from sweepft.ledger import complete_results
from sweepft.ledger.rows import complete_fields

BUDGET = 100
RUNGS = (0.1, 0.25, 0.5)
POINTS = (10, 25, 40, 50, 75, 100)


@dataclass
class JudgedSweep:
    """What to make up; `run` makes it.

    Attributes:
        seed: Of everything random.
        early_stop: The spec's section, without windows.
        trials, slots: How many, and how many at once.
        failing: Probability that a trial fails at a report point.
        crashes: Moments (in results) at which the driver dies, half of them within a result.
        history: What earlier sweeps taught.
    """

    seed: int
    early_stop: dict[str, Any]
    trials: int = 24
    slots: int = 3
    failing: float = 0.02
    crashes: tuple[int, ...] = ()
    history: PriorSweeps = field(default_factory=PriorSweeps)
    rows: list[dict[str, Any]] = field(default_factory=list, init=False)

    def run(self) -> JudgedSweep:
        """Run it to its end; `rows` is its ledger and `early_stopper` who judged it."""
        self.random = random.Random(self.seed)
        self.quality = [self.random.gauss(0, 1) for _ in range(self.trials)]
        self.early_stopper = self.fresh_early_stopper()
        self.at = [0] * self.trials  # report points reached
        self.attempts = [0] * self.trials
        self.busy: list[int] = []
        self.paused: list[int] = []
        self.waiting = list(range(self.trials))
        self.told: set[int] = set()
        spec = {"early_stop": {**self.early_stop, "rungs": list(RUNGS)}}
        self.header = {
            "name": "made-up", "spec": spec, "spec_digest": "", "seed": 7, "budget_samples": BUDGET,
            "sweepft_version": "0", "history": self.history.to_dict(),
        }  # fmt: skip
        self.write("sweep", **self.header)
        results = 0
        while self.fill():
            results += 1
            if results in self.crashes:
                self.crash(torn=results % 2 == 0)
                continue
            trial = self.random.choice(self.busy)
            self.advance(trial)
        for paused_trial in self.early_stopper.paused_trials():
            self.end(int(paused_trial.trial_id[1:]), "stopped", paused_trial.reason)
            self.early_stopper.give_up(paused_trial.trial_id)
        self.write("finish", status="finished")
        return self

    def fresh_early_stopper(self) -> EarlyStopper:
        """As the spec says."""
        stop = dict(self.early_stop)
        audit = (
            stop.get("audit")
            if stop.get("audit") is not None
            else 0.05
            if stop["rule"] == "calibrated"
            else 0.0
        )
        known = {k: stop[k] for k in ("top_fraction", "max_false_stop_rate", "min_peers") if k in stop}
        rule = make_rule(stop["rule"], audit=audit, history=self.history, **known)
        extra = {k: stop[k] for k in ("top_fraction", "max_false_discovery_rate", "pause") if k in stop}
        return EarlyStopper(
            rule=rule,
            rungs=RUNGS,
            budget=BUDGET,
            mode="min",
            audit=audit,
            seed=7,
            history=self.history,
            **extra,
        )

    def write(self, kind: str, **fields: Any) -> None:
        row = {
            "seq": len(self.rows),
            "time": 1000.0 + len(self.rows) // 3,
            "kind": kind,
            **complete_fields(kind, fields),
        }
        self.rows.append(json.loads(json.dumps(row)))

    def fill(self) -> bool:
        """Give free slots to new trials, then to parked ones that are worth it; whether any slot is at work."""
        while len(self.busy) < self.slots:
            if self.waiting:
                trial = self.waiting.pop(0)
            else:
                ready = [
                    p
                    for p in self.early_stopper.paused_trials()
                    if p.worth and int(p.trial_id[1:]) in self.paused
                ]
                if not ready:
                    break
                trial = int(ready[0].trial_id[1:])
                self.paused.remove(trial)
            self.busy.append(trial)
            self.attempts[trial] += 1
            self.early_stopper.add(self.name(trial), {})
            if trial not in self.told:
                self.told.add(trial)
                self.write(
                    "trial", trial_id=self.name(trial), number=trial, params={}, train_config={}, origin="sampler",
                    planned_steps=BUDGET, warmup_steps=0, study_number=trial,
                )  # fmt: skip
        return bool(self.busy)

    def name(self, trial: int) -> str:
        return f"t{trial:03d}"

    def advance(self, trial: int, *, torn: bool = False) -> None:
        """One result of a trial: its rows, and what becomes of it. A torn one lacks the rows that close it."""
        name, attempt = self.name(trial), self.attempts[trial]
        if self.random.random() < self.failing:
            self.early_stopper.fail(name)
            self.busy.remove(trial)
            return self.end(trial, "failed", "out of memory")
        first, last = (0, *POINTS)[self.at[trial]], POINTS[self.at[trial]]
        if not any(
            r["kind"] == "start" and r["trial_id"] == name and r["attempt"] == attempt for r in self.rows
        ):
            self.write("start", trial_id=name, attempt=attempt, slot=0, from_step=first)
        steps = list(range(first + 1, last + 1))
        noise = random.Random(f"{self.seed}:{trial}:{last}")
        value = 3.0 + self.quality[trial] + noise.gauss(0, 60.0 / last) * 0.2
        history = {"step": steps, "samples_seen": steps, "tokens_seen": steps, "loss": [value] * len(steps)}
        history |= {"grad_norm": [1.0] * len(steps), "lr": [0.1] * len(steps), "seconds": [1.0] * len(steps)}
        self.write("steps", trial_id=name, attempt=attempt, history=history, data_order="d")
        evaluated = last / BUDGET in (*RUNGS, 1.0)
        if evaluated:
            self.write(
                "eval", trial_id=name, attempt=attempt, step=last, samples_seen=last, rung=last / BUDGET,
                final=last == BUDGET, objective=value, sets={},
            )  # fmt: skip
        report = make_report(
            step=steps, progress=steps, loss=history["loss"], grad_norm=history["grad_norm"],
            metric=value if evaluated else None, data_order="d",
        )  # fmt: skip
        over = last == BUDGET
        decisions = (
            self.early_stopper.complete(name, report) if over else self.early_stopper.report(name, report)
        )
        for decision in decisions:
            self.write("decision", **decision.to_row())
        if torn:
            return None
        self.write("cost", trial_id=name, slot=0, phase="train", seconds=1.0)
        self.at[trial] += 1
        if not over and not (decisions and decisions[-1].ends_trial):
            return None
        self.busy.remove(trial)
        if over:
            return self.end(trial, "completed", None, value)
        if decisions[-1].action == "pause":
            return self.paused.append(trial)
        return self.end(
            trial, {"divergence_check": "diverged"}.get(decisions[-1].action, "stopped"), decisions[-1].reason
        )

    def end(self, trial: int, status: str, reason: str | None, objective: float | None = None) -> None:
        seen = (0, *POINTS)[self.at[trial]]
        self.write(
            "end", trial_id=self.name(trial), attempt=max(1, self.attempts[trial]), status=status, reason=reason,
            objective=objective, step=seen, samples_seen=seen, tokens_seen=seen,
        )  # fmt: skip

    def crash(self, *, torn: bool) -> None:
        """The driver dies; whoever resumes knows the whole results only, and goes on with those under way."""
        if torn:
            self.advance(self.random.choice(self.busy), torn=True)
        self.write("sweep", **self.header, resumed=True)
        self.early_stopper = self.fresh_early_stopper()
        replay_rows(self.early_stopper, complete_results(self.rows)[0])
        again = sorted(self.busy)
        self.busy = []
        self.waiting = again + self.waiting
