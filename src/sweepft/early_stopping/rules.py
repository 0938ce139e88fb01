"""Early-stopping rules: what a rule is, the simple ones, and `make_rule`, which makes any of them by name.

A rule is asked once for each trial at each rung. It sees the trial's snapshot there and the cohort of all trials, and
answers with a `RuleDecision`: flag the trial, or let it continue. What follows from a flag is up to the early stopper.
The `calibrated` rule has a module of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from sweepft.early_stopping.calibrated import CalibratedRule
from sweepft.early_stopping.cohort import Cohort
from sweepft.early_stopping.curve import Snapshot
from sweepft.early_stopping.decisions import RuleDecision, too_few
from sweepft.early_stopping.prior_sweeps import PriorSweepsLike, read_prior_sweeps
from sweepft.early_stopping.rungs import Rung, is_number
from sweepft.early_stopping.trial import TrialRecord

RULES: Final = ("none", "median", "recipe", "asha", "calibrated")


class Rule(Protocol):
    """An early-stopping rule."""

    @property
    def name(self) -> str:
        """The rule's name in decisions and reports."""
        ...

    @property
    def rejudges(self) -> bool:
        """Whether a trial is judged again between rungs, as more becomes known of its peers."""
        ...

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Judge a trial at a rung; its snapshot is ``trial.snapshots[rung]``."""
        ...

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """The rule's settings and what it has learned, JSON-able."""
        ...


class NoRule:
    """Flags no trial: only the divergence check stops trials."""

    name = "none"
    rejudges = False

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Never flags."""
        return RuleDecision(False, "no early-stopping rule is set")

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Empty."""
        return {}


class AshaRule:
    """Asynchronous successive halving (Li et al., 2020): flags a trial that is not among the best 1/eta at the rung so
    far. Where the standard error of its objective is known, it is given the benefit of one.

    Args:
        eta: Reduction factor.
    """

    name = "asha"
    rejudges = False

    def __init__(self, eta: float = 3.0) -> None:
        if not (is_number(eta) and eta > 1):
            raise ValueError(f"eta: must be a number above 1 (got {eta!r})")
        self.eta = eta

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """The first trial at a rung always continues."""
        own = trial.snapshots[rung].metric
        others = cohort.peers(rung, "metric", own)
        if not math.isfinite(own) or others < 1:
            return RuleDecision(
                False, f"no objective or no other trial at {rung.name}", evidence={"peers": others}
            )
        beats = cohort.share_worse(rung, trial)
        needed = 1.0 - 1.0 / self.eta
        return RuleDecision(
            beats < needed,
            f"objective {own:.4g} beats {100 * beats:.0f}% of {others} other trials at {rung.name}"
            f" ({100 * needed:.0f}% needed)",
            evidence={"objective": own, "peers": others, "beats": beats, "eta": self.eta},
        )

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Its setting."""
        return {"eta": self.eta}


class MedianRule:
    """Flags a trial with an objective strictly worse than the median of the other trials at the rung (Golovin et al.,
    2017); where its standard error is known, worse by more than one.

    Args:
        min_peers: Other trials needed at the rung before any trial is flagged there.

    Example:
        >>> from sweepft.early_stopping import EarlyStopper, MedianRule, make_report
        >>> stopper = EarlyStopper(rule=MedianRule(min_peers=2), rungs=[0.5], budget=100, mode="min")
        >>> for name, loss in {"a": 1.0, "b": 2.0, "c": 3.0}.items():
        ...     for decision in stopper.report(name, make_report(step=[5], progress=[50], metric=loss)):
        ...         print(decision.trial_id, decision.action, "-", decision.reason)
        a continue - 0 other trials at 50% (2 needed)
        b continue - 1 other trials at 50% (2 needed)
        c stop - objective 3 is worse than the median 1.5 of 2 other trials at 50%
    """

    name = "median"
    rejudges = False

    def __init__(self, min_peers: int = 3) -> None:
        self.min_peers = min_peers

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """Ties continue, and so do trials without an objective."""
        own = trial.snapshots[rung].metric
        if not math.isfinite(own):
            return RuleDecision(False, f"no validation objective at {rung.name}")
        peers = cohort.peers(rung, "metric", own)
        evidence: dict[str, Any] = {"objective": own, "peers": peers}
        if peers < self.min_peers:
            return RuleDecision(False, too_few(peers, self.min_peers, rung), evidence=evidence)
        median = cohort.median_of_others(rung, "metric", own)
        evidence["median"] = median
        stderr = trial.snapshots[rung].metric_stderr
        noise, known = 0.0, ""
        if math.isfinite(stderr):
            noise, known = stderr, f" ± {stderr:.2g}"
            evidence["stderr"] = stderr
        behind = cohort.sign * (median - own)
        worse = behind > noise
        word = "worse" if worse else "no worse" if behind <= 0 else "worse by no more than its noise"
        return RuleDecision(
            worse,
            f"objective {own:.4g}{known} is {word} than the median {median:.4g} of {peers} other"
            f" trials at {rung.name}",
            evidence=evidence,
        )

    def summary(self, cohort: Cohort) -> dict[str, Any]:
        """Its setting."""
        return {"min_peers": self.min_peers}


class RecipeRule:
    """Flags trials in the lower half of low gradient norm plus high training loss, among equal batch sizes.

    This is the direction that "Unveiling the Secret Recipe" (arXiv 2412.13337) reports. It is here to be compared with:
    on most public curves its direction for the loss is wrong. Gradient norms shrink with the batch, E|g_B|^2 = |G|^2 +
    tr(Sigma)/B, so only trials of the same batch size are compared.

    Args:
        min_peers: Comparable trials needed at the rung before any trial is flagged there.
        batch_key: Parameter that holds the batch size; without it all trials are comparable.
    """

    name = "recipe"
    rejudges = False

    def __init__(self, min_peers: int = 3, batch_key: str = "batch_size") -> None:
        self.min_peers = min_peers
        self.batch_key = batch_key

    def decide(self, cohort: Cohort, trial: TrialRecord, rung: Rung) -> RuleDecision:
        """The score is the mean of the trial's two ranks in [0, 1]; below 0.5 it is flagged."""
        own = trial.snapshots[rung]
        batch = trial.covariate(self.batch_key)
        peers = [
            snap
            for name, snap in cohort.at(rung).items()
            if name != trial.trial_id and cohort.trials[name].covariate(self.batch_key) == batch
        ]
        ranks = {}
        for signal, direction in (("log_grad_norm", -1.0), ("loss", 1.0)):
            rank = _rank(getattr(own, signal), peers, signal, self.min_peers)
            if rank is not None:
                ranks[signal] = rank if direction > 0 else 1.0 - rank
        evidence: dict[str, Any] = {"peers": len(peers), "batch_size": batch, "ranks": ranks}
        if not ranks:
            return RuleDecision(
                False,
                f"{len(peers)} comparable trials at {rung.name} ({self.min_peers} needed)",
                evidence=evidence,
            )
        score = sum(ranks.values()) / len(ranks)
        evidence["score"] = score
        words = {"log_grad_norm": "low gradient norm", "loss": "high training loss"}
        return RuleDecision(
            score < 0.5,
            f"mean rank {score:.2f} {'<' if score < 0.5 else '>='} 0.50 on {' and '.join(words[s] for s in ranks)}"
            f" among {len(peers)} comparable trials at {rung.name}",
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


def make_rule(
    name: str,
    *,
    min_peers: int = 3,
    batch_key: str = "batch_size",
    eta: float = 3.0,
    top_fraction: float = 0.2,
    max_false_stop_rate: float = 0.10,
    objective_error: float = 0.0,
    covariates: Sequence[str] = (),
    audit: float = 0.0,
    prior_sweeps: PriorSweepsLike = None,
) -> Rule:
    """The rule of this name, one of `RULES`; settings that it does not have are ignored.

    Args:
        name: The rule.
        min_peers: Other trials needed at a rung (``asha``: always one).
        batch_key: Parameter that holds the batch size.
        eta: Reduction factor of ``asha``.
        top_fraction: See `CalibratedRule`, as for all that follows.
        max_false_stop_rate: See there.
        objective_error: See there.
        covariates: See there.
        audit: See there.
        prior_sweeps: The rule takes its calibration from there.

    Raises:
        ValueError: Unknown name, a wrong value, or settings that do not fit together.
    """
    if not (is_number(min_peers) and min_peers >= 0):
        raise ValueError(f"min_peers: must be a number of trials (got {min_peers!r})")
    if not (is_number(eta) and eta > 1):
        raise ValueError(f"eta: must be a number above 1 (got {eta!r})")
    if name == "none":
        return NoRule()
    if name == "median":
        return MedianRule(min_peers)
    if name == "recipe":
        return RecipeRule(min_peers, batch_key)
    if name == "asha":
        return AshaRule(eta)
    if name == "calibrated":
        known = read_prior_sweeps(
            prior_sweeps, top_fraction=top_fraction, max_false_stop_rate=max_false_stop_rate
        )
        return CalibratedRule(
            top_fraction=top_fraction,
            max_false_stop_rate=max_false_stop_rate,
            objective_error=objective_error,
            min_peers=min_peers,
            covariates=covariates,
            audit=audit,
            calibration=known.calibration,
            batch_key=batch_key,
        )
    raise ValueError(f"rule: must be one of {', '.join(RULES)} (got {name!r})")
