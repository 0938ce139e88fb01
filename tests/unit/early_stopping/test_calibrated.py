"""The calibrated rule, its audits and what it learns."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from support.errors import raises
from sweepft.early_stopping import (
    CalibratedRule,
    Calibration,
    EarlyStopper,
    clopper_pearson,
    make_report,
    make_rule,
    parse_rungs,
)
from sweepft.early_stopping.audit import audit_result, is_audited
from sweepft.early_stopping.calibrated import _risk
from sweepft.early_stopping.signals import relative_norms, signal_table
from sweepft.early_stopping.statistics import cdf, normal_scores
from sweepft.errors import PriorSweepsError

RUNGS = (0.1, 0.25, 0.5)


def early_stopper(rule: CalibratedRule | None = None, **kw: Any) -> EarlyStopper:
    return EarlyStopper(rule=rule or CalibratedRule(), **{"rungs": RUNGS, "budget": 100, "mode": "min", **kw})


def at(step: int, *, loss: Any = None, norm: Any = None, metric: Any = None) -> Any:
    return make_report(step=[step], progress=[step], loss=[loss], grad_norm=[norm], metric=metric)


@pytest.mark.parametrize(
    ("rows", "finished", "stopped"),
    [
        ([(1.0, 1.0)], 0, 0),
        ([(1.0, 1.0)] * 8, 0, 0),  # ties say nothing
        ([(None, None)] * 8, 0, 0),
        ([(1.0 + i, 1.0 + i) for i in range(7)], 0, 0),  # nothing has finished
        ([(1.0 + i, 1.0 + i) for i in range(12)], 0, 0),  # however many stand side by side
        ([(1.0 + i, 1.0 + i) for i in range(12)], 1, 0),
        ([(None, 1.0 + i) for i in range(12)], 1, 0),
        (
            [(1.0 + i, 1.0 + i) for i in range(12)],
            6,
            12,
        ),  # finished trials confirm the prior: all but the best
        ([(1.0 + i, None) for i in range(12)], 6, 13),
        ([(1.0 + i, 1.0 + i) for i in range(12)], -6, 2),  # they contradict it: low is bad
        ([(None, 1.0 + i) for i in range(12)], 3, 3),  # an objective that is known at the end only
        ([(None, 1.0 + i) for i in range(12)], 6, 11),
        ([(None, 1.0 + i) for i in range(12)], -6, 3),  # here a high loss is good
        ([(1.0 - i, 1.0 - i) for i in range(12)], 0, 0),  # each one is the best so far
        ([(1.0, 1.0), (1.1, 1.1), (9.0, 9.0)], 0, 0),  # too few peers
    ],
)
def test_calibrated__flags_as_far_as_evidence_goes(
    rows: list[tuple[Any, Any]], finished: int, stopped: int
) -> None:
    """Before the others, so many trials finish in the order of their signals, or (negative) in the opposite one."""
    r = early_stopper(rungs=(0.1,))
    for i in range(abs(finished)):
        shown = 2.0 + i if rows[0][0] is not None else None
        r.add(f"f{i}")
        r.report(f"f{i}", at(10, metric=shown, loss=2.0 + i))
        r.complete(f"f{i}", at(100, metric=2.0 + i if finished > 0 else -2.0 - i))
    for i, (metric, loss) in enumerate(rows):
        r.add(f"t{i}")
        r.report(f"t{i}", at(10, metric=metric, loss=loss))
    assert sum(v.action == "stop" for v in r.decisions) == pytest.approx(stopped, abs=1 if stopped else 0)
    for v in r.decisions:
        json.dumps(v.to_row(), allow_nan=False)
        assert v.reason


@pytest.mark.parametrize(
    ("finished", "objective", "rests_on", "waits"),
    [
        (0, True, "prior belief", True),
        (1, True, "prior belief", True),
        (1, False, "prior belief", True),
        (5, True, "5 finished trials", False),
        (5, False, "5 finished trials", False),
    ],
)
def test_calibrated__says_what_a_decision_rests_on(
    finished: int, objective: bool, rests_on: str, waits: bool
) -> None:
    r = early_stopper(rungs=(0.1,))
    for i in range(6):
        r.add(f"t{i}")
        decisions = r.report(f"t{i}", at(10, metric=9.0 - i if objective else None, loss=9.0 - i))
        if i < finished:
            r.complete(f"t{i}", at(100, metric=9.0 - i))
    assert decisions[-1].evidence["rests_on"] == rests_on
    assert ("needed" in decisions[-1].reason) is waits


@pytest.mark.parametrize("finals", ["seeds", "noise"])
def test_calibrated__loses_no_more_than_asked_where_nothing_can_be_known(finals: str) -> None:
    """Signals persist from rung to rung, but results are drawn independently of them."""
    lost = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        r = early_stopper()
        results = rng.normal(size=20)
        top = set(np.argsort(results)[:4].tolist())
        for wave in range(5):
            running = list(range(4 * wave, 4 * wave + 4))
            shown = rng.normal(size=20)
            for step in (10, 25, 50):
                for i in list(running):
                    r.add(f"t{i}", {"lr": 1e-4, "seed": i} if finals == "seeds" else {"lr": float(i)})
                    decided = r.report(f"t{i}", at(step, metric=float(shown[i]), loss=float(shown[i])))
                    if decided and decided[-1].ends_trial:
                        running.remove(i)
            for i in running:
                r.complete(f"t{i}", at(100, metric=float(results[i])))
        lost.append(np.mean([f"t{i}" not in r.cohort.finals for i in top]))
    assert np.mean(lost) <= (0.0 if finals == "seeds" else 0.15)


@pytest.mark.parametrize(
    ("error", "configs", "flagged"),
    [
        (0.0, lambda i: {"lr": i}, True),
        (0.1, lambda i: {"lr": i}, True),  # the last one differs by much more
        (2.0, lambda i: {"lr": i}, False),
        (0.0, lambda i: {"lr": 1.0, "seed": i}, False),  # they differ in nothing
        (0.0, lambda i: {"lr": i // 2 % 2, "seed": i}, False),  # repeats differ as much
        (0.0, lambda i: {}, True),  # what is not known is no repeat
    ],
)
def test_calibrated__does_not_flag_ties(error: float, configs: Any, flagged: bool) -> None:
    r = early_stopper(CalibratedRule(objective_error=error), rungs=(0.1,))
    for i in range(18):  # every other one is worse by 1; the first six show noise, and that the order holds
        value = 1.0 + i % 2 + 0.01 * i
        r.add(f"t{i}", configs(i))
        r.report(f"t{i}", at(10, metric=value, loss=value))
        if i < 6:
            r.complete(f"t{i}", at(100, metric=value))
    stopped = [d.trial_id for d in r.decisions if d.action == "stop"]
    assert bool({f"t{i}" for i in range(6, 18)} & set(stopped)) is flagged
    assert flagged or any(d.evidence.get("tied", False) for d in r.decisions)


def test_calibrated__evidence_holds_each_signal() -> None:
    """Normal scores among the trials at the rung: larger is better, 0 is the middle or a signal that was not
    reported.
    """
    r = early_stopper(rungs=(0.1,))
    for i in range(8):
        r.add(f"t{i}", {"learning_rate": 0.1 * (i + 1)})
        r.report(f"t{i}", at(10, metric=1.0 + i, loss=9.0 - i, norm=None))
    evidence = r.decisions[-1].evidence
    assert evidence["signals"] == {"objective": -1.5341, "loss": 1.5341, "grad_norm": 0.0}
    assert (
        evidence["weights"]["loss"] < 0.1 < evidence["weights"]["objective"]
    )  # it contradicts the objective, which decides


def start_sweep(
    seed: int, trials: int, *, audit: float = 0.0, useful: bool = True, norms: bool = True, **kw: Any
) -> EarlyStopper:
    """One trial after another; early signals tell the final objective, or (not useful) nothing."""
    rng = np.random.default_rng(seed)
    rule = CalibratedRule(audit=audit, **kw)
    r = early_stopper(rule, audit=audit, seed=seed)
    for i in range(trials):
        name, final, other = f"t{i}", float(rng.normal()), float(rng.normal())
        r.add(name, {"batch_size": 8, "learning_rate": math.exp(final)})
        shown = final if useful else other
        for step, noise in ((10, 0.4), (25, 0.2), (50, 0.1)):
            seen = shown + noise * float(rng.normal())
            report = at(
                step,
                metric=3 + seen if useful else None,
                loss=3 + seen,
                norm=math.exp(-final) if norms else None,
            )
            decisions = r.report(name, report)
            if decisions and decisions[-1].ends_trial:
                break
        else:
            r.complete(name, at(100, metric=3 + final))
    return r


def test_calibrated__saves_much_where_signals_predict() -> None:
    kept, saved = [], []
    for seed in range(8):
        r = start_sweep(seed, 24)
        rng = np.random.default_rng(seed)
        best, name = math.inf, ""
        for i in range(24):
            final, _ = float(rng.normal()), float(rng.normal())
            used = len(r.cohort.trials[f"t{i}"].snapshots)
            for _ in range(used):
                rng.normal()
            best, name = min((best, name), (final, f"t{i}"))
        kept.append(name in r.cohort.finals)
        saved.append(r.summary()["trials_saved"] / 24)
    assert np.mean(kept) >= 7 / 8
    assert np.mean(saved) > 0.35


def test_calibrated__stops_less_where_signals_predict_nothing() -> None:
    informative = start_sweep(0, 60).cohort
    uninformative = start_sweep(0, 60, useful=False, norms=False).cohort
    first = sum(t.status == "stopped" for t in list(uninformative.trials.values())[:20])
    last = sum(t.status == "stopped" for t in list(uninformative.trials.values())[40:])
    assert last <= first
    assert len(uninformative.finals) > len(informative.finals)


@pytest.mark.parametrize("key", ["grad_norm", "learning_rate"])
def test_calibrated__learns_the_sign_of_gradient_norm_and_covariates(key: str) -> None:
    """The loss says nothing. High gradient norms, or low rates, are good: the paper's direction is not assumed."""
    norms, covariates = key == "grad_norm", ("learning_rate",) if key == "learning_rate" else ()
    informed = start_sweep(1, 40, useful=False, norms=norms, covariates=covariates)
    ignorant = start_sweep(1, 40, useful=False, norms=False)
    nothing = [r.summary()["rule_summary"]["learned"]["10%"]["uninformative"] for r in (informed, ignorant)]
    assert nothing[0] < 0.01 < nothing[1]
    assert informed.summary()["trials_saved"] > ignorant.summary()["trials_saved"]


@pytest.mark.full
def test_calibrated__is_conformal_with_enough_audited_top_trials() -> None:
    small = start_sweep(3, 24, audit=0.3).summary()
    assert (small["rule_summary"]["basis"], small["rule_summary"]["certified"]) == ("heuristic", False)
    large = start_sweep(3, 130, audit=0.5).summary()
    assert (large["rule_summary"]["basis"], large["rule_summary"]["certified"]) == ("conformal", True)
    assert large["audits"]["audited"] > 15
    json.dumps(large, allow_nan=False)


def test_calibrated__takes_its_level_from_prior_sweeps() -> None:
    prior_sweeps = Calibration(0.03, 0.10, 40)
    again = Calibration.from_dict(json.loads(json.dumps(prior_sweeps.to_dict())))
    assert again == prior_sweeps
    r = early_stopper(make_rule("calibrated", prior_sweeps=prior_sweeps.to_dict()))  # type: ignore[arg-type]
    for i in range(10):
        r.add(f"t{i}")
        r.report(f"t{i}", at(10, metric=float(i), loss=float(i)))
        if i < 5:
            r.complete(f"t{i}", at(100, metric=float(i)))
    evidence = r.decisions[-1].evidence
    assert (evidence["basis"], evidence["level"]) == ("prior_sweeps", 0.03)
    with raises(ValueError, "prior_sweeps"):
        CalibratedRule(max_false_stop_rate=0.05, calibration=prior_sweeps)
    with raises(PriorSweepsError, "prior_sweeps.absent"):
        make_rule("calibrated", prior_sweeps="no/such/file.json")


@pytest.mark.parametrize(
    "kw",
    [
        {"top_fraction": 0.0},
        {"top_fraction": 1.0},
        {"max_false_stop_rate": 0.0},
        {"max_false_stop_rate": 2.0},
        {"objective_error": -0.1},
        {"objective_error": math.nan},
    ],
)
def test_calibrated__refuses_wrong_arguments(kw: dict[str, float]) -> None:
    with raises(ValueError, *kw):
        CalibratedRule(**kw)


def test_calibrated__compares_with_a_bounded_number_of_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a decision must not grow with the sweep."""
    from sweepft.early_stopping import signals

    sizes = []

    def counted(cohort: Any, rung: Any, names: Any, *args: Any, **kw: Any) -> Any:
        sizes.append(len(names))
        return signal_table(cohort, rung, names, *args, **kw)

    r = early_stopper(rungs=(0.1,))
    for i in range(600):
        r.add(f"t{i}")
        if i == 590:
            monkeypatch.setattr(signals, "signal_table", counted)
        r.report(f"t{i}", at(10, metric=float(i % 97), loss=float(i % 89)))
    assert len(sizes) >= 10
    assert 150 <= max(sizes) <= 202


# ----- audits --------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(n=st.integers(1, 200), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_clopper_pearson__is_the_beta_interval(n: int, share: float, confidence: float) -> None:
    bad = round(share * n)
    low, high = clopper_pearson(bad, n, confidence)
    tail = (1 - confidence) / 2
    assert low == pytest.approx(0.0 if bad == 0 else beta.ppf(tail, bad, n - bad + 1), abs=1e-6)
    assert high == pytest.approx(1.0 if bad == n else beta.ppf(1 - tail, bad + 1, n - bad), abs=1e-6)


def test_clopper_pearson__of_no_trials_and_wrong_arguments() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    for bad, n, confidence, key in ((-1, 3, 0.95, "bad"), (4, 3, 0.95, "bad"), (1, 3, 1.0, "confidence")):
        with raises(ValueError, key):
            clopper_pearson(bad, n, confidence)


@pytest.mark.parametrize(
    ("outcomes", "status", "looked"),
    [
        ([], "uncertified", 0),
        ([False] * 13, "uncertified", 0),
        ([True] * 14, "refuted", 14),
        ([False] * 29, "uncertified", 29),
        ([False] * 59, "certified", 59),
        ([False] * 59 + [True] * 30, "certified", 59),  # looked at again at 119 only
        ([True, False] * 30, "refuted", 59),
    ],
)
def test_audit_result__changes_at_fixed_counts_only(outcomes: list[bool], status: str, looked: int) -> None:
    result = audit_result(outcomes, max_false_discovery_rate=0.10)
    assert (result.status, result.looked_at) == (status, looked)


def test_is_audited__depends_on_seed_and_name_alone() -> None:
    drawn = [is_audited(0, f"t{i}", 0.15) for i in range(2000)]
    assert drawn == [is_audited(0, f"t{i}", 0.15) for i in range(2000)]
    assert 0.12 < np.mean(drawn) < 0.18
    assert not any(is_audited(0, f"t{i}", 0.0) for i in range(50))
    assert all(is_audited(0, f"t{i}", 1.0) for i in range(50))


def test_early_stopper__audits_trials_and_switches_off_a_refuted_rule() -> None:
    r = EarlyStopper(rule=make_rule("median"), rungs=(0.1, 0.5), budget=100, mode="min", audit=1.0)
    order = np.random.default_rng(0).permutation(60)
    for i in order:  # early order is the reverse of the final one: the worst rule possible
        r.add(f"t{i}")
        r.report(f"t{i}", at(10, metric=float(i)))
        r.report(f"t{i}", at(50, metric=float(i)))
        r.complete(f"t{i}", at(100, metric=-float(i)))
    actions = [v.action for v in r.decisions]
    assert "stop" not in actions
    assert actions.count("audit") > 10
    audits = r.summary()["audits"]
    assert audits["status"] == "refuted"
    r.add("late")
    (decision,) = r.report("late", at(10, metric=1e6))
    assert decision.action == "continue"
    assert "switched off" in decision.reason


# ----- parts ---------------------------------------------------------------------------------------------


def test_signal_table__gradient_norms_are_relative_to_batch_size() -> None:
    """Norms that follow |G|^2 + tr(Sigma)/B exactly are all equal; one that is half as large again sticks out."""
    r = EarlyStopper(rungs=(0.1,), budget=100, mode="min")
    batches = [8, 8, 8, 16, 16, 32, 32, 64]
    for i, b in enumerate(batches):
        r.add(f"t{i}", {"batch_size": b})
        norm = math.sqrt(1.0 + 100.0 / b)
        r.report(f"t{i}", at(10, norm=norm * (1.5 if i == 6 else 1.0)))
    (rung,) = parse_rungs([0.1])
    scores = signal_table(r.cohort, rung, r.cohort.names_at(rung)).scores[:, 2]
    assert int(np.argmin(scores)) == 6
    norms = [r.cohort.trials[f"t{i}"].snapshots[rung].log_grad_norm for i in range(8)]
    assert int(np.argmax(norms)) != 6  # raw, the small batches would have been flagged


def test_relative_norms__take_a_batch_size_of_zero_as_unknown() -> None:
    norms = relative_norms(np.zeros(8), np.array([0.0, -1.0, math.nan, 1.0, 1.0, 2.0, 2.0, 4.0]))
    assert np.isnan(norms).all()  # five known ones are too few to tell
    norms = relative_norms(np.zeros(9), np.array([0.0, -1.0, math.nan, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0]))
    assert np.isnan(norms[:3]).all()
    assert np.isfinite(norms[3:]).all()


def test_signal_table__averages_objectives() -> None:
    """The objective's signal is the mean of all evaluations so far, late ones counting most."""
    r = EarlyStopper(rungs=(0.4,), budget=100, mode="max")
    for name, shown in {"steady": (0.5, 0.6, 0.6, 0.6), "lucky": (0.3, 0.3, 0.3, 0.65)}.items():
        r.add(name)
        for step, value in zip((10, 20, 30, 40), shown, strict=True):
            r.report(name, at(step, metric=value))
    (rung,) = parse_rungs([0.4])
    snaps = r.cohort.at(rung)
    assert snaps["lucky"].metric > snaps["steady"].metric
    assert snaps["steady"].mean_metric == pytest.approx((10 * 0.5 + 90 * 0.6) / 100)
    scores = signal_table(r.cohort, rung, r.cohort.names_at(rung)).scores[:, 0]
    assert scores[0] > scores[1]


@pytest.mark.parametrize("same_order", [True, False])
def test_signal_table__pairs_losses_by_block_of_one_data_order(same_order: bool) -> None:
    """The hard block hits everyone alike; only pairing shows that t0 is the better one."""
    r = EarlyStopper(rungs=(0.1,), budget=100, mode="min")
    hard, easy = (9.0, 10.0), (1.0, 10.0)
    for i, (seen, block) in enumerate([(5.0, 1.0), (4.0, 1.2), (3.0, 1.4)]):
        r.add(f"t{i}")
        blocks = {0: hard, 1: easy, 2: (block, 10.0)}
        order = "same" if same_order or i == 0 else f"other{i}"
        r.report(f"t{i}", make_report(step=[10], progress=[10], loss=[seen], blocks=blocks, data_order=order))
    (rung,) = parse_rungs([0.1])
    scores = signal_table(r.cohort, rung, r.cohort.names_at(rung)).scores[:, 1]
    assert int(np.argmax(scores)) == (0 if same_order else 2)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=1, max_size=40))
def test_normal_scores__keep_order_and_balance(values: list[float]) -> None:
    scores = normal_scores(values)
    data = np.array(values)
    seen = np.isfinite(data)
    assert (scores[~seen] == 0).all()
    for i in np.nonzero(seen)[0]:
        for j in np.nonzero(seen)[0]:
            if data[i] < data[j]:
                assert scores[i] < scores[j]
            elif data[i] == data[j]:
                assert scores[i] == scores[j]
    assert cdf(0.0) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("share", "level"), [(0.0, 0.0), (1 / 3, 0.025), (0.5, 0.05), (2 / 3, 0.1), (0.8, 0.2), (0.9, 0.45)]
)
def test_risk__is_the_odds_of_the_share_of_the_base_rate(share: float, level: float) -> None:
    assert _risk(share) == pytest.approx(level)


@pytest.mark.parametrize("share", [1.0, 3.0, 5.0])
def test_risk__of_a_trial_as_likely_as_any_is_above_every_level_in_use(share: float) -> None:
    assert 1e6 < _risk(share) < math.inf


def test_calibrated__flags_the_worst_although_earlier_flagged_trials_look_good_by_now() -> None:
    """Every trial is worse than all before, so that the first ones that were flagged come to be among the best fifth."""
    r = early_stopper(rungs=(0.1,))
    for i in range(8):
        r.add(f"f{i}")
        r.report(f"f{i}", at(10, metric=9.0 - i, loss=9.0 - i))
        r.complete(f"f{i}", at(100, metric=9.0 - i))
    for i in range(60):
        r.add(f"t{i}")
        (decision,) = r.report(f"t{i}", at(10, metric=10.0 + i, loss=10.0 + i))
        assert decision.ends_trial, decision.reason
    assert decision.p_top is not None
    assert decision.p_top <= decision.evidence["limit"] == pytest.approx(0.2 * 2 / 3, abs=1e-5)


def test_calibrated__learns_that_signals_tell_the_worse_half_apart_and_not_the_better_one() -> None:
    """Trials that showed less than the middle end in that order; how the others end has nothing to do with theirs."""
    rng, r = np.random.default_rng(0), early_stopper(rungs=(0.1,))
    for i in range(20):
        shown = float(i)
        r.add(f"t{i}")
        r.take(f"t{i}", at(10, metric=shown, loss=shown))
        r.complete(f"t{i}", at(100, metric=shown if i >= 10 else 10.0 * float(rng.random())))
    for name, shown in (("best", 0.5), ("good", 8.5), ("bad", 15.5)):
        r.add(name)
        r.take(name, at(10, metric=shown, loss=shown))
    trials = [r.cohort.trials[n] for n in ("best", "good", "bad")]
    chances = CalibratedRule().chances(r.cohort, trials)
    assert chances["bad"] < 0.03
    assert chances["best"] - chances["good"] < 0.1


@pytest.mark.full
@pytest.mark.parametrize("bound", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("trials", [24, 60])
def test_calibrated__loses_no_more_than_asked_where_signals_predict(bound: float, trials: int) -> None:
    """Here the gradient norm tells results best, and a high one is good: trials that ended early count as worse too."""
    lost = []
    for seed in range(8):
        r = start_sweep(seed, trials, max_false_stop_rate=bound)
        finals = {name: math.log(t.params["learning_rate"]) for name, t in r.cohort.trials.items()}
        best = sorted(finals, key=lambda name: finals[name])[: round(0.2 * trials)]
        lost.append(np.mean([name not in r.cohort.finals for name in best]))
    assert np.mean(lost) <= bound
