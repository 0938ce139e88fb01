"""What earlier sweeps taught: how far the rule may be trusted, and what became of their condemned trials.

A calibration (made by ``sweepft replay --calibrate``) sets the level of the calibrated rule. Audits of earlier sweeps
are read from their ledgers and pool with those of the new sweep: mistakes are too rare to be counted in one sweep.
Both are plain data, so that a sweep can record what it was given and never needs those files again.
"""
# MERGED Which rows of a ledger are the search's own: a trial that confirms another one is no candidate.

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from sweepft.early_stopping.audit import audit_rate, audit_weight, good_edge
from sweepft.early_stopping.calibrated import Calibration
from sweepft.errors import PriorSweepsError

_RowT = TypeVar("_RowT", bound=Mapping[str, Any])


def search_trials(rows: Iterable[_RowT]) -> Iterator[_RowT]:
    """Rows in order, without those of trials that were trained with fresh seeds to confirm another."""
    aside = set()
    for row in rows:
        if row.get("replicate_of"):
            aside.add(row["trial_id"])
        if row.get("trial_id") not in aside:
            yield row


@dataclass(frozen=True)
class PastAudits:
    """The audits of one earlier sweep.

    Attributes:
        source: The run folder.
        began: When it began, in unix seconds: the same in every copy of it.
        outcomes: Per audited trial that reached its full budget, whether it was good after all, in the order in
            which they ended.
    """

    source: str
    began: float
    outcomes: tuple[bool, ...]


@dataclass(frozen=True)
class PriorSweeps:
    """What a new sweep is told of earlier ones.

    Attributes:
        calibration: For the calibrated rule; None without.
        audits: One entry an earlier sweep, the earliest first.
    """

    calibration: Calibration | None = None
    audits: tuple[PastAudits, ...] = ()

    @property
    def outcomes(self) -> list[bool]:
        """All audits of all earlier sweeps, in order of time."""
        return [top_fraction for sweep in self.audits for top_fraction in sweep.outcomes]

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


"""A `Calibration`, its dict or its JSON file; the run folder (or ledger) of an earlier sweep; or a list of these."""


def read_prior_sweeps(
    given: PriorSweepsLike,
    *,
    rule: str = "calibrated",
    top_fraction: float = 0.2,
    max_false_stop_rate: float = 0.10,
) -> PriorSweeps:
    """Read what ``prior_sweeps`` names.

    Args:
        given: See `PriorSweepsLike`; a `PriorSweeps` (or its dict) is taken as it is.
        rule: The new sweep's rule: only audits of the same rule say something about it.
        good: The new sweep's share of good trials: earlier audits are judged by it.
        false_stop: The new sweep's bound (``calibrated``).
    Raises:
        PriorSweepsError: Names the entry, what is wrong with it and what to do.
    """
    if isinstance(given, PriorSweeps):
        return given
    if isinstance(given, Mapping) and "audits" in given:
        return PriorSweeps.from_dict(given)
    items: Sequence[PriorSweepsItem]
    items = (
        []
        if given is None
        else [given]
        if not isinstance(given, Sequence) or isinstance(given, str)
        else given
    )
    calibration: Calibration | None = None
    sweeps: dict[float, PastAudits] = {}
    for item in items:
        ledger = _ledger_of(item)
        if ledger is not None:
            found = _audits(ledger, str(item), rule, top_fraction, max_false_stop_rate)
            if found.began in sweeps:
                raise _wrong(item, f"is the same sweep as {sweeps[found.began].source}", "name it once")
            sweeps[found.began] = found
            continue
        read = _calibration(item, max_false_stop_rate)
        if calibration is not None:
            raise _wrong(item, "is a second calibration", "calibrate once, over all earlier sweeps together")
        if rule != "calibrated":
            raise _wrong(item, f"is a calibration, and rule {rule} has no use for one", "leave it out")
        calibration = read
    return PriorSweeps(calibration, tuple(sweeps[began] for began in sorted(sweeps)))


def _wrong(item: Any, rule: str, remedy: str) -> PriorSweepsError:
    return PriorSweepsError(str(item), rule, remedy)


def _calibration(item: PriorSweepsItem, max_false_stop_rate: float) -> Calibration:
    if isinstance(item, Calibration):
        found = item
    else:
        try:
            found = Calibration.from_dict(
                item if isinstance(item, Mapping) else json.loads(Path(item).read_text(encoding="utf-8"))
            )
        except FileNotFoundError:
            raise _wrong(
                item, "is not there", "name a calibration file or the folder of an earlier run"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "make one with: sweepft replay SOURCE --calibrate FILE"
            raise _wrong(item, f"is not a calibration ({type(error).__name__}: {error})", remedy) from error
    if found.max_false_stop_rate > max_false_stop_rate + 1e-9:
        rule = (
            f"was calibrated for false_stop {found.max_false_stop_rate:g}, here it is {max_false_stop_rate:g}"
        )
        raise _wrong(item, rule, "calibrate again, or ask for the same bound")
    return found


# ----- audits of an earlier run ------------------------------------------------------------------------------


def _ledger_of(item: PriorSweepsItem) -> Path | None:
    """The ledger that an entry names: a run folder, its ``ledger`` folder, or the file; None for anything else."""
    if not isinstance(item, str | Path):
        return None
    path = Path(item)
    if path.is_dir():
        inner = path / "ledger" / "ledger.jsonl"
        ledger = inner if inner.is_file() else path / "ledger.jsonl"
        if not ledger.is_file():
            raise _wrong(item, "holds no ledger", "name the folder of an earlier run, or a calibration file")
        return ledger
    return path if path.suffix == ".jsonl" else None


def _audits(
    ledger: Path, source: str, rule: str, top_fraction: float, max_false_stop_rate: float
) -> PastAudits:
    header: Mapping[str, Any] | None = None
    flagged: dict[str, bool] = {}  # by trial, whether it is audited (else it was parked)
    finals: dict[str, float] = {}
    for row in search_trials(_rows(ledger, source)):
        kind, trial = row["kind"], str(row.get("trial_id") or "")
        if kind == "sweep":
            header = header or row
        elif kind == "decision" and row["action"] in ("audit", "pause"):
            flagged[trial] = row["action"] == "audit"
        elif kind == "end" and row["status"] == "completed" and isinstance(row["objective"], int | float):
            if math.isfinite(row["objective"]):
                finals.setdefault(trial, -float(row["objective"]))
        elif kind == "start":
            finals.pop(trial, None)
    if header is None:
        raise _wrong(source, "has an empty ledger", "name the folder of a run that has begun")
    stop = header["spec"].get("early_stop") or {}
    theirs = stop.get("rule", "calibrated")
    if theirs != rule:
        raise _wrong(
            source, f"was stopped by rule {theirs}, not {rule}: its audits say nothing here", "leave it out"
        )
    bound = float(stop.get("max_false_stop_rate", 0.10))
    if rule == "calibrated" and abs(bound - max_false_stop_rate) > 1e-9:
        text = f"was run with false_stop {bound:g}, here it is {max_false_stop_rate:g}: its audits say nothing here"
        raise _wrong(source, text, "leave it out, or ask for the same bound")
    audit = audit_rate(rule, stop.get("audit"))
    weights = [audit_weight(flagged.get(t), audit) for t in finals]
    edge = good_edge(list(finals.values()), weights, top_fraction)
    outcomes = tuple(value >= edge for t, value in finals.items() if flagged.get(t))
    return PastAudits(source, float(header["time"]), outcomes)


def _rows(ledger: Path, source: str) -> Iterator[dict[str, Any]]:
    """Rows of a ledger but for its bulk (``steps``), each as JSON has it; a torn last line is passed over."""
    try:
        with ledger.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if b'"kind":"steps"' in line[:120]:
                    continue
                try:
                    row = json.loads(line)
                    row["kind"]
                except (ValueError, KeyError, TypeError):
                    if not line.endswith(b"\n"):
                        return
                    raise _wrong(
                        source, f"has a damaged ledger (line {number})", "restore it from a copy"
                    ) from None
                yield row
    except OSError as error:
        raise _wrong(
            source, f"cannot be read: {error.strerror}", "see that its ledger is readable"
        ) from error
