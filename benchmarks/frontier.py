"""Trade-off curves of simple rules at several thresholds, and which rule dominates which.

A rule dominates another one if it saves at least as much *and* keeps the best run at least as often. A simple rule can
look good at one threshold on one kind of curves, so its whole trade-off curve is shown for all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal

import numpy as np

from sweepft.replay.clock import Outcome, replay_study
from sweepft.replay.curves import Floats, Run, Study
from sweepft.replay.policies import Decision, Policy
from sweepft.replay.runner import Replay, ReplayRow
from sweepft.replay.score import Score, bootstrap, mean_scores, score_outcome

__all__ = ["SIMPLE", "TopSharePolicy", "curve_table", "dominance", "replay_simple"]
SIMPLE: Final = [(signal, share) for signal in ("loss", "objective") for share in (0.2, 0.25, 0.3, 0.4, 0.5)]
_ENOUGH: Final = 5  # studies a bootstrap needs at least
_TAIL: Final = 0.2  # the training loss is averaged over this last part of the progress so far


class TopSharePolicy(Policy):
    """At each report from 5% on, continue only the best share of the runs seen there; stopped runs count as worse.

    Args:
        study: The runs.
        signal: ``loss`` (training loss, mean of the last fifth) or ``objective`` (last value).
        share: Fraction of the runs that continues.
        peers: Number of other runs needed for a decision.
    """

    def __init__(
        self, study: Study, signal: Literal["loss", "objective"], share: float, peers: int = 3
    ) -> None:
        self._study, self._signal, self._share, self._peers = study, signal, share, peers
        self._seen: dict[int, dict[str, float]] = {}
        self._stopped: dict[str, int] = {}

    def _value(self, run: Run, stop: int) -> float:
        sign = 1.0 if self._study.mode == "max" else -1.0
        values = run.metric[:stop] * sign if self._signal == "objective" else -run.loss[:stop]
        known = np.isfinite(values)
        if not known.any():
            return math.nan
        tail: Floats = values[known & (run.progress[:stop] > run.progress[stop - 1] * (1 - _TAIL))]
        last = self._signal == "objective" or not len(tail)
        return float(values[known][-1] if last else tail.mean())

    def report(self, run: Run, start: int, stop: int) -> Decision:
        """Stop a run that is not among the best share."""
        if run.bad_row is not None and run.bad_row < stop:
            return "stop"
        point, own = round(20 * run.progress[stop - 1] / self._study.budget), self._value(run, stop)
        here = self._seen.setdefault(point, {})
        here[run.run_id] = own if math.isfinite(own) else -math.inf
        gone = sum(at < point for at in self._stopped.values())
        count = len(here) + gone
        better = sum(v > own for v in here.values())
        if point >= 1 and count > self._peers and math.isfinite(own) and better >= self._share * count:
            self._stopped[run.run_id] = point
            return "stop"
        return "continue"

    def reason(self, run_id: str) -> str:
        """Why a run was stopped."""
        return f"not among the best {100 * self._share:g}% by {self._signal}"


def replay_simple(study: Study, settings: Replay, full: Callable[[Study], float]) -> list[ReplayRow]:
    """Replay every simple rule over one study.

    Args:
        study: The runs.
        settings: Slots, orders, group and noise.
        full: Returns the makespan of a group without any stop.
    """
    found: dict[str, list[Score]] = {}
    runs = min(settings.group or len(study.runs), len(study.runs))
    for order in range(settings.orders):
        picked = study.sample(runs, settings.seed + order)
        for signal, share in SIMPLE:
            decide = TopSharePolicy(picked, signal, share)  # type: ignore[arg-type]  # one of the two
            outcome: Outcome = replay_study(picked, decide, slots=settings.slots, order=range(runs))
            score = score_outcome(
                picked,
                outcome,
                full_makespan=full(picked),
                top_fraction=settings.top_fraction,
                noise=settings.noise,
            )
            found.setdefault(f"best {100 * share:g}% by {signal}", []).append(score)
    return [
        ReplayRow(study.source, study.name, rule, settings.orders, runs, mean_scores(scores))
        for rule, scores in found.items()
    ]


def _points(rows: Sequence[ReplayRow], rule: str, kept: str) -> Floats:
    """Saved and kept, shape (studies, 2), in the order of the studies' names."""
    part = sorted((r for r in rows if r.rule == rule), key=lambda r: r.study)
    return np.array([[r.score.saved, getattr(r.score, kept)] for r in part])


def _beats(a: Floats, b: Floats, draws: int = 2000) -> tuple[bool, float]:
    """Whether a dominates b in the mean, and in what share of bootstraps over studies."""
    rng = np.random.default_rng(0)
    delta = a - b
    mean = delta.mean(axis=0)
    means = delta[rng.integers(0, len(delta), (draws, len(delta)))].mean(axis=1)
    held = (means >= -1e-12).all(axis=1) & (means > 1e-12).any(axis=1)
    return bool((mean >= -1e-12).all() and (mean > 1e-12).any()), float(held.mean())


def dominance(
    rows: Sequence[ReplayRow], ours: Sequence[str], peers: Sequence[str], kept: str = "best_kept"
) -> str:
    """A table with a row per source and sweepft setting: which rules it beats and which beat it.

    ``*`` marks results that hold in at least 95% of the bootstraps; it needs five studies or more.

    Args:
        rows: All rules over the same studies, of all sources.
        ours: Names of sweepft's settings.
        peers: Names of the rules to compare with.
        kept: ``best_kept`` or ``best_kept_within_noise``.
    """
    lines = [
        "| source | sweepft | saved | kept | beats | is beaten by |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for source in dict.fromkeys(r.source for r in rows):
        part = [r for r in rows if r.source == source]
        names = {r.rule for r in part}
        for own in (o for o in ours if o in names):
            a = _points(part, own, kept)
            wins, losses = [], []
            for peer in (p for p in peers if p in names):
                b = _points(part, peer, kept)
                for first, second, out in ((a, b, wins), (b, a, losses)):
                    better, sure = _beats(first, second)
                    if better:
                        out.append(peer + ("*" if sure >= 0.95 and len(a) >= _ENOUGH else ""))
            saved, share = a.mean(axis=0)
            lines.append(
                f"| {source} | {own} | {saved:.2f} | {share:.2f} | {', '.join(wins) or '-'} |"
                f" {', '.join(losses) or '-'} |"
            )
    return "\n".join(lines)


def curve_table(rows: Sequence[ReplayRow]) -> str:
    """A short table with one row per source and rule."""
    lines = ["| source | rule | saved | best kept | within noise | false stops |", "| --- " * 6 + "|"]
    for source, rule in dict.fromkeys((r.source, r.rule) for r in rows):
        part = [r.score for r in rows if (r.source, r.rule) == (source, rule)]
        cells = []
        for field in ("saved", "best_kept", "best_kept_within_noise", "false_stop"):
            values = [getattr(s, field) for s in part]
            low, high = bootstrap(values)
            cells.append(f"{np.mean(values):.2f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {source} | {rule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
