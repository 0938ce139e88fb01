"""The report's figures, on small sweeps with numbers that can be computed by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from sweepft.ledger import SweepState
from sweepft.ledger.rows import complete_fields
from sweepft.report import summarise
from sweepft.report.findings import importances, recipe_findings
from sweepft.report.winner import edge_warnings

SPEC = {
    "data": {"validation": [{"name": "math", "weight": 1.0}, {"name": "general", "weight": 0.0}]},
    "early_stop": {"rungs": [0.1, 0.5]},
    "search": {"space": {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}},
}


class Sweep:
    """Rows of a sweep with a budget of 100 samples and trials of 10 steps."""

    def __init__(self, spec: dict[str, Any] = SPEC) -> None:
        self.rows: list[dict] = []
        self.now = 1000.0
        self.tell(
            "sweep", name="s", spec=spec, spec_digest="", seed=0, budget_samples=100, sweepft_version="0"
        )

    def tell(self, kind: str, **fields: object) -> Sweep:
        self.rows.append(
            {"seq": len(self.rows), "time": self.now, "kind": kind} | complete_fields(kind, fields)
        )
        return self

    def trial(
        self,
        t: str,
        steps: int,
        status: str,
        loss: float | None = None,
        *,
        stderr: float | None = 0.01,
        seconds=2.0,
        **params,
    ) -> Sweep:
        name = {"trial_id": t, "attempt": 0}
        params = params or {"learning_rate": 1e-3}
        self.tell("trial", trial_id=t, number=int(t[1:]), params=params, train_config={}, origin="sampler",
                  planned_steps=10, warmup_steps=0)  # fmt: skip
        self.tell("start", **name, slot=0)
        n = np.arange(1, steps + 1)
        history = {
            "step": n,
            "samples_seen": n * 10,
            "tokens_seen": n * 50,
            "loss": 3.0 - n / 10,
            "grad_norm": n * 0 + 1.0,
        }
        history |= {"lr": n * 0 + 1e-3, "seconds": n * 0 + seconds}
        self.now += steps * seconds
        self.tell("steps", **name, history={k: v.tolist() for k, v in history.items()})
        self.tell("cost", trial_id=t, slot=0, phase="train", seconds=steps * seconds)
        for rung, step in ((0.1, 1), (0.5, 5), (1.0, 10)):
            if step <= steps:
                value = loss if rung == 1.0 and loss is not None else 9.0
                sets = {"math": {"loss": value, "stderr": stderr}, "general": {"loss": 2.0, "stderr": 0.5}}
                self.tell("eval", **name, step=step, samples_seen=step * 10, rung=rung, final=rung == 1.0,
                          objective=value, sets=sets, seconds=1.0)  # fmt: skip
                self.now += 1
                self.tell("cost", trial_id=t, slot=0, phase="evaluate", seconds=1.0)
        return self.tell("end", **name, status=status, reason=None, objective=loss, step=steps, samples_seen=steps * 10,
                         tokens_seen=steps * 50)  # fmt: skip

    def decision(self, t: str, rung: float, action: str, **more: Any) -> Sweep:
        step = int(rung * 10)
        return self.tell("decision", trial_id=t, step=step, samples_seen=step * 10, rung=rung, action=action,
                         **{"rule": "median", "reason": "r", **more})  # fmt: skip

    def report(self) -> dict[str, Any]:
        return summarise(SweepState.from_rows(self.rows))


# --- answer ---------------------------------------------------------------------------------------


def test_winner__runner_up_and_unpaired_difference() -> None:
    answer = Sweep().trial("t0", 10, "completed", 2.0).trial("t1", 10, "completed", 1.5).report()["result"]
    assert answer["winner"]["trial_id"] == "t1"
    assert answer["winner"]["stderr"] == pytest.approx(0.01)
    assert answer["difference"]["value"] == pytest.approx(0.5)
    assert answer["difference"]["stderr"] == pytest.approx(math.hypot(0.01, 0.01))
    assert answer["difference"]["clear"] is True
    assert answer["within_noise"] == []


@pytest.mark.parametrize(
    ("one", "other", "stderr"),
    [
        # what both find hard cancels: sqrt(4/3 * 4 * 1) / 100
        ([9.0, -9.0, 5.0, -5.0], [8.0, -8.0, 6.0, -6.0], math.sqrt(4 / 3 * 4) / 100),
        ([9.0, -9.0, 5.0, -5.0], [9.0, -9.0, 5.0, -5.0], 0.0),
        ([9.0, -9.0, 5.0, -5.0], [8.0, -8.0], None),
        ([9.0, -9.0], None, None),
        ([0.0], [0.0], None),
    ],
)
def test_winner__paired_difference_has_its_own_error(
    one: list[float], other: list[float] | None, stderr: float | None
) -> None:
    sweep = (
        Sweep().trial("t0", 10, "completed", 1.5, stderr=0.1).trial("t1", 10, "completed", 1.6, stderr=0.1)
    )
    finals = [row for row in sweep.rows if row["kind"] == "eval" and row["final"]]
    for row, residuals in zip(finals, (one, other), strict=True):
        row["sets"]["math"] |= {"tokens": 100} | ({} if residuals is None else {"residuals": residuals})
    report = sweep.report()
    found = report["result"]["difference"]
    assert found["paired"] is (stderr is not None)
    assert found["stderr"] == pytest.approx(math.hypot(0.1, 0.1) if stderr is None else stderr)
    assert found["clear"] is (stderr is not None)
    assert any(line.startswith("Paired differences") for line in report["not_measured"]) is (stderr is None)
    assert "residuals" not in json.dumps(report["trials"])


@pytest.mark.parametrize(
    ("second", "clear"), [(1.5, False), (1.5 + 1.95 * 0.0141421, False), (1.5 + 1.97 * 0.0141421, True)]
)
def test_winner__lead_is_clear_beyond_two_standard_errors_only(second: float, clear: bool) -> None:
    answer = Sweep().trial("t0", 10, "completed", 1.5).trial("t1", 10, "completed", second).report()["result"]
    assert answer["difference"]["clear"] is clear
    assert answer["within_noise"] == ([] if clear else ["t1"])


def test_winner__claims_nothing_without_standard_errors() -> None:
    sweep = (
        Sweep().trial("t0", 10, "completed", 1.5, stderr=None).trial("t1", 10, "completed", 1.6, stderr=None)
    )
    answer = sweep.report()["result"]
    assert answer["winner"]["stderr"] is None
    assert answer["difference"]["clear"] is None
    assert answer["within_noise"] == []


def test_winner__is_no_stopped_trial_with_the_best_partial_value() -> None:
    sweep = Sweep().trial("t0", 10, "completed", 9.5).trial("t1", 5, "stopped").trial("t2", 1, "running")
    report = sweep.report()
    assert report["result"]["winner"]["trial_id"] == "t0"
    assert [(t["trial_id"], t["rank"], t["objective"]) for t in report["trials"]] == [
        ("t0", 1, 9.5), ("t1", None, None), ("t2", None, None)]  # fmt: skip
    assert report["trials"][1]["last_eval"]["objective"] == 9.0
    assert report["trials"][1]["validation"] == {}


def test_winner__none_before_a_trial_completes() -> None:
    for report in (Sweep().report(), Sweep().trial("t0", 5, "stopped").report()):
        assert report["result"]["winner"] is None
        assert "no winner" in report["result"]["headline"]


@pytest.mark.parametrize(
    ("dimension", "value", "side"),
    [
        ({"log_uniform": [1e-4, 1e-2]}, 1.1e-4, "low"),
        ({"log_uniform": [1e-4, 1e-2]}, 9e-3, "high"),
        ({"log_uniform": [1e-4, 1e-2]}, 1e-3, None),
        ({"log_uniform": [1e-4, 1e-2]}, 5e-4, None),  # near the low end of a linear scale, not of this one
        ({"uniform": [0.5, 1.5]}, 0.52, "low"),
        ({"uniform": [0.0, 1.0]}, 0.5, None),
        ({"int_uniform": [1, 100]}, 100, "high"),
        ({"choice": [8, 16, 32]}, 32, "high"),
        ({"choice": [32, 8, 16]}, 8, "low"),
        ({"choice": [8, 16, 32]}, 16, None),
        ({"choice": [8, 16]}, 8, None),  # two values have no inside
        ({"choice": [0.0, 0.03, 0.1]}, 0.0, None),  # less than nothing there is not
        ({"choice": ["constant", "cosine", "linear"]}, "constant", None),
        ({"choice": [True, False, 3]}, True, None),
        ({"uniform": [0.0, 1.0]}, None, None),
        ({"uniform": None, "choice": None, "log_uniform": [1.0, 8.0], "int_uniform": None}, 8.0, "high"),
    ],
)
def test_edge_warnings__side_for_each_kind_of_dimension(
    dimension: dict, value: object, side: str | None
) -> None:
    view = SweepState.from_rows(Sweep({"search": {"space": {"k": dimension}}}).rows)
    found = edge_warnings(view, {"k": value})
    assert [e["side"] for e in found] == ([] if side is None else [side])
    if side:
        assert f"widen k {'upwards' if side == 'high' else 'downwards'}" in found[0]["text"]


# --- cost and savings -----------------------------------------------------------------------------


def test_cost__savings_are_at_the_stopped_trials_own_speed() -> None:
    sweep = Sweep().trial("t0", 10, "completed", 1.0, seconds=1.0).trial("t1", 1, "stopped", seconds=3.0)
    report = sweep.report()
    # nine steps of 3 s; evaluations of 1 s at 50% and at the end
    assert report["trials"][1]["saved_seconds"] == pytest.approx(9 * 3.0 + 2 * 1.0)
    cost = report["cost"]
    assert cost["used"] == pytest.approx((10 * 1 + 3) + (3 + 1))
    assert cost["saved_share"] == pytest.approx(29 / (29 + 17))
    assert cost["unit"] == "slot_seconds"


def test_cost__diverged_and_failed_trials_save_nothing() -> None:
    sweep = Sweep().trial("t0", 2, "diverged").trial("t1", 2, "failed").trial("t2", 2, "interrupted")
    assert sweep.report()["cost"]["saved"] == 0


def test_cost__audits_are_listed_and_never_counted_as_saved() -> None:
    sweep = (
        Sweep()
        .trial("t0", 10, "completed", 1.0)
        .trial("t1", 10, "completed", 2.0)
        .decision("t1", 0.1, "audit")
    )
    cost = sweep.report()["cost"]
    assert cost["saved"] == 0
    assert cost["audit"] == pytest.approx(9 * 2.0)


def test_cost__phases_add_up_to_slots_times_wall() -> None:
    cost = Sweep().trial("t0", 10, "completed", 1.0).trial("t1", 5, "stopped").report()["cost"]
    assert sum(cost["by_phase"].values()) == pytest.approx(cost["capacity"], rel=0.01)
    assert cost["unaccounted"] == pytest.approx(0, abs=1e-6)


def test_cost__slots_of_a_resumed_sweep_are_those_at_one_time() -> None:
    sweep = Sweep().trial("t0", 10, "completed", 1.0)
    sweep.now += 1000.0  # the machine was off
    sweep.tell("sweep", name="s", spec={}, spec_digest="", seed=0, budget_samples=100, sweepft_version="0",
               resumed=True)  # fmt: skip
    sweep.trial("t1", 10, "completed", 2.0)
    for row in sweep.rows:
        if row["kind"] == "cost" and row["trial_id"] == "t1":
            row["slot"] = 1  # another process
    cost = sweep.report()["cost"]
    assert cost["slots"] == 1
    assert cost["unaccounted"] == pytest.approx(0, abs=1e-6)


def test_cost__is_gpu_time_where_trials_hold_gpus() -> None:
    sweep = Sweep().trial("t0", 10, "completed", 1.0)
    for row in sweep.rows:
        if row["kind"] == "cost":
            row["gpus"] = 8.0
    cost = sweep.report()["cost"]
    assert cost["unit"] == "gpu_seconds"
    assert cost["used"] == pytest.approx(8 * 23.0)
    assert cost["by_phase"]["train"] == pytest.approx(8 * 20.0)


def test_cost__from_the_trials_own_phases_without_cost_rows() -> None:
    sweep = Sweep().trial("t0", 10, "completed", 1.0)
    sweep.rows = [r for r in sweep.rows if r["kind"] != "cost"]
    assert sweep.report()["cost"]["used"] == pytest.approx(23.0)
    for row in sweep.rows:
        if row["kind"] == "steps":
            row["phase_seconds"] = {"train": 20.0, "evaluate": 3.0, "switch": 2.0}
    assert sweep.report()["cost"]["used"] == pytest.approx(25.0)


def test_cost__time_between_two_sessions_does_not_count() -> None:
    sweep = Sweep().trial("t0", 10, "completed", 1.0)
    sweep.now += 50_000
    sweep.tell(
        "sweep",
        name="s",
        spec=SPEC,
        spec_digest="",
        seed=0,
        budget_samples=100,
        sweepft_version="0",
        resumed=True,
    )
    report = sweep.trial("t1", 10, "completed", 2.0).report()
    assert report["cost"]["wall_seconds"] == pytest.approx(2 * 23.0)
    assert len(report["provenance"]["resumes"]) == 1


# --- stops ----------------------------------------------------------------------------------------


def test_stop_summary__false_stop_rate_is_that_of_finished_audits() -> None:
    sweep = Sweep()
    for i in range(10):
        sweep.trial(f"t{i}", 10, "completed", 1.0 + i)
    sweep.decision("t1", 0.1, "audit").decision("t5", 0.1, "audit").decision("t5", 0.5, "audit").decision(
        "t9", 0.5, "audit"
    )
    sweep.trial("t10", 5, "running").decision("t10", 0.1, "audit")
    sweep.trial("t11", 1, "stopped").decision("t11", 0.1, "stop")
    stops = sweep.report()["stops"]
    assert stops["by_rule"] == {"median": 1}
    assert stops["by_rung"] == {"10%": 1}
    audits = stops["audits"]
    # With one trial stopped, each of four audited stands for 5/4: the best fifth of 10.75 trials ends with t1.
    assert (audits["audited"], audits["completed"], audits["top"]) == (4, 3, 1)
    assert audits["status"] == "uncertified"
    assert audits["rate"]["low"] == pytest.approx(0.0084, abs=1e-4)
    assert audits["rate"]["high"] == pytest.approx(0.9057, abs=1e-4)
    # Five were flagged (t1, t5, t9, t10, t11), and one good trial, t0, never was: (1/3 x 5) / (1/3 x 5 + 1).
    lost = stops["false_stops"]
    assert (lost["flagged"], lost["kept"], lost["limit"], lost["status"]) == (5, 1, None, "uncertified")
    assert lost["rate"]["value"] == pytest.approx(0.625)
    assert lost["rate"]["low"] == pytest.approx(0.0403, abs=1e-4)
    assert lost["rate"]["high"] == pytest.approx(0.8191, abs=1e-4)


def test_stop_summary__rate_is_not_measured_without_audits() -> None:
    report = Sweep().trial("t0", 10, "completed", 1.0).trial("t1", 1, "stopped").report()
    assert report["stops"]["audits"]["rate"] is None
    assert report["stops"]["false_stops"]["rate"] is None
    assert any("audit" in line for line in report["not_measured"])


@pytest.mark.parametrize(
    ("bases", "status"),
    [
        (("prior_sweeps", "conformal"), "certified"),
        (("prior_sweeps", "heuristic"), "uncertified"),
        ((), "uncertified"),
    ],
)
def test_stop_summary__certified_only_where_every_level_was_bounded(
    bases: tuple[str, ...], status: str
) -> None:
    spec = {**SPEC, "early_stop": {"rungs": [0.1, 0.5], "rule": "calibrated", "max_false_stop_rate": 0.2}}
    sweep = Sweep(spec).trial("t0", 10, "completed", 1.0)
    for i, basis in enumerate(bases, 1):
        sweep.trial(f"t{i}", 1, "stopped").decision(f"t{i}", 0.1, "stop", evidence={"basis": basis})
    report = sweep.trial("t8", 1, "stopped").decision("t8", 0.1, "stop", rule="user").report()
    lost = report["stops"]["false_stops"]
    assert (lost["status"], lost["limit"], lost["flagged"]) == (status, 0.2, len(bases))
    found = report["stops"]["by_basis"]
    assert {basis: row["stopped"] for basis, row in found.items()} == dict.fromkeys([*bases, "user"], 1)
    assert sum(row["saved"] for row in found.values()) == pytest.approx(report["cost"]["saved"])


def test_stop_summary__interval_of_false_stops_covers_the_truth() -> None:
    """Sixty made-up sweeps in which the end of every trial is known, whether it was stopped or not."""
    held = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ends = rng.normal(size=50)
        early = ends + rng.normal(size=50)
        sweep = Sweep({**SPEC, "early_stop": {"rungs": [0.1], "rule": "median", "audit": 0.4}})
        flagged, good = early > np.median(early), ends <= np.sort(ends)[9]
        for i, end in enumerate(ends):
            audited = rng.random() < 0.4
            stopped = flagged[i] and not audited
            sweep.trial(f"t{i}", *((1, "stopped") if stopped else (10, "completed", end)))
            if flagged[i]:
                sweep.decision(f"t{i}", 0.1, "audit" if audited else "stop")
        rate = sweep.report()["stops"]["false_stops"]["rate"]
        held += rate["low"] <= (flagged & good).sum() / good.sum() <= rate["high"]
    assert held >= 54


# --- findings and importance ----------------------------------------------------------------------


def made_up(n: int, seed: int = 0, batch_effect: float = 0.05) -> list[dict[str, Any]]:
    """Records of completed trials with known effects."""
    rng = np.random.default_rng(seed)
    trials = []
    for i in range(n):
        params = {
            "batch_size": int(rng.choice([8, 16, 32])),
            "learning_rate": float(10 ** rng.uniform(-4, -2)),
        }
        params |= {
            "warmup": float(rng.choice([0.0, 0.1])),
            "schedule": str(rng.choice(["constant", "cosine"])),
        }
        loss = 2 + batch_effect * math.log2(params["batch_size"]) + 0.3 * math.log10(params["learning_rate"])
        loss += rng.normal(0, 0.02)
        trials.append({"trial_id": f"t{i}", "rank": 1, "params": params, "objective": loss, "validation": {}})
    return trials


def finding(trials: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(f for f in recipe_findings(SweepState(), trials, []) if f["finding"] == name)


def test_findings__distinguish_a_real_effect_from_none() -> None:
    trials = made_up(60)
    batch = finding(trials, "batch size")
    assert batch["low"] < 0.05 < batch["high"]
    assert batch["conclusion"] == "does not hold here"
    assert finding(made_up(60, batch_effect=-0.05), "batch size")["conclusion"] == "holds here"
    assert finding(trials, "learning rate")["conclusion"] == "holds here"
    assert finding(trials, "warmup")["conclusion"] == "no difference seen"
    assert finding(trials, "data order")["conclusion"] == "not varied"


def test_findings__phased_against_stacked_is_at_equal_weights() -> None:
    """The effect of phases is at equal weights, though phased trials happen to have the larger ones."""
    rng = np.random.default_rng(1)
    trials = made_up(60)
    for i, trial in enumerate(trials):
        phased, weight = i % 2 == 1, float(rng.choice([1.0, 2.0, 4.0])) * (1 + i % 2)
        trial["params"] |= {"data.strategy": "phased" if phased else "stacked", "data.mixture.skills": weight}
        trial["objective"] += 0.04 * phased - 0.1 * weight
    order = finding(trials, "data order")
    assert order["low"] < 0.04 < order["high"]
    assert (order["conclusion"], order["unit"]) == ("holds here", "phased against stacked")


@pytest.mark.parametrize("n", [0, 1, 5, 9])
def test_findings__few_trials_show_no_effect(n: int) -> None:
    for f in recipe_findings(SweepState(), made_up(n), []):
        assert f["effect"] is None
        assert f["conclusion"] in ("cannot tell", "not varied")


def test_importances__name_what_mattered_and_need_trials() -> None:
    space = {k: {} for k in ("batch_size", "learning_rate", "warmup", "schedule")}
    found = importances(space, made_up(80, batch_effect=0.0))
    assert next(iter(found)) == "learning_rate"
    assert sum(found.values()) == pytest.approx(1)
    assert importances(space, made_up(11)) is None
    assert importances({}, made_up(80)) is None


def test_importances__take_params_of_any_kind() -> None:
    trials = made_up(20)
    for i, t in enumerate(trials):
        t["params"] |= {"betas": [0.9, 0.95 if i % 2 else 0.99], "flag": bool(i % 3), "text": "<b>" * (i % 2)}
    assert set(importances({k: {} for k in trials[0]["params"]}, trials)) == set(trials[0]["params"])
