"""What a new sweep takes from prior ones: calibrations and pooled audits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from sweepft.early_stopping import (
    Calibration,
    EarlyStopper,
    PastAudits,
    PriorSweeps,
    make_report,
    make_rule,
    read_prior_sweeps,
)
from sweepft.errors import PriorSweepsError
from sweepft.ledger import ledger_path

CALIBRATION = Calibration(0.05, 0.10, 12)


def write_run(
    folder: Path,
    finals: list[float],
    audited: set[int],
    *,
    began: float = 100.0,
    torn: bool = False,
    **stop: Any,
) -> Path:
    """A run whose trials ended at these objectives; some of them were audited."""
    sweep = LedgerBuilder(folder, spec={"early_stop": {"rule": "median", "audit": 0.5, **stop}}, time=began)
    for i, final in enumerate(finals):
        sweep.trial(f"t{i}").steps(f"t{i}", 1, loss=math.nan)
        if i in audited:
            sweep.decision(f"t{i}", "audit")
        sweep.cost(f"t{i}").end(f"t{i}", "completed", final)
    sweep.close()
    if torn:
        with ledger_path(folder).open("ab") as f:
            f.write(b'{"seq":99,"time":1.0,"ki')
    return folder


def test_prior_sweeps__read_audits_by_time_and_by_the_new_top_fraction(
    tmp_path: Path,
) -> None:
    late = write_run(tmp_path / "late", [1.0, 2.0, 3.0, 4.0], {0, 3}, began=500.0, torn=True)
    early = write_run(tmp_path / "early", [5.0, 6.0, 7.0], {0}, began=50.0)
    found = read_prior_sweeps([str(late), early / "ledger"], rule="median", top_fraction=0.25)
    assert [(a.began, a.outcomes) for a in found.audits] == [(50.0, (True,)), (500.0, (True, False))]
    assert found.outcomes == [True, True, False]
    wide = read_prior_sweeps(late / "ledger" / "ledger.jsonl", rule="median", top_fraction=0.9)
    assert wide.outcomes == [True, True], (
        "an audited one stands for two: the worst is among the best 90% by weight"
    )
    assert PriorSweeps.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert read_prior_sweeps(found.to_dict()) == found


@pytest.mark.parametrize(
    ("given", "key"),
    [
        (["absent.json"], "prior_sweeps.absent"),
        (["bad.json"], "prior_sweeps.no_calibration"),
        (["empty"], "prior_sweeps.no_ledger"),
        (["run", "run"], "prior_sweeps.repeated"),
        (["run", "copy"], "prior_sweeps.repeated"),
        (["good.json"], "prior_sweeps.unused"),
        (["other"], "prior_sweeps.other_rule"),
        (["damaged"], "prior_sweeps.no_ledger"),
    ],
)
def test_prior_sweeps__refuse_what_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], key: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", [1.0], {0})
    write_run(tmp_path / "copy", [1.0], {0})
    write_run(tmp_path / "other", [1.0], {0}, rule="asha")
    damaged = write_run(tmp_path / "damaged", [1.0], {0}, began=7.0) / "ledger" / "ledger.jsonl"
    damaged.write_bytes(damaged.read_bytes().replace(b'"kind":"decision"', b'"kind" "decision"', 1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text("[]")
    (tmp_path / "good.json").write_text(json.dumps(CALIBRATION.to_dict()))
    with raises(PriorSweepsError, key) as caught:
        read_prior_sweeps(given, rule="median")
    assert f"prior_sweeps: {given[-1]} " in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2
    assert isinstance(caught.value, ValueError)


def test_prior_sweeps__take_one_calibration_beside_runs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [1.0, 2.0], {1}, rule="calibrated", max_false_stop_rate=0.1)
    found = read_prior_sweeps([CALIBRATION, str(run)])
    assert (found.calibration, found.outcomes) == (CALIBRATION, [False])
    with raises(PriorSweepsError, "prior_sweeps.second_calibration"):
        read_prior_sweeps([CALIBRATION, CALIBRATION.to_dict()])
    with raises(PriorSweepsError, "prior_sweeps.other_bound"):
        read_prior_sweeps(str(run), max_false_stop_rate=0.2)


def judged(prior_sweeps: PriorSweeps | None) -> EarlyStopper:
    """A sweep of 10 good trials that are not flagged, then 30 poor ones that are all flagged and audited."""
    r = EarlyStopper(
        rule=make_rule("median", min_peers=1),
        rungs=(0.1,),
        budget=100,
        mode="min",
        audit=1.0,
        prior_sweeps=prior_sweeps,
    )
    for i in range(40):
        value = 10.0 - i if i < 10 else 100.0 + i
        r.add(f"t{i}")
        r.report(f"t{i}", make_report(step=[10], progress=[10], metric=value))
        r.complete(f"t{i}", final=value)
    return r


@pytest.mark.parametrize(
    ("earlier", "status", "looked"),
    [
        ([], "uncertified", 29),
        ([False] * 29, "certified", 59),  # 29 + 30 reach the look at which none bad is enough
        ([False] * 28, "uncertified", 29),
        ([False] * 24 + [True] * 5, "uncertified", 59),
    ],
)
def test_prior_sweeps__audits_pool_and_are_read_at_fixed_counts(
    earlier: list[bool], status: str, looked: int
) -> None:
    past = PriorSweeps(audits=(PastAudits("old", 1.0, tuple(earlier)),)) if earlier else None
    audits = judged(past).summary()["audits"]
    assert (audits["status"], audits["looked_at"]) == (status, looked)
    assert audits["own"] == {"audited": 30, "top": 0}
    assert audits["prior_sweeps"] == {
        "audited": len(earlier),
        "top": sum(earlier),
        "sweeps": int(bool(earlier)),
    }
    assert (audits["audited"], audits["top"]) == (30 + len(earlier), sum(earlier))


def test_prior_sweeps__refuting_audits_switch_the_rule_off_at_once() -> None:
    past = PriorSweeps(audits=(PastAudits("old", 1.0, (True,) * 14),))
    r = EarlyStopper(
        rule=make_rule("median", min_peers=1), rungs=(0.1,), budget=100, mode="min", prior_sweeps=past
    )
    for i in range(5):
        r.add(f"t{i}")
        r.report(f"t{i}", make_report(step=[10], progress=[10], metric=float(i)))
    assert {v.action for v in r.decisions} == {"continue"}
    assert "switched off" in r.decisions[-1].reason
