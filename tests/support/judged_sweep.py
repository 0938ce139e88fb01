"""Ledgers of made-up sweeps, decided by the real early stopper: slots, audits, pauses, resumes, failures, crashes.

A driver without Ray. Everything random comes from one seed, every decision from the rules, and every row is one that a
driver writes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import EarlyStopper, PriorSweeps, make_report, make_rule, replay_state
from sweepft.ledger import Row, SweepState

BUDGET = 100
RUNGS = (0.1, 0.25, 0.5)
POINTS = (10, 25, 40, 50, 75, 100)


@dataclass
class JudgedSweep:
    """What to make up; `run` makes it.

    Attributes:
        seed: Of everything random.
        early_stop: The spec's section, without rungs.
        trials, slots: How many, and how many at once.
        failing: Probability that a trial fails at a report point.
        crashes: Moments (in results) at which the driver dies, half of them within a result.
        prior_sweeps: What earlier sweeps taught.
    """

    seed: int
    early_stop: dict[str, Any]
    trials: int = 24
    slots: int = 3
    failing: float = 0.02
    crashes: tuple[int, ...] = ()
    prior_sweeps: PriorSweeps = field(default_factory=PriorSweeps)

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
        self.proposed: set[int] = set()
        spec = {"early_stop": {**self.early_stop, "rungs": list(RUNGS)}}
        self.ledger = LedgerBuilder(
            samples_per_step=1, tokens_per_step=1, tick=1 / 3, spec=spec, seed=7, budget_samples=BUDGET,
            prior_sweeps=self.prior_sweeps.to_dict(),
        )  # fmt: skip
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
        self.ledger.finish()
        return self

    @property
    def rows(self) -> list[Row]:
        """All rows of the ledger."""
        return self.ledger.rows

    def state(self) -> SweepState:
        """The ledger's state, without results that a crash cut off."""
        state = self.ledger.state()
        state.drop_partial_results()
        return state

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
        rule = make_rule(stop["rule"], audit=audit, prior_sweeps=self.prior_sweeps, **known)
        extra = {k: stop[k] for k in ("top_fraction", "max_false_discovery_rate", "pause") if k in stop}
        return EarlyStopper(
            rule=rule,
            rungs=RUNGS,
            budget=BUDGET,
            mode="min",
            audit=audit,
            seed=7,
            prior_sweeps=self.prior_sweeps,
            **extra,
        )

    def fill(self) -> bool:
        """Give free slots to new trials, then to paused ones that are worth it; whether any slot is at work."""
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
            if trial not in self.proposed:
                self.proposed.add(trial)
                self.ledger.trial(
                    self.name(trial),
                    start=False,
                    number=trial,
                    params={},
                    train_config={},
                    study_number=trial,
                )
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
            self.ledger.start(name, attempt=attempt, from_step=first)
        steps = list(range(first + 1, last + 1))
        noise = random.Random(f"{self.seed}:{trial}:{last}")
        value = 3.0 + self.quality[trial] + noise.gauss(0, 60.0 / last) * 0.2
        self.ledger.steps(name, last, first=first + 1, loss=value, lr=0.1, seconds=1.0, data_order="d")
        evaluated = last / BUDGET in (*RUNGS, 1.0)
        if evaluated:
            self.ledger.eval(name, value, sets={})
        report = make_report(
            step=steps, progress=steps, loss=[value] * len(steps), grad_norm=[1.0] * len(steps),
            metric=value if evaluated else None, data_order="d",
        )  # fmt: skip
        over = last == BUDGET
        decisions = (
            self.early_stopper.complete(name, report) if over else self.early_stopper.report(name, report)
        )
        for decision in decisions:
            self.ledger.write("decision", **decision.to_row())
        if torn:
            return None
        self.ledger.cost(name)
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
        self.ledger.end(
            self.name(trial),
            status,
            objective,
            reason=reason,
            step=seen,
            attempt=max(1, self.attempts[trial]),
        )

    def crash(self, *, torn: bool) -> None:
        """The driver dies. The next one knows the complete results, and continues the running trials."""
        if torn:
            self.advance(self.random.choice(self.busy), torn=True)
        self.ledger.sweep()
        self.early_stopper = self.fresh_early_stopper()
        replay_state(self.early_stopper, self.state())
        again = sorted(self.busy)
        self.busy = []
        self.waiting = again + self.waiting
