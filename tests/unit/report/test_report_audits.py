"""The report and the scheduler give the same audit counts, interval and status for any ledger."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from support.judged_sweep import BUDGET, RUNGS, JudgedSweep
from sweepft.driver.scheduler import SweepScheduler
from sweepft.early_stopping import PastAudits, PriorSweeps
from sweepft.ledger import SweepState, ranking
from sweepft.report import summarise
from sweepft.report.stops import stop_summary
from sweepft.report.trials import trial_record

PAST = st.lists(st.lists(st.booleans(), max_size=30), max_size=2).map(
    lambda sweeps: PriorSweeps(
        audits=tuple(PastAudits(f"r{i}", float(i), tuple(s)) for i, s in enumerate(sweeps))
    )
)
EARLY_STOP = st.fixed_dictionaries(
    {
        "rule": st.sampled_from(["median", "recipe", "calibrated"]),
        "top_fraction": st.sampled_from([0.2, 0.4]),
        "max_false_discovery_rate": st.sampled_from([0.1, 0.3]),
        "min_peers": st.just(1),
        "pause": st.booleans(),
    },
    optional={"audit": st.sampled_from([0.0, 0.3, 0.6, 1.0])},
)
SWEEPS = st.builds(
    JudgedSweep,
    seed=st.integers(0, 10_000),
    early_stop=EARLY_STOP,
    trials=st.integers(2, 40),
    slots=st.integers(1, 4),
    crashes=st.lists(st.integers(1, 80), max_size=2).map(tuple),
    prior_sweeps=PAST,
)


def scheduler_of(sweep: JudgedSweep) -> SweepScheduler:
    """As the tuner builds it from the spec."""
    stop = sweep.early_stop
    return SweepScheduler(
        metric="eval_loss", mode="min", budget=BUDGET, rungs=RUNGS, min_steps=0, seed=7, audit=stop.get("audit"),
        prior_sweeps=sweep.prior_sweeps, **{k: stop[k] for k in ("rule", "top_fraction", "max_false_discovery_rate", "min_peers", "pause")},
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(sweep=SWEEPS)
def test_stop_summary__counts_audits_as_the_scheduler_does(sweep: JudgedSweep) -> None:
    sweep.run()
    scheduler = scheduler_of(sweep)
    scheduler.load_ledger(sweep.state())
    known = scheduler.summary()["audits"]
    view = SweepState.from_rows(sweep.rows)
    trials = [trial_record(view, r.trial, r.rank, list(RUNGS)) for r in ranking(view)]
    shown = stop_summary(view, trials)["audits"]
    assert {"audited": shown["completed"], "top": shown["top"]} == known["own"]
    prior = shown["prior_sweeps"]
    assert {"sweeps": prior["sweeps"], "audited": prior["audited"], "top": prior["top"]} == known[
        "prior_sweeps"
    ]
    assert (shown["status"], shown["limit"]) == (known["status"], known["limit"])
    if known["audited"]:
        low, high = known["interval"]
        assert shown["rate"] == {"value": known["rate"], "low": low, "high": high}
    else:
        assert shown["rate"] is None


def test_judged_sweep__covers_audits_resumes_and_pooling() -> None:
    """Audits that ended, good ones among them, trials that came back, and pooled audits that change the word."""
    stop = {
        "rule": "median",
        "top_fraction": 0.4,
        "max_false_discovery_rate": 0.3,
        "min_peers": 1,
        "pause": True,
        "audit": 0.4,
    }
    past = PriorSweeps(audits=(PastAudits("old", 1.0, (False,) * 29),))
    reports = [
        summarise(
            SweepState.from_rows(
                JudgedSweep(seed, stop, trials=40, crashes=(20,), prior_sweeps=past).run().rows
            )
        )["stops"]
        for seed in range(6)
    ]
    assert all(r["audits"]["completed"] > 3 for r in reports)
    assert sum(r["audits"]["top"] for r in reports) > 0
    assert sum(r["resumed"] for r in reports) > 0
    assert {r["audits"]["status"] for r in reports} == {"certified"}
