"""Trials of earlier sweeps as a start: what is read of them, what a sampler is shown, and how their weight falls."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from support.search_material import BUDGET, evaluate, make_spec, new_ledger, propose
from sweepft.driver.build import new_proposer, read_learned
from sweepft.errors import LearnFromError
from sweepft.ledger import SweepState
from sweepft.report import learned_lines, summarise
from sweepft.search import Proposer
from sweepft.search.learned import SHOWN, Learned
from sweepft.search.space import Space
from sweepft.spec import SweepSpec, from_dict
from sweepft.spec.learn_from import MOST, EarlierSweep, read_earlier_sweeps
from sweepft.spec.sections import Bound

SPACE = {"learning_rate": {"log_uniform": [1e-5, 1e-1]}, "batch_size": {"choice": [8, 16, 32]}}
BEST = 1e-3


def objective(params: dict[str, Any], best: float = BEST) -> float:
    return 2.0 + math.log10(params["learning_rate"] / best) ** 2 + 0.1 * (params.get("batch_size", 16) != 16)


def earlier(
    folder: Path,
    n: int = 30,
    space: dict[str, Any] = SPACE,
    best: float = BEST,
    scale: float = 1.0,
    **header: Any,
) -> Path:
    """A sweep over a space, by random search, whose losses have another scale."""
    rng, spec = np.random.default_rng(0), make_spec(space)
    built = LedgerBuilder(spec=spec.to_dict(), budget_samples=100, **{"name": "before", **header})
    for number in range(n):
        params = {key: float(10 ** rng.uniform(-5, -1)) for key in space if key == "learning_rate"}
        params |= {key: int(rng.choice([8, 16, 32])) for key in space if key == "batch_size"}
        params |= {key: float(rng.choice([0.0, 0.1])) for key in space if key == "warmup"}
        built.completed(f"t{number:03d}", scale * objective(params, best), number=number, params=params)
    return built.save(folder)


def spec_of(*runs: Path, **search: Any) -> SweepSpec:
    return make_spec(
        search.pop("space", SPACE), learn_from=[str(run) for run in runs], **{"trials": 20, **search}
    )


def test_read__keeps_the_ranking_and_not_the_losses(tmp_path: Path) -> None:
    (sweep,) = read_earlier_sweeps(spec_of(earlier(tmp_path / "run", scale=100.0)).search)
    assert len(sweep.trials) == 30
    assert [trial.place for trial in sweep.trials] == [(i + 0.5) / 30 for i in range(30)]
    distances = [objective(dict(trial.values)) for trial in sweep.trials]
    assert distances == sorted(distances)
    assert EarlierSweep.from_dict(json.loads(json.dumps(sweep.to_dict()))) == sweep


@pytest.mark.parametrize(
    ("name", "notes"),
    [
        (None, []),
        ("validation loss", []),
        ("gsm acc", ["Its ranking is by validation loss, not by gsm acc."]),
    ],
)
def test_read__says_when_the_ranking_is_by_another_objective(
    tmp_path: Path, name: str | None, notes: list[str]
) -> None:
    (sweep,) = read_earlier_sweeps(spec_of(earlier(tmp_path / "run")).search, name)
    assert list(sweep.notes) == notes


def test_read__ranks_stopped_trials_behind_completed_ones(tmp_path: Path) -> None:
    built = LedgerBuilder(spec=make_spec(SPACE).to_dict(), budget_samples=100)
    rates = {"t0": 1e-4, "t1": 2e-4, "t2": 3e-4, "t3": 4e-4, "t4": 5e-4, "t5": 6e-4}
    params = {name: {"learning_rate": rate, "batch_size": 8} for name, rate in rates.items()}
    built.completed("t0", 3.0, params=params["t0"]).completed("t1", 2.0, params=params["t1"])
    built.trial("t2", params=params["t2"]).result("t2", 5, 1.0).end("t2", "stopped")
    built.trial("t3", params=params["t3"]).result("t3", 2, 0.5).end("t3", "stopped")
    built.trial("t4", params=params["t4"]).result("t4", 1).end("t4", "diverged")
    built.trial("t5", params=params["t5"]).result("t5", 1).end("t5", "failed")
    built.save(tmp_path)
    (sweep,) = read_earlier_sweeps(spec_of(tmp_path).search)
    assert [trial.values["learning_rate"] for trial in sweep.trials] == [2e-4, 1e-4, 3e-4, 4e-4, 5e-4]


@pytest.mark.parametrize(
    ("there", "here", "known", "note"),
    [
        (SPACE, SPACE, {"learning_rate", "batch_size"}, None),
        ({"learning_rate": SPACE["learning_rate"]}, SPACE, {"learning_rate"}, "does not vary batch_size"),
        (
            {**SPACE, "warmup": {"choice": [0.0, 0.1]}},
            SPACE,
            {"learning_rate", "batch_size"},
            "ignored: warmup",
        ),
        (
            SPACE,
            {"learning_rate": {"log_uniform": [1e-4, 1e-2]}},
            {"learning_rate"},
            "lie outside of this search space",
        ),
        (
            SPACE,
            {**SPACE, "learning_rate": {"log_uniform": [1e-5, 1e-1], "at_batch": 16}},
            {"learning_rate", "batch_size"},
            None,
        ),
    ],
    ids=["same", "missing there", "missing here", "narrower", "another scale"],
)
def test_read__fields_that_only_one_sweep_has(
    there: dict[str, Any], here: dict[str, Any], known: set[str], note: str | None, tmp_path: Path
) -> None:
    (sweep,) = read_earlier_sweeps(spec_of(earlier(tmp_path, space=there), space=here).search)
    assert {frozenset(trial.values) for trial in sweep.trials} == {frozenset(known)}
    if "at_batch" in here["learning_rate"]:
        ledger = SweepState.load(tmp_path).trials.values()
        own = {t.params["learning_rate"] / math.sqrt(t.params["batch_size"] / 16) for t in ledger}
        assert {trial.values["learning_rate"] for trial in sweep.trials} <= own
    elif note is None:
        assert sweep.notes == ()
    if note is not None:
        assert note in " ".join(sweep.notes)
    space = Space(spec_of(space=here, trials=40))
    learned = Learned([sweep], space, make_spec(here)).trials(0, [])
    assert all(trial.params.keys() == space.distributions.keys() for trial in learned)


def _empty(tmp_path: Path) -> list[Path]:
    return [tmp_path / "absent"]


def _no_ledger(tmp_path: Path) -> list[Path]:
    (tmp_path / "run").mkdir()
    return [tmp_path / "run"]


def _damaged(tmp_path: Path) -> list[Path]:
    run = earlier(tmp_path / "run")
    ledger = run / "ledger" / "ledger.jsonl"
    ledger.write_text(ledger.read_text().replace('"objective":', '"objectife":', 1))
    return [run]


def _simulated(tmp_path: Path) -> list[Path]:
    return [earlier(tmp_path, simulated={"courses": "made up"})]


def _outside(tmp_path: Path) -> list[Path]:
    return [earlier(tmp_path, n=1)]


def _twice(tmp_path: Path) -> list[Path]:
    run = earlier(tmp_path / "run")
    shutil.copytree(run, tmp_path / "copy")
    return [run, tmp_path / "copy"]


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (_empty, "no_ledger"),
        (_no_ledger, "no_ledger"),
        (_damaged, "no_ledger"),
        (_simulated, "simulated"),
        (_outside, "few"),
        (_twice, "repeated"),
    ],
)
def test_read__refuses_runs_it_cannot_learn_from(make: Any, key: str, tmp_path: Path) -> None:
    with raises(LearnFromError, f"search.learn_from.{key}"):
        read_earlier_sweeps(spec_of(*make(tmp_path)).search)


def test_read__refuses_a_sweep_of_other_keys(tmp_path: Path) -> None:
    run = earlier(tmp_path, space={"warmup": {"choice": [0.0, 0.1]}, "learning_rate": SPACE["learning_rate"]})
    with raises(LearnFromError, "search.learn_from.keys"):
        read_earlier_sweeps(spec_of(run, space={"batch_size": SPACE["batch_size"]}).search)


def test_read__bounds_are_those_of_the_new_sweep(tmp_path: Path) -> None:
    search = spec_of(earlier(tmp_path)).search
    (sweep,) = read_earlier_sweeps(search.model_copy(update={"subject_to": {"math": Bound(at_most=2.5)}}))
    over = [trial.over["math"] for trial in sweep.trials]
    assert over[0] < 0 < over[-1]
    for name, wrong in {"other": Bound(at_most=1.0), "math": Bound(at_most=0.1, above="base")}.items():
        with raises(LearnFromError, "search.learn_from.bounds"):
            read_earlier_sweeps(search.model_copy(update={"subject_to": {name: wrong}}))


def test_read__bounds_on_a_task_need_a_sweep_that_has_measured_it(tmp_path: Path) -> None:
    gsm = {"task": "gsm", "metric": "acc"}
    built = LedgerBuilder(
        spec=make_spec(SPACE).to_dict() | {"objective": {"measure": [gsm]}}, budget_samples=100
    )
    for i in range(6):
        name, params = f"t{i:03d}", {"learning_rate": 10.0 ** -(i % 4 + 1), "batch_size": 8}
        one = {"value": i / 10, "stderr": 0.1, "items": 20, "seconds": 1.0, "higher_is_better": True}
        built.trial(name, number=i, params=params).steps(name, 10).eval(name, 2.0, tasks={"gsm": one}).cost(
            name
        )
        built.end(name, "completed", 2.0)
    search = spec_of(built.save(tmp_path)).search

    def over(bound: Bound) -> list[float]:
        (sweep,) = read_earlier_sweeps(search.model_copy(update={"subject_to": {"gsm": bound}}))
        return [round(trial.over["gsm"], 3) for trial in sweep.trials]

    assert over(Bound(at_least=0.3)) == [0.0, -0.1, -0.2, 0.1, 0.2, 0.3]
    with raises(LearnFromError, "search.learn_from.bounds"):
        over(Bound(at_most=0.1, below="base"))
    built.score(None, "measured: gsm", {"acc": 0.4}, what="measured")
    search = spec_of(built.save(tmp_path / "with-base")).search
    assert over(Bound(at_most=0.1, below="base")) == [0.0, -0.1, -0.2, 0.1, 0.2, 0.3]


def test_learned__best_of_an_earlier_sweep_is_best_where_the_objective_is_maximized(tmp_path: Path) -> None:
    maximized = {"maximize": {"task": "maths", "metric": "exact_match"}}
    spec = from_dict({**make_spec(SPACE, trials=60).to_dict(), "objective": maximized})
    sweeps = read_earlier_sweeps(spec_of(earlier(tmp_path)).search)
    proposer = Proposer(spec, None, earlier=sweeps)
    for _ in range(8):
        proposal = proposer.ask()
        assert proposal is not None
        proposer.tell(proposal.trial_id, "completed", -objective(proposal.params))
    shown = Learned(sweeps, proposer.space, spec).trials(9, proposer.study.get_trials())
    values = [trial.value for trial in shown]
    assert values == sorted(values, reverse=True)  # type: ignore[type-var]
    known = [trial.value for trial in proposer.study.get_trials() if trial.value is not None]
    assert max(values) <= max(known)  # type: ignore[type-var]


def test_read__long_sweeps_are_thinned_evenly(tmp_path: Path) -> None:
    (sweep,) = read_earlier_sweeps(spec_of(earlier(tmp_path, n=150)).search)
    places = [trial.place for trial in sweep.trials]
    assert len(places) == MOST
    assert (places[0], places[-1]) == (0.5 / 150, 149.5 / 150)


def test_learned__weight_falls_and_losses_are_of_this_sweeps_scale(tmp_path: Path) -> None:
    sweeps = read_earlier_sweeps(spec_of(earlier(tmp_path, scale=100.0)).search)
    spec = make_spec(SPACE, trials=60)
    proposer = Proposer(spec, None, earlier=sweeps)
    learned = Learned(sweeps, proposer.space, spec)
    shown = []
    for i in range(40):
        own = proposer.study.get_trials(deepcopy=False)
        found = learned.trials(i, own)
        shown.append(len(found))
        if i > 10:
            values = [t.value for t in own if t.value is not None]
            assert min(values) <= min(t.value for t in found) <= max(t.value for t in found) <= max(values)  # type: ignore[type-var]
            assert [t.value for t in found] == sorted(t.value for t in found)  # type: ignore[type-var]
        proposal = proposer.ask()
        assert proposal is not None
        proposer.tell(proposal.trial_id, "completed", objective(proposal.params))
    assert (shown[0], shown[39]) == (SHOWN, 5)
    assert [i for i in range(10) if not shown[i]] == [3, 8]
    assert all(trial.number >= 0 for trial in proposer.study.get_trials())
    assert proposer.proposed == 40


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("gp", marks=pytest.mark.full)])
def test_learn_from__first_trials_are_near_the_best_of_the_earlier_sweep(
    sampler: str, tmp_path: Path
) -> None:
    sweeps = read_earlier_sweeps(spec_of(earlier(tmp_path, n=40, scale=30.0)).search)

    def start(sweeps: list[EarlierSweep]) -> float:
        found = []
        for seed in range(6):
            proposer = Proposer(make_spec(SPACE, trials=30, sampler=sampler, seed=seed), None, earlier=sweeps)
            for _ in range(8):
                proposal = proposer.ask()
                assert proposal is not None
                found.append(abs(math.log10(proposal.params["learning_rate"] / BEST)))
                proposer.tell(proposal.trial_id, "completed", objective(proposal.params))
        return float(np.median(found))

    assert start(sweeps) < 0.75 * start([])


def test_learn_from__an_earlier_sweep_with_another_best_is_outgrown(tmp_path: Path) -> None:
    sweeps = read_earlier_sweeps(spec_of(earlier(tmp_path, n=40, best=5e-2)).search)
    proposer = Proposer(make_spec(SPACE, trials=50), None, earlier=sweeps)
    rates = []
    while (proposal := proposer.ask()) is not None:
        rates.append(proposal.params["learning_rate"])
        proposer.tell(proposal.trial_id, "completed", objective(proposal.params))
    assert np.median([abs(math.log10(rate / BEST)) for rate in rates[30:]]) < 0.5


def test_learn_from__a_resume_proposes_the_same_without_the_earlier_run(tmp_path: Path) -> None:
    run = earlier(tmp_path / "before")
    spec = spec_of(run, trials=12)
    learned = read_learned(spec)

    def rows(most: int) -> tuple[list[dict[str, Any]], LedgerBuilder]:
        ledger = LedgerBuilder(name="proposing", budget_samples=BUDGET, learned=learned, spec=spec.to_dict())
        proposer, found = new_proposer(spec, tmp_path / f"run{most}", ledger.state()), []
        while len(found) < most and (proposal := proposer.ask()) is not None:
            propose(ledger, proposal)
            evaluate(ledger, proposal.trial_id, 1.0, objective(proposal.params))
            proposer.tell(proposal.trial_id, "completed", objective(proposal.params))
            ledger.end(proposal.trial_id, "completed", objective(proposal.params))
            found.append(proposal.params)
        return found, ledger

    for most in (5, 12):
        (tmp_path / f"run{most}").mkdir()
    whole, _ = rows(12)
    first, ledger = rows(5)
    shutil.rmtree(run)
    state = ledger.state()
    resumed = new_proposer(spec, tmp_path / "run5", state)
    resumed.rebuild(state)
    while (proposal := resumed.ask()) is not None:
        resumed.tell(proposal.trial_id, "completed", objective(proposal.params))
        first.append(proposal.params)
    assert first == whole
    assert whole != [p.params for p in iter(Proposer(spec, None).ask, None)]

    report = summarise(state)["learned"]
    assert report["sweeps"] == [{"source": str(run), "name": "before", "trials": 30, "notes": []}]
    assert learned_lines(state) == [f"learning from {run}: 30 trials of before."]
    assert learned_lines(new_ledger().state()) == []
