"""Do the default rule's chances come true, and do its certificates keep their bound on sweeps they were not made from?

    python benchmarks/certificates.py [--orders 4] [--md FILE] [--json FILE]

*Prior sweeps*: each kind of studies (see `calibration.py`: those that share experiments, data or code) is left out in
turn, the level is calibrated on the other kinds, and the kind left out is replayed at it. The loss asked for holds on
average over kinds, so the mean over the kinds left out, with its interval, stands beside it. *The sweep's own audits*:
large sweeps with many audits, replayed until their level is `conformal`; of the top trials, those flagged are counted,
audited or not, for that is what is bounded. *Audit intervals*: how often the audits' 95% interval of P(top | flagged)
contains the true share. *Chances*: of the trials that a decision gave some probability of the top fraction after two
trials had finished, how many ended there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import calibration
import numpy as np
import record
from calibration import Kind

from sweepft.early_stopping import Calibration, clopper_pearson
from sweepft.early_stopping.evidence import CONFIRMED
from sweepft.replay.calibrate import LEVELS, allowed_level
from sweepft.replay.clock import replay_study
from sweepft.replay.curves import Study
from sweepft.replay.policies import EarlyStopperPolicy
from sweepft.replay.runner import Replay, make_policy
from sweepft.replay.score import bootstrap, top_runs

GROUPS: Final = {"from scratch": ("from scratch",), "all kinds": ("from scratch", "fine-tune")}
STUDIES: Final = 3  # of a kind, at most
EDGES: Final = (0.0, 0.02, 0.05, 0.10, 0.15, 0.20, 0.30, 0.50, 1.0)
ENOUGH: Final = 60  # runs of a sweep whose own audits may certify it


@dataclass(frozen=True)
class Held:
    """A kind that was left out, replayed at the level that the others allow.

    Attributes:
        among: The kinds that calibrated it: a name in `GROUPS`.
        asked: The share of good runs that may be lost.
        kind: The kind left out.
        clusters: Number of the others.
        level: What they allow.
        saved: Share of the compute not spent.
        kept: Share of sweeps in which the best run, or one within its noise, was kept.
        lost: Share of the best fifth that was stopped.
    """

    among: str
    asked: float
    kind: str
    clusters: int
    level: float
    saved: float
    kept: float
    lost: float


@dataclass(frozen=True)
class Own:
    """A kind's large sweeps, with many audits.

    Attributes:
        kind: The kind.
        asked: The share of good runs that may be lost.
        sweeps: Number of replays.
        certified: Share of them that ended with a level from their own audits.
        flagged: Share of the top trials that were flagged, in those; None where there are none.
        saved: Share of the compute not spent, in those; None where there are none.
        intervals: Number of replays with audits.
        covered: Share of the audits' intervals that contain the true P(top | flagged).
    """

    kind: str
    asked: float
    sweeps: int
    certified: float
    flagged: float | None
    saved: float | None
    intervals: int
    covered: float | None


def at_levels(kind: Kind, runs: int, orders: int) -> dict[float, tuple[float, float, float]]:
    """Saved, kept and lost by level: the mean over studies and orders; at level 0 nothing is stopped."""
    out = {0.0: (0.0, 1.0, 0.0)}
    for level in LEVELS:
        settings = Replay(max_false_stop_rate=0.5, prior_sweeps=Calibration(level, 0.5, 0))
        found = [
            calibration.replay(study.sample(runs, order), noise, "calibrated", settings, order)[:3]
            for study, noise in kind.studies[:STUDIES]
            for order in range(orders)
        ]
        saved, kept, lost = (float(x) for x in np.mean(found, axis=0))
        out[level] = (saved, kept, lost)
    return out


def left_out(kinds: Sequence[Kind], bounds: Sequence[float], runs: int, orders: int) -> list[Held]:
    """Every kind in turn, at the level that the others of its group allow."""
    replayed = {k.name: at_levels(k, runs, orders) for k in kinds if k.group in GROUPS["all kinds"]}
    out = []
    for among, groups in GROUPS.items():
        names = [k.name for k in kinds if k.group in groups]
        for asked in bounds:
            for held in names:
                others = [n for n in names if n != held]
                level = allowed_level(
                    lambda level, others=others: [replayed[n][level][2] for n in others], len(others), asked
                )  # fmt: skip
                if level is not None:
                    out.append(Held(among, asked, held, len(others), level, *replayed[held][level]))
    return out


def own_audits(kind: Kind, asked: float, runs: int, orders: int, audit: float) -> Own | None:
    """A kind's sweeps of many runs; None where it has none."""
    certified, flagged, saved, covered = [], [], [], []
    settings = Replay(audit=audit, max_false_stop_rate=asked)
    for study, _ in kind.studies[:STUDIES]:
        if len(study.runs) < ENOUGH:
            continue
        for order in range(orders):
            picked = study.sample(runs, order)
            policy = make_policy("calibrated", picked, settings, order)
            assert isinstance(policy, EarlyStopperPolicy)
            outcome = replay_study(picked, policy, slots=4, order=range(len(picked.runs)))
            trials = policy.early_stopper.cohort.trials
            top = top_runs(picked, settings.top_fraction)
            basis = policy.early_stopper.summary()["rule_summary"]["basis"]
            certified.append(basis == "conformal")
            if certified[-1]:
                flagged.append(np.mean([trials[n].flagged_at is not None for n in top]))
                saved.append(
                    1 - sum(o.spent for o in outcome.runs.values()) / sum(r.cost for r in picked.runs)
                )
            covered += _covers([t for t in trials.values() if t.flagged_at is not None], set(top))
    if not certified:
        return None
    return Own(
        kind.name, asked, len(certified), float(np.mean(certified)), _mean(flagged), _mean(saved), len(covered),
        _mean(covered),
    )  # fmt: skip


def _covers(flagged: Sequence[Any], top: set[str]) -> list[bool]:
    """Whether the interval of the audited ones contains the share of all; nothing where none was audited."""
    done = [t for t in flagged if t.audited and t.status == "completed"]
    if not done:
        return []
    low, high = clopper_pearson(sum(t.trial_id in top for t in done), len(done))
    return [low <= sum(t.trial_id in top for t in flagged) / len(flagged) <= high]


def _mean(values: Sequence[Any]) -> float | None:
    return float(np.mean(values)) if values else None


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def chances(kind: Kind, runs: int, orders: int) -> list[tuple[float, bool]]:
    """The probability in each decision that rests on finished trials, and whether the trial ended in the top fifth."""
    found = []
    for study, _ in kind.studies[:STUDIES]:
        for order in range(orders):
            picked = study.sample(runs, order)
            policy = make_policy("calibrated", picked, Replay(), order)
            assert isinstance(policy, EarlyStopperPolicy)
            replay_study(picked, policy, slots=4, order=range(len(picked.runs)))
            top = set(top_runs(picked, 0.2))
            found += [
                (d.p_top, d.trial_id in top)
                for d in policy.early_stopper.decisions
                if d.p_top is not None and d.evidence.get("finished", 0) >= CONFIRMED
            ]
    return found


def reliability(kind: Kind, runs: int, orders: int) -> list[list[object]]:
    """Rows of `chances` by bins: kind, bin, decisions, mean chance, share that came true."""
    found = np.array(chances(kind, runs, orders), dtype=float).reshape(-1, 2)
    rows: list[list[object]] = []
    for low, high in pairwise(EDGES):
        part = found[(found[:, 0] >= low) & (found[:, 0] < high)]
        if len(part):
            given, true = part.mean(axis=0)
            rows.append([kind.name, f"{low:g} to {high:g}", len(part), f"{given:.3f}", f"{true:.3f}"])
    return rows


def permuted(kind: Kind) -> Kind:
    """The kind with its results permuted: nothing can be known."""
    studies: list[tuple[Study, float]] = [
        (calibration.change(s, "permuted", i), n) for i, (s, n) in enumerate(kind.studies)
    ]
    return replace(kind, name=f"{kind.name}, permuted", studies=tuple(studies))


def show(held: Sequence[Held], own: Sequence[Own], likely: Sequence[Sequence[object]]) -> str:
    """The tables."""
    rows = []
    for among, asked in dict.fromkeys((h.among, h.asked) for h in held):
        part = [h for h in held if (h.among, h.asked) == (among, asked)]
        low, high = bootstrap([h.lost for h in part])
        rows.append(
            [among, f"{asked:g}", len(part), part[0].clusters,
             f"{np.mean([h.lost for h in part]):.2f} [{low:.2f}, {high:.2f}]",
             *(f"{np.mean([getattr(h, name) for h in part]):.2f}" for name in ("saved", "kept", "level"))]
        )  # fmt: skip
    text = "## Levels from prior sweeps, on kinds left out\n\n"
    text += record.table(
        ["kinds", "asked", "left out in turn", "calibrated on", "lost", "saved", "kept", "level"], rows
    )
    each = [
        [h.among, f"{h.asked:g}", h.kind, f"{h.level:g}", *(f"{x:.2f}" for x in (h.lost, h.saved, h.kept))]
        for h in held
    ]
    text += "\n\n" + record.table(["kinds", "asked", "left out", "level", "lost", "saved", "kept"], each)
    text += "\n\n## Levels from a sweep's own audits\n\n"
    head = ["kind", "asked", "sweeps", "certified", "top flagged", "saved", "intervals", "covered"]
    text += record.table(
        head,
        [[o.kind, f"{o.asked:g}", o.sweeps, *map(_share, (o.certified, o.flagged, o.saved)), o.intervals,
          _share(o.covered)] for o in own],
    )  # fmt: skip
    text += "\n\n## Chances in decisions, and how many came true\n\n"
    return text + record.table(["kind", "chance", "decisions", "mean", "came true"], likely)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Certificates of the default rule; see the module.")
    parser.add_argument("--asked", nargs="+", type=float, default=[0.10, 0.20])
    parser.add_argument("--runs", type=int, default=20, help="runs of a sweep at levels from prior sweeps")
    parser.add_argument("--orders", type=int, default=4)
    parser.add_argument("--audit", type=float, default=0.3)
    parser.add_argument("--large", type=int, default=200, help="runs of a sweep with its own audits")
    parser.add_argument("--curves", type=Path, default=calibration.CURVES, help="folder of the public curves")
    record.add_options(parser)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    facts, begun = record.about(), time.time()
    kinds = calibration.kinds(args.curves)
    held = left_out(kinds, args.asked, args.runs, args.orders)
    large = [k for k in kinds if k.group != "from scratch" or k.name == "text RNNs"]
    large += [permuted(k) for k in large if k.group == "fine-tune" or k.name == "text RNNs"]
    asked = min(args.asked)
    own = [o for k in large if (o := own_audits(k, asked, args.large, args.orders, args.audit)) is not None]
    likely = [r for k in large for r in reliability(k, args.runs, args.orders) if k.group != "ties"]
    facts["seconds"] = round(time.time() - begun)
    figures = {
        "prior_sweeps": [asdict(h) for h in held],
        "own_audits": [asdict(o) for o in own],
        "chances": likely,
    }
    record.finish(args, "Certificates of the default stopping rule", facts, figures, show(held, own, likely))


if __name__ == "__main__":
    main()
