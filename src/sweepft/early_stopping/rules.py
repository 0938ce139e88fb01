"""The paper's direction: high gradient norm and low training loss early in training rank low.

From "Unveiling the Secret Recipe" (arXiv 2412.13337), kept by name to be compared and to be doubted: on most
public curves its direction for the loss is wrong. Gradient norms shrink with the batch, E|g_B|^2 = |G|^2 +
tr(Sigma)/B, so only trials of the same batch size are compared.
"""
# MERGED What a rule is, and the rules by name.
# MERGED Asynchronous successive halving: at each window only the best 1/eta of those seen there go on.
# MERGED The median rule: stop a trial whose held-out objective at a window is worse than the median there.
# MERGED Rules by name: the one list that the scheduler, the pruner, the replay and the spec read.

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from sweepft.early_stopping.calibrated import CalibratedRule
from sweepft.early_stopping.cohort import Cohort, TrialRecord
from sweepft.early_stopping.curve import Snapshot
from sweepft.early_stopping.decisions import RuleDecision
from sweepft.early_stopping.prior_sweeps import PriorSweepsLike, read_prior_sweeps
from sweepft.early_stopping.rungs import Rung


class Rule(Protocol):
    """An early-termination rule."""

    @property
    def name(self) -> str:
        """The rule's name in verdicts and reports."""
        ...

    @property
    def rejudges(self) -> bool:
        """Whether a trial is judged again at every report after a window, as its peers become known."""
        ...

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Judge a trial at a window; its snapshot there is in ``trial.snapshots[window]``."""
        ...

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """What the rule has learned, JSON-able."""
        ...


class NoRule:
    """Condemns nobody: only the guards act."""

    name = "none"
    rejudges = False

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Never condemned."""
        return RuleDecision(False, "no early-stop rule is set")

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Nothing is learned."""
        return {}


class AshaRule:
    """Condemn what is not among the best 1/eta objectives at the window so far.

    Args:
        eta: Reduction factor.
    """

    name = "asha"
    rejudges = False

    def __init__(self, eta: float = 3.0) -> None:
        self.eta = eta

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """The first trial at a rung always goes on."""
        own = trial.snapshots[rung].metric
        others = cohort.peers(rung, "metric", own)
        if not math.isfinite(own) or others < 1:
            return RuleDecision(
                False, f"no objective or no other trial at {rung.name}", evidence={"peers": others}
            )
        below = cohort.share_below(rung, "metric", own)
        beaten = 1.0 - below if cohort.mode == "min" else below
        return RuleDecision(
            beaten < 1.0 - 1.0 / self.eta,
            f"objective {own:.4g} beats {100 * beaten:.0f}% of {others} others at {rung.name},"
            f" {100 * (1 - 1 / self.eta):.0f}% are needed",
            evidence={"objective": own, "peers": others, "beats": beaten, "eta": self.eta},
        )

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Its one setting."""
        return {"eta": self.eta}


class MedianRule:
    """Condemn below the median of the other trials at the same window.

    Args:
        min_peers: Other trials needed at the window before anything is condemned.
    """

    name = "median"
    rejudges = False

    def __init__(self, min_peers: int = 3) -> None:
        self.min_peers = min_peers

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Condemned when strictly worse than the median of the others; ties continue."""
        own = trial.snapshots[rung].metric
        if not math.isfinite(own):
            return RuleDecision(False, f"no held-out objective at {rung.name}: the median rule cannot judge")
        peers = cohort.peers(rung, "metric", own)
        evidence: dict[str, Any] = {"objective": own, "peers": peers}
        if peers < self.min_peers:
            return RuleDecision(
                False,
                f"{peers} other trials at {rung.name}, {self.min_peers} needed to judge",
                evidence=evidence,
            )
        median = cohort.median_of_others(rung, "metric", own)
        evidence["median"] = median
        worse = own > median if cohort.mode == "min" else own < median
        word = "worse than" if worse else "no worse than"
        return RuleDecision(
            worse,
            f"objective {own:.4g} is {word} the median {median:.4g} of {peers} others at {rung.name}",
            evidence=evidence,
        )

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Its one setting."""
        return {"min_peers": self.min_peers}


class RecipeRule:
    """Condemn trials in the lower half of (low gradient norm + high loss), among equal batch sizes.

    Args:
        min_peers: Comparable trials needed at the window before anything is condemned.
        batch_key: Config key of the batch size; without it all trials are taken as comparable.
    """

    name = "recipe"
    rejudges = False

    def __init__(self, min_peers: int = 3, batch_key: str = "batch_size") -> None:
        self.min_peers = min_peers
        self.batch_key = batch_key

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Condemned when the mean of its two ranks lies below the middle."""
        own = trial.snapshots[rung]
        batch = trial.covariate(self.batch_key)
        peers = [
            snap
            for name, snap in cohort.at(rung).items()
            if name != trial.trial_id and cohort.trials[name].covariate(self.batch_key) == batch
        ]
        scores = {}
        for signal, direction in (("log_grad_norm", -1.0), ("loss", 1.0)):
            rank = _rank(getattr(own, signal), peers, signal, self.min_peers)
            if rank is not None:
                scores[signal] = rank if direction > 0 else 1.0 - rank
        evidence: dict[str, Any] = {"peers": len(peers), "batch_size": batch, "ranks": scores}
        if not scores:
            return RuleDecision(
                False,
                f"{len(peers)} comparable trials at {rung.name} with loss or gradient norm,"
                f" {self.min_peers} needed to judge",
                evidence=evidence,
            )
        score = sum(scores.values()) / len(scores)
        evidence["score"] = score
        words = {"log_grad_norm": "low gradient norm", "loss": "high training loss"}
        return RuleDecision(
            score < 0.5,
            f"ranks {score:.2f} of 1 on {' and '.join(words[s] for s in scores)} among {len(peers)}"
            f" comparable trials at {rung.name} (the paper's direction; half is needed)",
            evidence=evidence,
        )

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Its settings."""
        return {"min_peers": self.min_peers, "batch_key": self.batch_key}


def _rank(own: float, peers: Iterable[Snapshot], signal: str, min_peers: int) -> float | None:
    """Share of the peers below ``own`` (ties half), or None with too few peers or no value."""
    values: list[float] = [v for v in (getattr(p, signal) for p in peers) if math.isfinite(v)]
    if not math.isfinite(own) or len(values) < max(1, min_peers):
        return None
    return sum((v < own) + 0.5 * (v == own) for v in values) / len(values)


RULES: Final = ("none", "median", "recipe", "asha", "calibrated")


def make_rule(
    name: str,
    *,
    min_peers: int = 3,
    batch_key: str = "batch_size",
    eta: float = 3.0,
    top_fraction: float = 0.2,
    max_false_stop_rate: float = 0.10,
    covariates: Sequence[str] = (),
    audit: float = 0.0,
    prior_sweeps: PriorSweepsLike = None,
) -> Rule:
    """The rule of this name; settings that it does not have are ignored.

    Args:
        name: One of `RULES`.
        min_peers: Other trials needed at a window to judge one (asha: always one).
        batch_key: Config key of the batch size.
        eta: Reduction factor of ``asha``.
        good: See `CalibratedRule`, as all that follows.
        false_stop: See there.
        covariates: See there.
        audit: See there.
        history: What earlier sweeps taught; the rule takes its calibration, the referee its audits.

    Raises:
        ValueError: Unknown name, or a setting or history that does not fit.
    """
    if name == "none":
        return NoRule()
    if name == "median":
        return MedianRule(min_peers)
    if name == "recipe":
        return RecipeRule(min_peers, batch_key)
    if name == "asha":
        return AshaRule(eta)
    if name == "calibrated":
        return CalibratedRule(
            top_fraction=top_fraction,
            max_false_stop_rate=max_false_stop_rate,
            min_peers=min_peers,
            covariates=covariates,
            audit=audit,
            calibration=read_prior_sweeps(
                prior_sweeps, top_fraction=top_fraction, max_false_stop_rate=max_false_stop_rate
            ).calibration,
            batch_key=batch_key,
        )
    raise ValueError(f"rule: one of {', '.join(RULES)} is needed (got {name!r})")
