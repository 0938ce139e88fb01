"""Commands that cannot be carried out are refused with rule, value and remedy."""

from __future__ import annotations

import re

import pytest

from support.specs import spec_dict
from sweepft.driver.commands import command_problem
from sweepft.ledger import Command, SweepState
from sweepft.spec import from_dict

SPEC = spec_dict(
    {"train.budget.samples": 96, "train.micro_batch": 4},
    search={
        "trials": 6,
        "space": {"batch_size": {"choice": [8, 16]}, "learning_rate": {"log_uniform": [1.0e-5, 3.0e-2]}},
    },
)


@pytest.fixture
def view() -> SweepState:
    rows: list[dict] = [{"kind": "sweep", "time": 1.0, "spec": SPEC, "budget_samples": 96, "name": "s"}]
    for n, status in enumerate(["completed", None, "stopped"]):
        name = f"t{n:03d}"
        params = {"batch_size": 8, "learning_rate": 1e-3 * (n + 1)}
        rows.append({"kind": "trial", "time": 2.0, "trial_id": name, "number": n, "params": params})
        if status:
            rows.append(
                {
                    "kind": "end", "time": 3.0, "trial_id": name, "status": status,
                    "objective": 1.0 if status == "completed" else None,
                }
            )  # fmt: skip
    return SweepState.from_rows(rows)


def command(text: str, **arguments) -> Command:
    name, _, trial = text.partition(" ")
    return Command.new(name, trial or None, arguments)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (command("stop t009"), "there is no such trial"),
        (command("pin ../../x"), "there is no such trial"),
        (command("stop t000"), r"has already ended \(completed\)\n  still open: t001"),
        (command("pin t002"), r"has already ended \(stopped\)"),
        (command("pin"), "must name a trial"),
        (command("clone t001"), "must change something"),
        (
            command("clone t001", params={"schedule": "cosine"}),
            "schedule is not swept .*\n.*batch_size, learning",
        ),
        (
            command("clone t001", params={"learning_rate": 1.0}),
            r"must lie in search.space.learning_rate: log_uniform \[1e-05, 0.03\] \(got 1.0\)",
        ),
        (command("clone t001", params={"learning_rate": "nan"}), r"must lie in .*\(got 'nan'\)"),
        (command("clone t001", params={"batch_size": 12}), r"choice \[8, 16\] \(got 12\)"),
        (command("clone t001", params={"learning_rate": 1e-3}), r"tried already: t000 \(completed\)"),
        (command("extend", trials=6), r"more than the 6 that are planned \(got 6\)"),
        (command("extend", trials="7"), "more than the 6"),
        (command("extend"), "more than the 6"),
        (command("continue"), "the sweep is not paused"),
    ],
)
def test_command_problem__refuses_with_remedy(view: SweepState, given: Command, words: str) -> None:
    problem = command_problem(given, view, from_dict(SPEC))
    assert problem is not None
    assert problem.remedy
    assert re.search(words, str(problem)), str(problem)


@pytest.mark.parametrize(
    "given",
    [
        command("stop t001"),
        command("stop"),
        command("pin t001"),
        command("clone t000", params={"learning_rate": 2e-5}),
        command("clone t002", params={"batch_size": 16}),
        command("extend", trials=7),
        command("pause"),
    ],
)
def test_command_problem__accepts(view: SweepState, given: Command) -> None:
    assert command_problem(given, view, from_dict(SPEC)) is None


def test_command_problem__refuses_new_trials_when_closed(view: SweepState) -> None:
    for given in (
        command("clone t001", params={"batch_size": 16}),
        command("extend", trials=9),
        command("pause"),
    ):
        problem = command_problem(given, view, from_dict(SPEC), closed="interrupted by user")
        assert "no more trials are started: interrupted by user" in str(problem)
    assert command_problem(command("stop t001"), view, from_dict(SPEC), closed="interrupted by user") is None


def test_sweep_state__paused_by_last_command_of_the_session(view: SweepState) -> None:
    def write(name: str, time: float, accepted: bool = True) -> None:
        view.apply({"kind": "command", "command": name, "time": time, "accepted": accepted, "arguments": {}})

    assert not view.paused
    write("pause", 4.0, accepted=False)
    assert not view.paused
    write("pause", 5.0)
    assert view.paused
    assert command_problem(command("continue"), view, from_dict(SPEC)) is None
    assert "already paused" in str(command_problem(command("pause"), view, from_dict(SPEC)))
    view.apply({"kind": "sweep", "time": 6.0, "spec": SPEC, "budget_samples": 96, "resumed": True})
    assert not view.paused, "a resumed sweep runs"


def test_sweep_state__plans_extensions_and_clones(view: SweepState) -> None:
    for name, arguments in (("extend", {"trials": 9}), ("clone", {"params": {}}), ("extend", {"trials": 8})):
        row = {"kind": "command", "command": name, "time": 5.0, "accepted": True, "arguments": arguments}
        view.apply(row)
    assert view.planned_trials == 10
    assert "more than the 9" in str(command_problem(command("extend", trials=9), view, from_dict(SPEC)))


def test_command_problem__refuses_queued_clone(view: SweepState) -> None:
    params = {"batch_size": 16, "learning_rate": 1e-3}
    row = {
        "kind": "command",
        "command": "clone",
        "time": 5.0,
        "accepted": True,
        "arguments": {"params": params},
    }
    view.apply(row)
    problem = command_problem(command("clone t000", params={"batch_size": 16}), view, from_dict(SPEC))
    assert "already queued" in str(problem)
