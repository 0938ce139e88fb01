"""The gain of a sweep over its baseline, and warnings of what its winner has forgotten."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from support.ledger_builder import LedgerBuilder
from sweepft.report import summarise
from sweepft.report.gain import seed_noise
from sweepft.report.tables import markdown

TOKENS = 1000


def trial(
    sweep: LedgerBuilder, name: str, sets: dict[str, tuple[float, list[float] | None]], **fields: Any
) -> None:
    """A trial with these final losses, and residuals of the sample groups where given; the first set is the objective."""
    last = next(iter(sets.values()))[0]
    sweep.trial(name, **fields).steps(name, 10)
    rows = {
        set_name: {"loss": loss, "stderr": 0.01, "tokens": TOKENS, "samples": 10, "residuals": residuals}
        for set_name, (loss, residuals) in sets.items()
    }
    sweep.eval(name, last, sets=rows).cost(name, seconds=3600.0).end(name, "completed", last)


def gain_of(losses: list[float], spread: float = 0.0, *, first: str = "start_with") -> dict[str, Any]:
    """The gain of a sweep with these final losses; residuals of trials differ by ``spread`` nats a group of samples."""
    rng = np.random.default_rng(0)
    sweep = LedgerBuilder(spec={"data": {"validation": [{"name": "math"}]}})
    for i, loss in enumerate(losses):
        residuals = [float(r) for r in rng.normal(0, spread, 10)]
        trial(sweep, f"t{i}", {"math": (loss, residuals)}, origin=first if i == 0 else "sampler")
    found: dict[str, Any] = summarise(sweep.finish().state())["result"]["gain"]
    return found


@pytest.mark.parametrize(
    ("losses", "spread", "verdict", "words"),
    [
        ([2.0, 1.8], 0.0, "better", "t1 beats the baseline t0 (learning_rate = 0.001) by 0.2000 ± 0 nats"),
        ([2.0, 1.999], 1.0, "not_better", "No better than the baseline"),
        ([1.7, 1.8, 1.9], 1.0, "baseline_wins", "none of the 2 others that completed is better;"),
        ([1.7, 1.8], 1.0, "baseline_wins", "the other one that completed is not better;"),
        ([1.7], 1.0, "baseline_wins", "no other one has completed;"),
    ],
)
def test_gain__says_whether_the_sweep_was_worth_it(
    losses: list[float], spread: float, verdict: str, words: str
) -> None:
    found = gain_of(losses, spread)
    assert (found["verdict"], found["baseline"]["trial_id"]) == (verdict, "t0")
    assert words in found["text"]
    assert "of slot time" in found["text"]
    if verdict == "better":
        assert "over 10 validation samples, without seed noise" in found["text"]


def test_gain__allows_for_the_choice_of_the_best_of_many() -> None:
    few, many = gain_of([2.0, 1.99], 1.0), gain_of([2.0, 1.99, *[1.995] * 30], 1.0)
    for found, others in ((few, 1), (many, 31)):
        half = stats.norm.isf(0.025 / others) * found["stderr"]
        assert found["compared"] == others
        assert (found["low"], found["high"]) == pytest.approx((found["value"] - half, found["value"] + half))


def test_gain__nothing_is_said_without_a_baseline() -> None:
    found = gain_of([2.0, 1.5], first="sampler")
    assert (found["baseline"], found["value"], found["verdict"]) == (None, None, "no_baseline")
    assert "set search.baseline" in found["text"]


@pytest.mark.parametrize("status", ["failed", "running", "diverged"])
def test_gain__is_not_known_where_the_baseline_has_no_final_loss(status: str) -> None:
    sweep = LedgerBuilder()
    sweep.trial("t0", origin="start_with")
    if status != "running":
        sweep.end("t0", status)
    sweep.completed("t1", 1.5)
    found = summarise(sweep.state())["result"]["gain"]
    assert found["verdict"] == "baseline_open"
    assert ("has not ended" if status == "running" else status) in found["text"]


def test_gain__rests_on_replicates_where_both_have_them() -> None:
    sweep = LedgerBuilder()
    sweep.completed("t0", 1.9, origin="start_with").completed("t1", 1.5)
    seeds = {"t0": [1.80, 1.90, 1.85], "t1": [1.62, 1.58, 1.66]}
    for name, losses in seeds.items():
        for i, loss in enumerate(losses):
            sweep.completed(f"{name}-seed{i}", loss, replicate_of=name)
    found = summarise(sweep.finish().state())["result"]["gain"]
    assert found["seeds"] == 3
    assert found["value"] == pytest.approx(np.mean(seeds["t0"]) - np.mean(seeds["t1"]))
    errors = [np.var(v, ddof=1) / 3 for v in seeds.values()]
    assert found["stderr"] == pytest.approx(math.sqrt(sum(errors)))
    assert "over 3 seeds each" in found["text"]


@pytest.mark.parametrize(
    ("retention", "base", "named"),
    [
        ([6.80, 1.26, 0.09], None, ["the runner-up t1 has 1.26", "t2 has the lowest", "is 0.3 behind"]),
        ([6.80, 6.79, 6.81], 1.0, ["the base model has 1"]),
        ([1.05, 1.00, 1.02], 1.0, []),
    ],
)
def test_forgetting__winner_that_lost_much_is_warned_of(
    retention: list[float], base: float | None, named: list[str]
) -> None:
    sweep = LedgerBuilder(spec={"data": {"validation": [{"name": "math"}, {"name": "facts", "weight": 0.0}]}})
    for i, lost in enumerate(retention):
        trial(sweep, f"t{i}", {"math": (1.0 + [0.0, 0.1, 0.3][i], None), "facts": (lost, None)})
    if base is not None:
        sweep.finalists("t0", items=[{"what": "validation", "name": "facts", "digest": "d-facts"}],
                        rank_by={"objective": 1.0})  # fmt: skip
        sweep.score(None, "facts", {"loss": base}, what="validation")
    summary = summarise(sweep.finish().state())
    rows = summary["result"]["forgetting"]
    assert [row["set"] for row in rows] == (["facts"] if named else [])
    for words in named:
        assert words in rows[0]["text"]
        assert "may have forgotten" in markdown(summary)


def test_gain__over_the_base_model_and_on_every_task() -> None:
    sets = [{"name": "math"}, {"name": "general", "weight": 0.0}]
    sweep = LedgerBuilder(spec={"data": {"validation": sets}})
    for i, (loss, general) in enumerate([(2.0, 3.5), (1.5, 4.0)]):
        trial(
            sweep,
            f"t{i}",
            {"math": (loss, None), "general": (general, None)},
            origin="sampler" if i else "start_with",
        )
    items = [{"what": "task", "name": "maths", "digest": "d-maths"}]
    items += [{"what": "validation", "name": name, "digest": f"d-{name}"} for name in ("math", "general")]
    sweep.finalists("t1", "t0", items=items, rank_by={"objective": 1.0})
    for name, accuracy in ((None, 0.1), ("t0", 0.3), ("t1", 0.5)):
        sweep.score(name, "maths", {"acc": (accuracy, 0.02)})
    sweep.score(None, "math", {"loss": 3.0}, what="validation")
    sweep.score(None, "general", {"loss": 3.4}, what="validation")
    found = summarise(sweep.finish().state())["result"]["gain"]
    assert found["over_base"] == [
        {"set": "math", "base": 3.0, "winner": 1.5},
        {"set": "general", "base": 3.4, "winner": 4.0},
    ]
    assert found["details"] == [
        "From the base model to t1, loss in nats per token: math 3 to 1.5, general 3.4 to 4.",
        "maths (acc, higher is better): t1 0.5 ± 0.02, baseline 0.3 ± 0.02, base model 0.1 ± 0.02.",
    ]


def test_gain__single_runs_are_widened_by_the_spread_of_repeated_ones() -> None:
    sweep = LedgerBuilder(spec={"data": {"validation": [{"name": "math"}]}})
    for i, loss in enumerate((2.0, 1.9, 1.8)):
        params = {"learning_rate": 10.0**-i}
        trial(
            sweep,
            f"t{i}",
            {"math": (loss, [0.0] * 9 + [i * 0.1])},
            origin="start_with" if not i else "sampler",
            params=params,
        )
    narrow = summarise(sweep.state())["result"]["gain"]
    assert (narrow["seed_noise"], narrow["verdict"]) == (None, "better")
    assert "evaluate.replicates measures it" in narrow["text"]
    for i, loss in enumerate((1.7, 1.9, 2.1)):
        trial(sweep, f"t1-seed{i}", {"math": (loss, None)}, replicate_of="t1", params={"learning_rate": 0.1})
    wide = summarise(sweep.state())["result"]["gain"]
    assert wide["seed_noise"] == {"value": pytest.approx(0.2), "runs": 3, "freedom": 2}
    assert wide["value"] == narrow["value"]
    assert wide["stderr"] == pytest.approx(math.hypot(narrow["stderr"], math.sqrt(2) * 0.2))
    assert wide["high"] - wide["value"] == pytest.approx(stats.t.isf(0.025 / 2, 2) * wide["stderr"])
    assert wide["verdict"] == "not_better"
    assert "with the seed noise of 3 repeated runs" in wide["text"]


def test_seed_noise__is_pooled_over_trials_that_differ_in_their_seed_only() -> None:
    rows = [
        {"objective": loss, "replicate_of": None, "params": {"seed": seed, "rate": rate}}
        for rate, losses in ((1, (1.0, 1.2)), (2, (5.0, 5.4)), (3, (7.0,)))
        for seed, loss in enumerate(losses)
    ]
    assert seed_noise(rows) == {"value": pytest.approx(math.sqrt((0.02 + 0.08) / 2)), "runs": 4, "freedom": 2}
    alike = [{"objective": 1.0 + i, "replicate_of": None, "params": {"rate": 1}} for i in range(3)]
    assert seed_noise(alike) is None
