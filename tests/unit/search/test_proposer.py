"""The proposer on real Optuna studies: all samplers and endings, repeats, resumes."""

from __future__ import annotations

import math
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from support.ledger_builder import LedgerBuilder
from support.search_material import (
    BUDGET,
    FINITE,
    RUNGS,
    SPACE,
    evaluate,
    loss,
    make_spec,
    new_ledger,
    propose,
)
from sweepft.ledger import SweepState
from sweepft.search import STUDY_FILE, Proposal, Proposer
from sweepft.search.study import nominal_step
from sweepft.spec import Objective, TaskMetric

SAMPLERS = ["tpe", "gp", "random", "qmc", "grid", "cmaes"]
START = [
    {"batch_size": 32, "learning_rate": 1e-3, "warmup": 0.0, "schedule": "constant"},
    {"schedule": "linear", "batch_size": 8},
]


def train(
    proposer: Proposer, proposal: Proposal, ledger: LedgerBuilder | None = None, rungs: int = 3
) -> None:
    """One trial as the driver sees it: every third is stopped at a rung, every seventh diverges."""
    trial_id, params = proposal.trial_id, proposal.params
    for rung in RUNGS[:rungs]:
        value = loss(params, rung)
        proposer.report(trial_id, nominal_step(rung, BUDGET), value)
        if ledger is not None:
            evaluate(ledger, trial_id, rung, value)
    status, value, reason = "completed", loss(params), None
    if proposal.number % 7 == 6:
        status, value, reason = "diverged", None, "the loss is nan"
    elif proposal.number % 3 == 2:
        status, value, reason = "stopped", None, "worse than the median"
    if value is not None:
        proposer.report(trial_id, BUDGET, value)
        if ledger is not None:
            evaluate(ledger, trial_id, 1.0, value)
    proposer.tell(trial_id, status, value, reason)
    if ledger is not None:
        ledger.end(trial_id, status, value, reason=reason)


def sweep(proposer: Proposer, ledger: LedgerBuilder | None = None, most: int = 10**6) -> list[Proposal]:
    proposals = []
    while len(proposals) < most and (proposal := proposer.ask()) is not None:
        if ledger is not None:
            propose(ledger, proposal)
        train(proposer, proposal, ledger)
        proposals.append(proposal)
    return proposals


def content(proposer: Proposer) -> list[tuple[Any, ...]]:
    """A study without its times."""
    return [
        (t.number, t.state, t.params, t.values, t.intermediate_values, t.user_attrs)
        for t in proposer.study.get_trials()
        if "duplicate_of" not in t.user_attrs and t.user_attrs.get("reason") != "proposed before"
    ]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposer__whole_sweep_is_recorded_in_the_study(sampler: str, tmp_path: Path) -> None:
    spec = make_spec(sampler=sampler, start_with=START)
    proposals = sweep(Proposer(spec, tmp_path / STUDY_FILE))
    assert [p.trial_id for p in proposals] == [f"t{i:03d}" for i in range(16)]
    assert proposals[0].params == START[0]
    assert proposals[1].params.items() >= START[1].items()
    assert [p.origin for p in proposals] == ["start_with"] * 2 + ["sampler"] * 14
    assert len({str(p.params) for p in proposals}) == 16
    for p in proposals:
        assert list(p.params) == list(spec.search.space)
        assert all(spec.search.space[key].contains(value) for key, value in p.params.items())
        assert spec.train_config(p.params, 64).batch_size == p.params["batch_size"]
        assert type(p.params["batch_size"]) is int
    # Optuna itself reads the same from the file, without our sampler
    study = optuna.load_study(
        study_name=make_spec().name, storage=JournalStorage(JournalFileBackend(str(tmp_path / STUDY_FILE)))
    )
    by_id = {t.user_attrs["trial_id"]: t for t in study.trials if "trial_id" in t.user_attrs}
    for p in proposals:
        trial = by_id[p.trial_id]
        early = {nominal_step(w, BUDGET): loss(p.params, w) for w in RUNGS}
        assert trial.number == p.study_number
        assert trial.user_attrs["params"] == p.params
        if p.number % 7 == 6 or p.number % 3 == 2:
            assert (trial.state, trial.intermediate_values) == (TrialState.PRUNED, early)
            assert trial.user_attrs["reason"] in ("the loss is nan", "worse than the median")
        else:
            assert (trial.state, trial.value) == (TrialState.COMPLETE, loss(p.params))
            assert trial.intermediate_values == {**early, BUDGET: loss(p.params)}
    assert (
        study.best_trial.user_attrs["trial_id"]
        == min(
            (p for p in proposals if p.number % 7 != 6 and p.number % 3 != 2), key=lambda p: loss(p.params)
        ).trial_id
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposer__same_seed_proposes_the_same(sampler: str, tmp_path: Path) -> None:
    spec = make_spec(sampler=sampler, start_with=START)
    first = sweep(Proposer(spec, None))
    on_disk = sampler in ("tpe", "cmaes")  # which makes no difference
    assert sweep(Proposer(spec, tmp_path / STUDY_FILE if on_disk else None)) == first
    other = sweep(Proposer(make_spec(sampler=sampler, start_with=START, seed=1), None))
    assert [p.params for p in other] != [p.params for p in first]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("done", [1, 9])
def test_rebuild__resumed_sweep_equals_the_unbroken_one(sampler: str, done: int, tmp_path: Path) -> None:
    spec = make_spec(sampler=sampler, start_with=START)
    unbroken = Proposer(spec, None)
    expected = sweep(unbroken)
    ledger = new_ledger()
    sweep(Proposer(spec, tmp_path / STUDY_FILE), ledger, most=done)
    resumed = Proposer(spec, tmp_path / STUDY_FILE)
    assert resumed.rebuild(ledger.state()) == []
    assert resumed.proposed == done
    assert sweep(resumed) == expected[done:]
    assert content(resumed) == content(unbroken)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_rebuild__lost_study_is_restored_from_the_ledger(sampler: str) -> None:
    """With the study lost a sweep goes on, and nothing is proposed twice."""
    spec = make_spec(FINITE, sampler=sampler, start_with=START)
    ledger = new_ledger()
    before = sweep(Proposer(spec, None), ledger, most=7)
    resumed = Proposer(spec, None)
    resumed.rebuild(ledger.state())
    after = sweep(resumed)
    assert [p.number for p in after] == list(range(7, 16))
    assert len({str(p.params) for p in before + after}) == 16


@pytest.mark.parametrize(
    "left",
    [
        b"",
        b'{"op_code": 0, "worker_',
        b"\x00\xffnothing\n{}\n",
        b"{}\n",
        b"[]\n",
        b'{"op_code": 99}\n{"a": 1}\n',
    ],
)
def test_rebuild__replaces_a_damaged_study(
    left: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_waiting(seconds: float) -> None:
        raise AssertionError("waits for a lock without a holder")

    monkeypatch.setattr("optuna.storages.journal._file.time.sleep", no_waiting)
    spec, path, ledger = make_spec(sampler="random"), tmp_path / STUDY_FILE, new_ledger()
    expected = sweep(Proposer(spec, None))
    sweep(Proposer(spec, None), ledger, most=7)
    path.write_bytes(left)
    (tmp_path / (STUDY_FILE + ".lock")).symlink_to(
        path
    )  # what a killed driver leaves; Optuna would wait 30 s
    resumed = Proposer(spec, path)
    resumed.rebuild(ledger.state())
    assert sweep(resumed) == expected[7:]
    assert sorted(file.name for file in tmp_path.iterdir()) == [STUDY_FILE]


def test_rebuild__torn_journal_keeps_the_qmc_position(tmp_path: Path) -> None:
    """A killed driver leaves half a line; the place in the QMC sequence before it is still found."""
    spec = make_spec(sampler="qmc")
    expected = sweep(Proposer(spec, None))
    ledger, path = new_ledger(), tmp_path / STUDY_FILE
    sweep(Proposer(spec, path), ledger, most=6)
    with path.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    resumed = Proposer(spec, path)
    resumed.rebuild(ledger.state())
    assert sweep(resumed) == expected[6:]


def test_rebuild__interrupted_trials_come_first(tmp_path: Path) -> None:
    spec = make_spec(concurrent=2)
    ledger, path = new_ledger(), tmp_path / STUDY_FILE
    proposer = Proposer(spec, path)
    sweep(proposer, ledger, most=5)
    killed, stopped = proposer.ask(), proposer.ask()
    assert killed is not None
    assert stopped is not None
    for proposal in (killed, stopped):
        propose(ledger, proposal)
        proposer.report(proposal.trial_id, 100, 7.0)
        evaluate(ledger, proposal.trial_id, 0.1, 7.0)
    proposer.close()
    ledger.end(stopped.trial_id, "interrupted", None, reason="Ctrl-C")  # the other one had no time to say so
    assert not any(t.state == TrialState.RUNNING for t in proposer.study.trials)

    resumed = Proposer(spec, path)
    waiting = resumed.rebuild(ledger.state())
    assert [(p.trial_id, p.params, p.resumed) for p in waiting] == [
        (p.trial_id, p.params, True) for p in (killed, stopped)
    ]
    assert [resumed.ask(), resumed.ask()] == waiting
    fresh = resumed.ask()
    assert fresh is not None
    assert (fresh.trial_id, fresh.resumed) == ("t007", False)
    resumed.report("t005", 100, 8.0)  # trained again from the start: the first value stays
    resumed.tell("t005", "completed", 3.0)
    trial = resumed.study.trials[killed.study_number]
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.COMPLETE, 3.0, {100: 7.0})
    # and interrupted once more: t006 has a second start in the ledger and no end
    propose(ledger, waiting[0])
    ledger.end("t005", "completed", 3.0, reason=None)
    again = Proposer(spec, path).rebuild(ledger.state())
    assert [p.trial_id for p in again] == ["t006"]


def test_rebuild__paused_trials_stay_paused() -> None:
    spec = make_spec(trials=3)
    proposer, ledger = Proposer(spec, None), new_ledger()
    for number in range(3):
        proposal = proposer.ask()
        assert proposal is not None
        propose(ledger, proposal)
        evaluate(ledger, proposal.trial_id, 0.1, 5.0 + number)
        ledger.decision(proposal.trial_id, "pause" if number < 2 else "continue")
    again = Proposer(spec, None)
    assert [p.trial_id for p in again.rebuild(ledger.state())] == ["t002"]
    assert list(again.paused) == ["t000", "t001"]
    back = again.bring_back("t001")
    assert (back.resumed, back.params) == (True, again.study.trials[1].user_attrs["params"])
    propose(ledger, back)  # its `start` row: it is under way
    third = Proposer(spec, None)
    assert [p.trial_id for p in third.rebuild(ledger.state())] == ["t001", "t002"]
    assert list(third.paused) == ["t000"]
    third.tell("t000", "stopped")
    assert third.study.trials[0].state == TrialState.PRUNED


def test_rebuild__more_trials_extend_a_finished_sweep(tmp_path: Path) -> None:
    ledger = new_ledger()
    proposer = Proposer(make_spec(trials=4), tmp_path / STUDY_FILE)
    sweep(proposer, ledger)
    assert proposer.ask() is None
    longer = Proposer(make_spec(trials=6), tmp_path / STUDY_FILE)
    longer.rebuild(ledger.state())
    assert [p.trial_id for p in sweep(longer)] == ["t004", "t005"]


def test_rebuild__trials_outside_the_space_are_counted_not_learned(tmp_path: Path) -> None:
    ledger = new_ledger()
    before = sweep(Proposer(make_spec(trials=8), None), ledger)
    narrow = {**SPACE, "batch_size": {"choice": [8, 16]}}
    proposer = Proposer(make_spec(narrow), tmp_path / STUDY_FILE)
    proposer.rebuild(ledger.state())
    for p in before:
        trial = proposer.study.trials[p.study_number]
        assert (trial.state == TrialState.FAIL) == (p.params["batch_size"] == 32)
    after = sweep(proposer)
    assert [p.number for p in after] == list(range(8, 16))
    assert all(p.params["batch_size"] != 32 for p in after)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_ask__small_space_is_exhausted_without_repeats(sampler: str) -> None:
    space = {"batch_size": {"choice": [8, 16]}, "warmup": {"choice": [0.0, 0.03, 0.1]}}
    proposer = Proposer(make_spec(space, sampler=sampler, start_with=[{"warmup": 0.1}]), None)
    proposals = sweep(proposer)
    assert len({str(p.params) for p in proposals}) == len(proposals) == 6
    assert proposer.ask() is None
    for trial in proposer.study.trials:
        if "duplicate_of" in trial.user_attrs:
            assert trial.state == TrialState.FAIL
            assert trial.params == next(
                t.params
                for t in proposer.study.trials
                if t.user_attrs.get("trial_id") == trial.user_attrs["duplicate_of"]
            )


def test_ask__grid_is_complete_and_in_seeded_order() -> None:
    def run(seed: int) -> list[dict[str, Any]]:
        spec = make_spec(FINITE, sampler="grid", trials=None, seed=seed, start_with=START)
        return [p.params for p in sweep(Proposer(spec, None))]

    first, other = run(0), run(1)
    assert len(first) == 81
    assert first[0] == START[0]
    assert sorted(map(str, first)) == sorted(map(str, other))
    assert first[2:] != other[2:]


@pytest.mark.parametrize(
    ("start_with", "expected"),
    [
        ([{"batch_size": 8}, {"batch_size": 8}], ["start_with", "sampler"]),
        ([START[0], dict(START[0])], ["start_with", "sampler"]),
        ([START[0], {**START[0], "learning_rate": 0.002}], ["start_with", "start_with"]),
        ([{}], ["sampler", "sampler"]),
    ],
)
def test_ask__repeated_start_with_is_tried_once(
    start_with: list[dict[str, Any]], expected: list[str]
) -> None:
    proposals = sweep(Proposer(make_spec(start_with=start_with, trials=2), None))
    assert [p.origin for p in proposals] == expected


@pytest.mark.parametrize(
    ("status", "value", "values", "state", "noted"),
    [
        ("completed", 1.5, {100: 2.0}, TrialState.COMPLETE, "completed"),
        ("completed", 1.5, {}, TrialState.COMPLETE, "completed"),
        ("completed", math.nan, {100: 2.0}, TrialState.PRUNED, "diverged"),
        ("completed", math.inf, {}, TrialState.FAIL, "diverged"),
        ("completed", None, {100: 2.0}, TrialState.PRUNED, "diverged"),
        ("stopped", None, {100: 2.0, 250: 1.0}, TrialState.PRUNED, "stopped"),
        ("stopped", 1.0, {100: 2.0}, TrialState.PRUNED, "stopped"),  # a partial value is no final one
        ("stopped", None, {}, TrialState.PRUNED, "stopped"),
        ("stopped", None, {100: math.nan, 250: 1.0}, TrialState.PRUNED, "stopped"),
        ("diverged", None, {100: 2.0}, TrialState.PRUNED, "diverged"),
        ("diverged", None, {100: math.nan}, TrialState.FAIL, "diverged"),
        ("failed", None, {100: 2.0}, TrialState.FAIL, "failed"),
        ("interrupted", None, {100: 2.0}, TrialState.FAIL, "interrupted"),
    ],
)
def test_tell__every_ending_is_in_the_study_and_in_a_rebuilt_one(
    status: str, value: float | None, values: dict[int, float], state: TrialState, noted: str
) -> None:
    """The study holds what the driver said; rebuilt from the ledger, it holds the same."""
    spec, ledger = make_spec(), new_ledger()
    proposer = Proposer(spec, None)
    proposal = proposer.ask()
    assert proposal is not None
    propose(ledger, proposal)
    for step, at in values.items():
        proposer.report("t000", step, at)
        evaluate(ledger, "t000", step / BUDGET, at)
    proposer.tell("t000", status, value, "because")
    ledger.end("t000", status, value, reason="because")
    (trial,) = proposer.study.trials
    finite = {step: at for step, at in values.items() if math.isfinite(at)}
    assert (trial.state, trial.intermediate_values) == (state, finite)
    assert trial.user_attrs["status"] == noted
    assert trial.user_attrs["reason"] == "because"
    if state == TrialState.COMPLETE:
        assert trial.value == value
    elif state == TrialState.FAIL:
        assert trial.values is None
    if status != "interrupted":
        rebuilt = Proposer(spec, None)
        rebuilt.rebuild(ledger.state())
        assert content(rebuilt) == content(proposer)
    proposer.tell("t000", "completed", 0.0)  # too late
    proposer.report("t000", 999, 0.0)
    assert proposer.study.trials[0].intermediate_values == finite
    assert proposer.study.trials[0].state == state


def test_tell__refuses_unknown_trial_or_status() -> None:
    proposer = Proposer(make_spec(), None)
    with pytest.raises(KeyError, match="t000 was not proposed here; 0 trials were"):
        proposer.tell("t000", "completed", 1.0)
    proposer.ask()
    with pytest.raises(ValueError, match="'won' is none of completed, stopped"):
        proposer.tell("t000", "won", 1.0)
    proposer.tell("t000", "failed")


@settings(deadline=None, max_examples=25)
@given(
    order=st.permutations(range(5)), seed=st.integers(0, 99), sampler=st.sampled_from(["tpe", "qmc", "cmaes"])
)
def test_tell__order_of_endings_changes_nothing(order: list[int], seed: int, sampler: str) -> None:
    """Five at a time: whichever ends first, the study and the next proposals are the same."""

    def run(order: list[int]) -> tuple[Any, ...]:
        proposer = Proposer(make_spec(sampler=sampler, seed=seed, concurrent=5), None)
        sweep(proposer, most=6)
        asked = [proposer.ask() for _ in range(5)]
        for i in order:
            train(proposer, asked[i])  # type: ignore[arg-type]
        more = [proposer.ask() for _ in range(3)]
        proposer.close()
        return asked, more, content(proposer)

    assert run(order) == run([0, 1, 2, 3, 4])


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_proposer__any_interleaving_leaves_nothing_running(data: st.DataObject) -> None:
    proposer = Proposer(make_spec(FINITE, concurrent=3, trials=12), None)
    live: list[Proposal] = []
    done = False
    while not (done and not live):
        if not done and len(live) < 3 and (not live or data.draw(st.booleans())):
            proposal = proposer.ask()
            done = proposal is None
            live += [proposal] if proposal is not None else []
        elif live:
            proposal = live.pop(data.draw(st.integers(0, len(live) - 1)))
            train(proposer, proposal, rungs=data.draw(st.integers(0, 3)))
    trials = proposer.study.trials
    assert all(t.state.is_finished() for t in trials)
    assert len({str(t.user_attrs["params"]) for t in trials if "params" in t.user_attrs}) == 12


def test_tpe__parallel_trials_spread() -> None:
    """With eight at a time, TPE does not pile onto one place."""
    proposer = Proposer(make_spec(concurrent=8, trials=40), None)
    sweep(proposer, most=20)
    batch = [proposer.ask() for _ in range(8)]
    rates = {round(math.log10(p.params["learning_rate"]), 1) for p in batch if p is not None}
    assert len(rates) >= 4


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes", "random", "qmc"])
def test_samplers__only_tpe_learns_from_stopped_trials(sampler: str) -> None:
    """As docs/reference/spec.md says: TPE takes them for poor places; to the others they are as if they had failed."""

    def run(status: str) -> list[Any]:
        proposer = Proposer(make_spec(sampler=sampler, trials=40), None)
        for i in range(14):
            proposal = proposer.ask()
            assert proposal is not None
            if i % 2:
                proposer.report(proposal.trial_id, 500, loss(proposal.params, 0.5))
                proposer.tell(proposal.trial_id, status)
            else:
                proposer.tell(proposal.trial_id, "completed", loss(proposal.params))
        return sweep(proposer, most=4)

    assert (run("stopped") != run("failed")) == (sampler == "tpe")


def test_tpe__later_proposals_are_better() -> None:
    """After 40 trials the last ten lie nearer the best place than the first ten did, in each of five seeds."""
    for seed in range(5):
        proposals = sweep(Proposer(make_spec(trials=40, seed=seed), None))
        losses = [loss(p.params) for p in proposals]
        assert sum(losses[-10:]) < 0.9 * sum(losses[:10]), seed


@pytest.mark.parametrize("on_disk", [True, False])
def test_proposer__pickled_copy_continues(on_disk: bool, tmp_path: Path) -> None:
    spec = make_spec(start_with=START)
    proposer = Proposer(spec, tmp_path / STUDY_FILE if on_disk else None)
    sweep(proposer, most=3)
    running = proposer.ask()
    assert running is not None
    copy = pickle.loads(pickle.dumps(proposer))
    assert isinstance(copy, Proposer)
    if on_disk:
        assert copy.proposed == 4
        copy.tell(running.trial_id, "completed", 1.0)
        assert content(copy)[running.number][1] == TrialState.COMPLETE
    else:
        assert copy.proposed == 0  # a study in memory is not carried along


def test_proposer__study_trials_without_a_name_fail(tmp_path: Path) -> None:
    proposer = Proposer(make_spec(), tmp_path / STUDY_FILE)
    proposer.study.ask()
    proposer.study.enqueue_trial({})
    again = Proposer(make_spec(), tmp_path / STUDY_FILE)
    proposal, expected = again.ask(), Proposer(make_spec(), None).ask()
    assert proposal is not None
    assert expected is not None
    assert (proposal.trial_id, proposal.params) == ("t000", expected.params)
    assert [t.state for t in again.study.trials][:2] == [TrialState.FAIL] * 2


def test_proposer__trial_ids_stay_in_order_past_999() -> None:
    spec = make_spec(sampler="random", trials=1002)
    proposals = list(iter(Proposer(spec, None).ask, None))
    assert [p.trial_id for p in proposals[-3:]] == ["t999", "t1000", "t1001"]


def test_search__imports_neither_ray_nor_torch() -> None:
    code = (
        "import sys, sweepft.search; "
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'torch', 'ray', 'deepspeed', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rebuild__interleaved_rows_of_trials_change_nothing() -> None:
    """Rows of parallel trials interleave in a ledger; only each trial's own order counts."""
    spec, ledger = make_spec(concurrent=4), new_ledger()
    proposer = Proposer(spec, None)
    sweep(proposer, ledger, most=6)
    plain, mixed = Proposer(spec, None), Proposer(spec, None)
    plain.rebuild(ledger.state())
    by_trial: dict[str, list[dict[str, Any]]] = {}
    for row in ledger.rows[1:]:
        by_trial.setdefault(row["trial_id"], []).append(row)
    rng, queues = random.Random(0), list(by_trial.values())
    rows = ledger.rows[:1]
    while queues := [queue for queue in queues if queue]:
        rows.append(rng.choice(queues).pop(0))
    mixed.rebuild(SweepState.from_rows(rows))
    assert content(mixed) == content(plain) == content(proposer)


def test_proposer__maximizes_where_the_spec_does(tmp_path: Path) -> None:
    """The sampler is drawn to high scores, and a rebuilt study keeps its direction."""
    task = {"task": "maths", "metric": "acc"}
    asked = make_spec(trials=40, sampler="tpe").model_copy(
        update={"objective": Objective(maximize=TaskMetric(**task))}
    )
    proposer = Proposer(asked, tmp_path / STUDY_FILE)
    rates = []
    while (proposal := proposer.ask()) is not None:
        rates.append(math.log10(proposal.params["learning_rate"]))
        proposer.report(proposal.trial_id, BUDGET, rates[-1])
        proposer.tell(proposal.trial_id, "completed", rates[-1])
    assert proposer.study.direction.name == "MAXIMIZE"
    early, late = sum(rates[:10]) / 10, sum(rates[-10:]) / 10
    assert late > early + 0.2
    assert proposer.study.best_value == max(rates)
    proposer.rebuild(LedgerBuilder(spec=asked.to_dict()).state())
    assert proposer.study.direction.name == "MAXIMIZE"
