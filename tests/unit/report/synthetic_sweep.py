"""Ledgers of sweeps that never ran but could have: for tests and for looking at the report.

Learning curves, gradient norms, validation losses, early stops, audits, faults and a clock with several
slots, all from one seed. The response is that of our own small fine-tunes: in-domain loss has an optimum in
learning rate that moves with the batch size, retention suffers from high rates.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from support.ledger_builder import LedgerBuilder

RUNGS = (0.1, 0.25, 0.5)
START = 1_790_000_000.0


@dataclass
class Sweep:
    """What to make up. ``points`` caps the steps of a trial, so that a trial never has more."""

    trials: int = 24
    slots: int = 4
    budget: int = 2048
    batches: tuple[int, ...] = (8, 16, 32, 64)
    rule: str = "median"
    audit: float = 0.15
    gpus: float = 0.0
    seed: int = 0
    points: int | None = None
    name: str = "gsm8k-tiny"
    faulty: bool = True
    finished: bool = True
    cost_rows: bool = True
    configs: list[dict[str, Any]] = field(default_factory=list)

    def write(self, run_dir: Path) -> Path:
        """Write the ledger of this sweep into a run folder."""
        maker = _Maker(self)
        maker.make()
        ledger = LedgerBuilder(time=START, tick=0.0, **header(self))
        for time, kind, fields in sorted(maker.rows, key=itemgetter(0)):
            ledger.at(round(time, 3)).write(kind, **fields)
        return ledger.save(run_dir)


class _Maker:
    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.rng = np.random.default_rng(sweep.seed)
        self.rows: list[tuple[float, str, dict[str, Any]]] = []
        self.seen: dict[float, list[tuple[float, float]]] = {}

    def tell(self, time: float, kind: str, **fields: Any) -> None:
        self.rows.append((time, kind, fields))

    def make(self) -> None:
        s = self.sweep
        slots = [(START + 4.0 + 0.4 * i, i) for i in range(s.slots)]
        heapq.heapify(slots)
        for number in range(s.trials):
            now, slot = heapq.heappop(slots)
            until = self.trial(number, slot, now)
            heapq.heappush(slots, (until, slot))
        end = max(t for t, _ in slots)
        if s.cost_rows:
            for t, slot in slots:
                self.tell(end, "cost", trial_id=None, slot=slot, phase="idle", seconds=end - t, gpus=s.gpus)
                self.tell(
                    START + 4 + 0.4 * slot,
                    "cost",
                    trial_id=None,
                    slot=slot,
                    phase="startup",
                    seconds=4 + 0.4 * slot,
                    gpus=s.gpus,
                )
        if s.finished:
            self.tell(end, "finish", status="finished", reason=f"{s.trials} trials done")

    def params(self, number: int) -> dict[str, Any]:
        if number < len(self.sweep.configs):
            return self.sweep.configs[number]
        return {
            "batch_size": int(self.rng.choice(self.sweep.batches)),
            "learning_rate": float(10 ** self.rng.uniform(-4, -2)),
            "warmup": float(self.rng.choice([0.0, 0.03, 0.1])),
            "schedule": str(self.rng.choice(["constant", "cosine", "linear", "wsd"])),
        }

    def trial(self, number: int, slot: int, now: float) -> float:
        s, t = self.sweep, f"t{number:03d}"
        params = self.params(number)
        curve = Curve.of(params, s, self.rng)
        switch = 0.06 if number >= s.slots else 5.2
        self.tell(
            now,
            "trial",
            trial_id=t,
            number=number,
            params=params,
            train_config={
                "micro_batch": 8,
                "zero_stage": 2,
                "precision": "fp32",
                "optimizer": {"name": "adamw"},
                **params,
            },
            origin="start_with" if number == 0 else "sampler",
            planned_steps=curve.steps,
            warmup_steps=curve.warmup_steps,
            study_number=number,
        )
        now += switch
        self.tell(
            now, "start", trial_id=t, attempt=0, slot=slot, warm=number >= s.slots, switch_seconds=switch
        )
        self.cost(now, t, slot, "switch", switch)
        breaks_at = curve.steps // 3 if s.faulty and number == 5 else None
        audited = False
        done = 0
        attempt = 0
        rungs = [*s_windows(s), 1.0]
        points = sorted({*rungs, *np.arange(0.05, 1.0, 0.05).round(3)})
        for at in points:
            last = min(curve.steps, math.ceil(at * s.budget / curve.batch))
            if last <= done:
                continue
            if breaks_at is not None and last > breaks_at:
                now += 7.0
                self.tell(
                    now,
                    "fault",
                    trial_id=t,
                    slot=slot,
                    rank=0,
                    error="RankFailed",
                    message="rank 0 was killed (signal 9)",
                    action="rebuilt the ranks, trial goes on from its last rung",
                    lost_seconds=7.0,
                )
                self.cost(now, t, slot, "lost", 7.0)
                attempt, breaks_at = attempt + 1, None
                self.tell(
                    now,
                    "start",
                    trial_id=t,
                    attempt=attempt,
                    slot=slot,
                    from_step=done,
                    warm=False,
                    switch_seconds=0,
                )
            train = float(curve.seconds[done:last].sum())
            evaluate = 0.35 if at in rungs else 0.0
            now += train + evaluate
            history = curve.history(done, last)
            phases = {"switch": 0.0 if done else switch, "train": train, "evaluate": evaluate}
            self.tell(
                now,
                "steps",
                trial_id=t,
                attempt=attempt,
                history=history,
                data_order="9f2c6e1a",
                phase_seconds=phases,
            )
            self.cost(now, t, slot, "train", train)
            done = last
            position = {"trial_id": t, "step": last, "samples_seen": int(curve.samples[last - 1])}
            if curve.diverges_at is not None and last >= curve.diverges_at:
                self.decision(
                    now,
                    position,
                    at,
                    "divergence_check",
                    "divergence_check",
                    "training loss is not finite",
                    {"loss": math.nan},
                )
                return self.end(now, position, attempt, "diverged", "training loss is not finite at step "
                                f"{curve.diverges_at}", None, curve)  # fmt: skip
            if at not in rungs:
                continue
            self.cost(now, t, slot, "evaluate", evaluate)
            value, sets = curve.validation(last)
            self.tell(now, "eval", **position, attempt=attempt, rung=at, final=at == 1.0, objective=value, sets=sets,
                      seconds=evaluate)  # fmt: skip
            if at == 1.0:
                return self.end(now, position, attempt, "completed", None, value, curve)
            action, reason, evidence = self.judge(now, at, value, audited)
            self.decision(now, position, at, action, s.rule, reason, evidence)
            audited = audited or action == "audit"
            if action == "stop":
                return self.end(now, position, attempt, "stopped", reason, None, curve)
            if s.faulty and number == 11 and at == 0.25:
                return self.end(
                    now,
                    position,
                    attempt,
                    "failed",
                    "RankFailed: out of memory at micro-batch 1",
                    None,
                    curve,
                )
        raise AssertionError("a trial must end")

    def judge(self, now: float, at: float, value: float, audited: bool) -> tuple[str, str, dict[str, Any]]:
        earlier = [v for when, v in self.seen.setdefault(at, []) if when < now]
        self.seen[at].append((now, value))
        if len(earlier) < 4 or self.sweep.rule == "none":
            return (
                "continue",
                f"only {len(earlier)} peers have passed this rung",
                {"value": value, "peers": len(earlier)},
            )
        median = float(np.median(earlier))
        evidence = {"value": value, "median": median, "peers": len(earlier)}
        if value <= median or audited:
            return (
                "continue",
                f"validation loss {value:.4f} is not worse than the median {median:.4f}",
                evidence,
            )
        reason = f"validation loss {value:.4f} is worse than the median {median:.4f} of {len(earlier)} peers at {at:.0%}"
        action = "audit" if self.rng.random() < self.sweep.audit else "stop"
        return action, reason, evidence

    def decision(
        self, now: float, position: dict, at: float, action: str, rule: str, reason: str, evidence: dict
    ) -> None:
        self.tell(
            now, "decision", **position, rung=at, action=action, rule=rule, reason=reason, evidence=evidence
        )

    def cost(self, now: float, t: str, slot: int, phase: str, seconds: float) -> None:
        if self.sweep.cost_rows:
            self.tell(now, "cost", trial_id=t, slot=slot, phase=phase, seconds=seconds, gpus=self.sweep.gpus)

    def end(self, now: float, position: dict, attempt: int, status: str, reason: str | None, value: float |
    None,
            curve: Curve) -> float:  # fmt: skip
        tokens = int(curve.tokens[position["step"] - 1])
        self.tell(
            now,
            "end",
            **position,
            attempt=attempt,
            status=status,
            reason=reason,
            objective=value,
            tokens_seen=tokens,
        )
        return now


def s_windows(sweep: Sweep) -> tuple[float, ...]:
    return RUNGS if sweep.rule != "none" else (0.25, 0.5)


@dataclass
class Curve:
    """One trial's made-up training."""

    batch: int
    steps: int
    warmup_steps: int
    samples: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray
    grad_norm: np.ndarray
    lr: np.ndarray
    seconds: np.ndarray
    in_domain: np.ndarray
    retention: np.ndarray
    diverges_at: int | None
    noise: tuple[float, float]

    @classmethod
    def of(cls, params: dict[str, Any], sweep: Sweep, rng: np.random.Generator) -> Curve:
        batch = int(params.get("batch_size", 16))
        if sweep.points is not None:
            batch = max(batch, sweep.budget // sweep.points)
        rate = float(params.get("learning_rate", 1e-3))
        steps = math.ceil(sweep.budget / batch)
        n = np.arange(1, steps + 1)
        samples = np.minimum(n * batch, sweep.budget)
        done = samples / sweep.budget
        warmup = int(float(params.get("warmup", 0.0)) * steps)
        lr = rate * np.where(n <= warmup, n / max(1, warmup), _shape(str(params.get("schedule")), done))
        best = 1.5e-3 * math.sqrt(batch / 16)
        miss = math.log10(rate / best)
        floor = 1.62 + 0.16 * miss**2 + 0.035 * math.log2(batch / 8) + 0.02 * (params.get("warmup") == 0.1)
        speed = 3.0 + 7.0 / (1 + math.exp(-2.5 * (miss + 0.6)))
        in_domain = floor + 1.9 * np.exp(-speed * done**0.6) + 0.05 * (1 - np.minimum(1, done * 2))
        retention = (
            2.35
            + 0.55 / (1 + math.exp(-3.2 * (math.log10(rate) + 2.55))) * done**0.5
            + 0.01 * math.log2(16 / batch)
        )
        wobble = rng.normal(0, 0.10 / math.sqrt(batch / 8), steps)
        norm = (0.9 + 0.5 * np.exp(-6 * done)) * np.sqrt(0.3 + 6.0 / batch) * (1 + 0.35 * max(0.0, miss))
        diverges = miss > 0.78 and rng.random() < 0.5
        return cls(
            batch=batch,
            steps=steps,
            warmup_steps=warmup,
            samples=samples,
            tokens=samples * 118,
            loss=in_domain - 0.03 + wobble,
            grad_norm=norm * np.exp(rng.normal(0, 0.16, steps)),
            lr=lr,
            seconds=0.012 * batch * rng.lognormal(0, 0.06, steps),
            in_domain=in_domain,
            retention=np.broadcast_to(retention, (steps,)),
            diverges_at=int(rng.integers(2, max(3, steps // 3))) if diverges else None,
            noise=(float(rng.normal(0, 0.012)), float(rng.normal(0, 0.008))),
        )

    def history(self, first: int, last: int) -> dict[str, Any]:
        loss, norm = self.loss.copy(), self.grad_norm.copy()
        if self.diverges_at is not None:
            loss[self.diverges_at - 1 :] = math.nan
            norm[self.diverges_at - 1 :] = math.inf
        cut = slice(first, last)
        return {
            "step": np.arange(first + 1, last + 1),
            "samples_seen": self.samples[cut],
            "tokens_seen": self.tokens[cut],
            "loss": loss[cut],
            "grad_norm": norm[cut],
            "lr": self.lr[cut],
            "seconds": self.seconds[cut],
        }

    def validation(self, step: int) -> tuple[float, dict[str, Any]]:
        math_loss = float(self.in_domain[step - 1] + self.noise[0])
        general = float(self.retention[step - 1] + self.noise[1])
        sets: dict[str, Any] = {
            "math": {"loss": math_loss, "stderr": 0.011, "tokens": 26_500, "samples": 224},
            "retention": {"loss": general, "stderr": 0.016, "tokens": 9_300, "samples": 200},
        }
        if (
            step == self.steps
        ):  # what samples have in common is in all trials' losses, a little is a trial's own
            for found in sets.values():
                common = np.random.default_rng(0).normal(size=64)
                own = np.random.default_rng(abs(int(found["loss"] * 1e6))).normal(size=64)
                found["residuals"] = (found["stderr"] * found["tokens"] / 8 * (common + 0.3 * own)).tolist()
        return math_loss, sets


def _shape(schedule: str, done: np.ndarray) -> np.ndarray:
    if schedule == "cosine":
        return 0.5 * (1 + np.cos(np.pi * done))
    if schedule == "linear":
        return 1 - done
    if schedule == "wsd":
        return np.minimum(1.0, (1.02 - done) / 0.2)
    return np.ones_like(done)


def header(sweep: Sweep) -> dict[str, Any]:
    """The `sweep` row."""
    spec = {
        "name": sweep.name,
        "model": {"path": "models/tiny-llama"},
        "data": {
            "train": [{"path": "data/train.jsonl.gz", "domain": "math"}],
            "validation": [
                {"name": "math", "fraction": 0.03, "weight": 1.0},
                {"name": "retention", "path": "data/general.jsonl.gz", "limit": 200, "weight": 0.0},
            ],
            "max_length": 512,
        },
        "train": {
            "budget": {"samples": sweep.budget},
            "micro_batch": 8,
            "precision": "fp32",
            "zero_stage": 2,
            "seed": 0,
        },
        "search": {
            "trials": sweep.trials,
            "sampler": "tpe",
            "space": {
                "batch_size": {"choice": list(sweep.batches)},
                "learning_rate": {"log_uniform": [1e-4, 1e-2]},
                "warmup": {"choice": [0.0, 0.03, 0.1]},
                "schedule": {"choice": ["constant", "cosine", "linear", "wsd"]},
            },
        },
        "early_stop": {"rule": sweep.rule, "rungs": list(s_windows(sweep)), "min_steps": 8},
        "resources": {
            "workers_per_trial": 1,
            "gpus_per_worker": sweep.gpus,
            "cpus_per_worker": 1,
            "concurrent_trials": sweep.slots,
        },
    }
    return {
        "name": sweep.name,
        "spec": spec,
        "spec_digest": "sha256:0c1f4be2",
        "seed": sweep.seed,
        "budget_samples": sweep.budget,
        "sweepft_version": "0.1.0",
        "data": {
            "train_rows": 7249,
            "held_out_rows": {"math": 224, "retention": 200},
            "digest": "sha256:77aa01",
        },
        "versions": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "ray": "2.60.0",
            "deepspeed": "0.19.8",
            "optuna": "5.0.0",
        },
        "hardware": {"host": "node-1", "cpus": 8, "memory_gib": 64, "gpus": []},
        "git_commit": "b8e7cd8",
        "command": f"sweepft run {sweep.name}.yaml",
    }


if __name__ == "__main__":
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--points", type=int)
    parser.add_argument("--rule", default="median")
    given = parser.parse_args()
    Sweep(trials=given.trials, slots=given.slots, points=given.points, rule=given.rule).write(given.run_dir)
