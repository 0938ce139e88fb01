"""Commands as the driver handles them: answered once, carried out, and still in force after a crash. No trial runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray.tune.schedulers import TrialScheduler

from support.search_material import BUDGET, make_spec
from sweepft.driver.build import build_scheduler
from sweepft.driver.commands import CommandHandler
from sweepft.driver.control import SweepControl
from sweepft.early_stopping import PriorSweeps
from sweepft.ledger import Command, EventLog, Ledger, SweepState, read_ledger, send_command
from sweepft.search import STUDY_FILE, Proposer
from sweepft.slot.checkpoints import pause_requested
from sweepft.slot.jobs import TrialJob, job_of, to_tune_config

CONFIG = {"batch_size": 16, "learning_rate": 1e-3, "warmup": 0.0, "schedule": "cosine"}


class Driver:
    """A driver without Tune: ledger, search, scheduler and command handler, as `run_sweep` wires them."""

    def __init__(self, run: Path, *, resumed: bool = False) -> None:
        self.run, self.spec = run, make_spec(trials=2)
        header = {
            "name": "s", "spec": self.spec.to_dict(), "spec_digest": "d", "seed": 0,
            "budget_samples": BUDGET, "sweepft_version": "0",
        }  # fmt: skip
        self.ledger = Ledger.open(run) if resumed else Ledger.create(run)
        view = SweepState.from_rows(read_ledger(run)) if resumed else SweepState()
        self.event_log = EventLog(self.ledger, view)
        self.event_log.write("sweep", **header, resumed=resumed)
        self.proposer = Proposer(self.spec, run / STUDY_FILE)
        self.limit: str | None = None
        self.control = SweepControl(lambda: self.limit)
        self.scheduler = build_scheduler(self.spec, BUDGET, PriorSweeps(), control=self.control)
        if resumed:
            self.proposer.rebuild(view)
            self.scheduler.restore_ledger(view)
        self.commands = CommandHandler(self.spec, run, self.event_log, self.control)
        self.control.begin_session()
        self.commands.begin_session(self.scheduler, self.proposer)

    def start(self) -> SimpleNamespace:
        """The next trial begins; Tune's trial, as far as a scheduler looks at it."""
        proposal = self.proposer.ask()
        assert proposal is not None
        if proposal.trial_id not in self.event_log.state.trials:
            self.event_log.write(
                "trial", trial_id=proposal.trial_id, number=proposal.number, params=proposal.params,
                train_config={}, origin=proposal.origin, planned_steps=10, warmup_steps=0,
                study_number=proposal.study_number,
            )  # fmt: skip
        job = TrialJob(
            proposal.trial_id, proposal.number, proposal.params, self.spec.train_config(proposal.params, 64)
        )
        trial = SimpleNamespace(trial_id=f"ray{proposal.number}", config=to_tune_config(job))
        self.scheduler.on_trial_add(None, trial)
        return trial

    def give(self, command: str, trial_id: str | None = None, **arguments: Any) -> dict[str, Any]:
        """Someone gives a command, the driver looks, and this is its answer."""
        send_command(self.run, Command.new(command, trial_id, arguments))
        self.commands.poll()
        return self.event_log.state.commands[-1]

    def report(self, trial: SimpleNamespace, samples: int, **more: Any) -> str:
        result = {"samples_seen": samples, "step": samples // 10, "loss": 1.0, "grad_norm": 1.0, **more}
        return self.scheduler.on_trial_result(None, trial, result)

    def crash(self) -> Driver:
        """The driver dies, and another one goes on."""
        self.ledger.close()
        return Driver(self.run, resumed=True)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path / "run")


def test_command_handler__answers_each_command_once(driver: Driver) -> None:
    driver.start()
    assert driver.give("pin", "t000")["accepted"]
    driver.commands.poll()
    assert len(driver.event_log.state.commands) == 1
    again = driver.crash()
    again.commands.poll()
    assert len(again.event_log.state.commands) == 1


def test_command_handler__stop_trial_at_next_report(driver: Driver) -> None:
    trial, other = driver.start(), driver.start()
    assert driver.report(trial, 50) == TrialScheduler.CONTINUE
    row = driver.give("stop", "t000")
    assert row["answer"] == "stops at its next report point"
    assert driver.report(other, 50) == TrialScheduler.CONTINUE
    assert driver.report(trial, 100) == TrialScheduler.STOP
    (decision,) = [v for v in driver.scheduler.drain_decisions() if v.rule == "user"]
    assert (decision.trial_id, decision.action, decision.reason) == (
        "t000",
        "stop",
        f"stopped by {row['who']}",
    )


def test_command_handler__open_stop_survives_crash(driver: Driver) -> None:
    driver.start()
    driver.give("stop", "t000")
    again = driver.crash()
    trial = again.start()
    assert job_of(trial.config).name == "t000"
    assert again.report(trial, 50) == TrialScheduler.STOP


def test_command_handler__clone_and_extension_survive_crash(driver: Driver) -> None:
    driver.start()
    params = {key: CONFIG[key] for key in ("learning_rate", "batch_size")}
    assert driver.give("clone", "t000", params=params)["accepted"]
    assert driver.give("extend", trials=3)["accepted"]
    again = driver.crash()
    names = [job_of(again.start().config).name for _ in range(4)]
    assert names == ["t000", "t001", "t002", "t003"]
    clone = again.event_log.state.trials["t001"]
    assert clone.origin == "clone"
    assert clone.params.items() >= params.items()
    assert again.proposer.ask() is None
    assert again.event_log.state.planned_trials == 4


def test_command_handler__refuses_clone_of_waiting_proposal(driver: Driver) -> None:
    driver.start()
    waiting = driver.proposer.ask()  # proposed, but its trial has not started: the ledger does not know it
    assert waiting is not None
    row = driver.give("clone", "t000", params=waiting.params)
    assert not row["accepted"]
    assert row["answer"].startswith("tried already: t001")


def test_command_handler__pin_survives_crash(driver: Driver) -> None:
    driver.start()
    row = driver.give("pin", "t000")
    assert driver.scheduler.state_dict()["pinned"] == {"t000": row["who"]}
    assert driver.crash().scheduler.state_dict()["pinned"] == {"t000": row["who"]}


def test_command_handler__pin_and_stop_of_paused_trials(driver: Driver) -> None:
    for trial_id in ("t000", "t001"):
        driver.start()
        proposal = SimpleNamespace(trial_id=trial_id)
        driver.event_log.write(
            "decision",
            trial_id=trial_id,
            step=1,
            samples_seen=10,
            rung=0.1,
            action="pause",
            rule="r",
            reason="x",
        )
        driver.proposer.paused[proposal.trial_id] = proposal  # type: ignore[assignment]
    assert driver.give("pin", "t000")["answer"] == "queued next; exempt from early stopping"
    assert driver.proposer.waiting == 1
    assert driver.give("stop", "t001")["answer"] == "stopped"
    ended = driver.event_log.state.trials["t001"]
    assert (ended.status, ended.pauses) == ("stopped", 1)
    assert not driver.proposer.paused


def test_command_handler__pause_ends_ready_trials_until_continue(driver: Driver) -> None:
    ready, late = driver.start(), driver.start()
    checkpoints = driver.run / "checkpoints"
    assert driver.give("pause")["accepted"]
    assert pause_requested(checkpoints)
    assert driver.report(late, 50) == TrialScheduler.CONTINUE, "its state is not written yet"
    assert driver.report(ready, 50, paused=True) == TrialScheduler.STOP
    before = driver.scheduler.state_dict()
    driver.scheduler.on_trial_complete(None, ready, {"samples_seen": 50, "done": True})
    assert driver.scheduler.state_dict() == before, "it has not ended"
    assert driver.control.paused_in_session
    driver.commands.end_session()
    send_command(driver.run, Command.new("continue"))
    assert driver.commands.wait_while_paused()
    assert not pause_requested(checkpoints)


def test_command_handler__stop_while_paused(driver: Driver) -> None:
    driver.start()
    driver.give("pause")
    driver.commands.end_session()
    assert driver.give("stop", "t000")["answer"] == "stopped"
    assert driver.event_log.state.trials["t000"].status == "stopped"
    send_command(driver.run, Command.new("stop"))
    assert not driver.commands.wait_while_paused()
    assert driver.control.stopping
    assert driver.control.reason.startswith("stopped by ")


def test_command_handler__pause_does_not_survive_crash(driver: Driver) -> None:
    driver.start()
    driver.give("pause")
    again = driver.crash()
    assert not again.control.ending
    assert not pause_requested(again.run / "checkpoints")


def test_command_handler__refuses_when_search_is_over(driver: Driver) -> None:
    driver.start()
    driver.limit = "search.limit.hours: 2 hours are over"
    assert driver.give("extend", trials=9)["answer"].startswith(
        "no more trials are started: search.limit.hours"
    )
    send_command(driver.run, Command.new("extend", None, {"trials": 9}))
    driver.limit = None
    driver.commands.close()
    assert driver.event_log.state.commands[-1]["answer"].startswith(
        "no more trials are started: the sweep is over"
    )


def test_command_handler__pickles_empty(driver: Driver) -> None:
    assert cloudpickle.loads(cloudpickle.dumps(driver.commands)).__dict__ == {}
