"""What is known from prior sweeps: a calibration of the calibrated rule, and the outcomes of audits.

A calibration (made by ``sweepft replay --calibrate``) sets the level of the calibrated rule. Audits of prior sweeps
are read from their ledgers and pooled with those of the new sweep: false stops are too rare to count in one sweep.
Both are plain data: a sweep records them in its own ledger and never reads the files again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sweepft.bounded_json import read_json_file
from sweepft.early_stopping.audit import audit_rate, audit_weight, top_edge
from sweepft.early_stopping.level import Calibration
from sweepft.errors import LedgerError, PriorSweepsError
from sweepft.ledger import SweepState, TrialState, iter_ledger, ledger_path


@dataclass(frozen=True)
class PastAudits:
    """The audits of one prior sweep.

    Attributes:
        source: The run folder.
        began: Unix seconds of its start, which are the same in every copy of its ledger.
        outcomes: For each audited trial that reached its full budget, in the order of their ends, whether it is in the
            top fraction after all.
    """

    source: str
    began: float
    outcomes: tuple[bool, ...]


@dataclass(frozen=True)
class PriorSweeps:
    """What a new sweep knows of prior ones.

    Attributes:
        calibration: For the calibrated rule, or None.
        audits: One entry for each prior sweep, the earliest first.
    """

    calibration: Calibration | None = None
    audits: tuple[PastAudits, ...] = ()

    @property
    def outcomes(self) -> list[bool]:
        """The outcomes of all prior sweeps, in order of time."""
        return [outcome for sweep in self.audits for outcome in sweep.outcomes]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        calibration = self.calibration.to_dict() if self.calibration is not None else None
        audits = [{**a.__dict__, "outcomes": list(a.outcomes)} for a in self.audits]
        return {"calibration": calibration, "audits": audits}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PriorSweeps:
        """The inverse of `to_dict`."""
        calibration = data.get("calibration")
        audits = (
            PastAudits(str(a["source"]), float(a["began"]), tuple(map(bool, a["outcomes"])))
            for a in data.get("audits", ())
        )
        return cls(Calibration.from_dict(calibration) if calibration is not None else None, tuple(audits))


PriorSweepsItem: TypeAlias = Calibration | Mapping[str, Any] | str | Path
PriorSweepsLike: TypeAlias = PriorSweeps | PriorSweepsItem | Sequence[PriorSweepsItem] | None
"""A `Calibration`, its dict or its JSON file; the run folder (or ledger) of a prior sweep; or a list of these."""


def read_prior_sweeps(
    given: PriorSweepsLike,
    *,
    rule: str = "calibrated",
    top_fraction: float = 0.2,
    max_false_stop_rate: float = 0.10,
) -> PriorSweeps:
    """Read what ``prior_sweeps`` names.

    Args:
        given: See `PriorSweepsLike`; a `PriorSweeps` (or its dict) is returned as it is.
        rule: The new sweep's rule: only audits of the same rule count.
        top_fraction: The new sweep's top fraction, by which the outcomes of prior audits are decided.
        max_false_stop_rate: The new sweep's bound (rule ``calibrated``).

    Raises:
        PriorSweepsError: Names the entry, what is wrong with it and what to do.
    """
    if isinstance(given, PriorSweeps):
        return given
    if isinstance(given, Mapping) and "audits" in given:
        return PriorSweeps.from_dict(given)
    items: Sequence[PriorSweepsItem] = []
    if isinstance(given, Sequence) and not isinstance(given, str):
        items = given
    elif given is not None:
        items = [given]
    calibration: Calibration | None = None
    sweeps: dict[float, PastAudits] = {}
    for item in items:
        ledger = _ledger_of(item)
        if ledger is not None:
            found = _audits(_read(ledger, item), str(item), rule, top_fraction, max_false_stop_rate)
            if found.began in sweeps:
                raise _wrong(
                    item, f"is the same sweep as {sweeps[found.began].source}", "list it once", "repeated"
                )
            sweeps[found.began] = found
            continue
        read = _calibration(item, max_false_stop_rate)
        if calibration is not None:
            raise _wrong(
                item,
                "is a second calibration",
                "make one calibration over all prior sweeps",
                "second_calibration",
            )
        if rule != "calibrated":
            raise _wrong(item, f"is a calibration, which rule {rule} does not use", "remove it", "unused")
        calibration = read
    return PriorSweeps(calibration, tuple(sweeps[began] for began in sorted(sweeps)))


def _wrong(item: Any, rule: str, remedy: str, what: str) -> PriorSweepsError:
    return PriorSweepsError(str(item), rule, remedy, key=f"prior_sweeps.{what}")


def _calibration(item: PriorSweepsItem, max_false_stop_rate: float) -> Calibration:
    if isinstance(item, Calibration):
        found = item
    else:
        try:
            found = Calibration.from_dict(item if isinstance(item, Mapping) else read_json_file(Path(item)))
        except FileNotFoundError:
            remedy = "give a calibration file or the folder of a prior run"
            raise _wrong(item, "does not exist", remedy, "absent") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "make one with: sweepft replay SOURCE --calibrate FILE"
            raise _wrong(
                item, f"is not a calibration ({type(error).__name__}: {error})", remedy, "no_calibration"
            ) from error
    if found.max_false_stop_rate > max_false_stop_rate + 1e-9:
        theirs = f"was calibrated for max_false_stop_rate {found.max_false_stop_rate:g}"
        raise _wrong(
            item,
            f"{theirs}, not {max_false_stop_rate:g}",
            "calibrate again, or use the same bound",
            "other_bound",
        )
    return found


def _ledger_of(item: PriorSweepsItem) -> Path | None:
    """The ledger that an entry names: a run folder, its ``ledger`` folder, or the file; None for anything else."""
    if not isinstance(item, str | Path):
        return None
    path = Path(item)
    if path.is_dir():
        ledger = ledger_path(path) if ledger_path(path).is_file() else path / "ledger.jsonl"
        if not ledger.is_file():
            raise _wrong(item, "holds no ledger", "give a run folder or a calibration file", "no_ledger")
        return ledger
    return path if path.suffix == ".jsonl" else None


def _read(ledger: Path, item: Any) -> SweepState:
    """The state of a prior sweep, without its steps."""
    try:
        state = SweepState.from_rows(iter_ledger(ledger, steps=False))
    except LedgerError as error:
        rule, _, remedy = str(error).removeprefix(f"{ledger}:").partition("\n")
        raise _wrong(item, f"has no readable ledger: {rule.strip()}", remedy.strip(), "no_ledger") from error
    if not state.header:
        raise _wrong(item, "has an empty ledger", "give the folder of a run that has started", "no_ledger")
    return state


def _audits(
    state: SweepState, source: str, rule: str, top_fraction: float, max_false_stop_rate: float
) -> PastAudits:
    stop = state.header["spec"].get("early_stop") or {}
    theirs = stop.get("rule", "calibrated")
    if theirs != rule:
        raise _wrong(
            source, f"used rule {theirs}, not {rule}: its audits do not apply here", "remove it", "other_rule"
        )
    bound = float(stop.get("max_false_stop_rate", 0.10))
    if rule == "calibrated" and abs(bound - max_false_stop_rate) > 1e-9:
        used = f"used max_false_stop_rate {bound:g}, not {max_false_stop_rate:g}"
        raise _wrong(
            source, f"{used}: its audits do not apply here", "remove it, or use the same bound", "other_bound"
        )
    completed = [t for t in state.search_trials if t.ranked]
    completed.sort(key=lambda t: t.end["seq"] if t.end is not None else 0)
    flagged = [_flagged(t) for t in completed]
    finals = [-state.objective.cost(t.objective) for t in completed]
    audit = audit_rate(rule, stop.get("audit"))
    edge = top_edge(finals, [audit_weight(audited, audit) for audited in flagged], top_fraction)
    outcomes = tuple(final >= edge for final, audited in zip(finals, flagged, strict=True) if audited)
    return PastAudits(source, float(state.header["time"]), outcomes)


def _flagged(trial: TrialState) -> bool | None:
    """Whether a trial was flagged and audited (True), flagged and paused (False), or not flagged (None)."""
    actions = [d["action"] for d in trial.decisions if d["action"] in ("audit", "pause")]
    return actions[-1] == "audit" if actions else None
