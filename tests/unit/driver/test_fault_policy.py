"""What happens to a trial whose slot is lost: limits, back-off, errors of its own."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import cloudpickle
from ray.exceptions import ActorDiedError, RayTaskError

from support.ray_session import local_ray
from sweepft.driver.control import SweepControl
from sweepft.driver.fault_policy import RETRIED, FaultPolicy, read_slot_failure, restarts
from sweepft.driver.node_health import NodeHealth
from sweepft.errors import EnvironmentFault, SlotLost
from sweepft.ledger import SweepState
from sweepft.search.ray_searcher import Outcome
from sweepft.slot.room import Node
from sweepft.slot.state import RANKS_REBUILT
from sweepft.spec import Faults, Resources


def trial_with(error: Exception | None) -> Any:
    """A trial as Tune hands it on: the exception it failed with is in a file."""
    file = Path(tempfile.mkdtemp()) / "error.pkl"
    if error is not None:
        file.write_bytes(cloudpickle.dumps(error))
    return SimpleNamespace(pickled_error_file=str(file))


class Sweep:
    """A fault policy, and a sweep's state that holds its faults."""

    def __init__(self, **limits: Any) -> None:
        self.view = SweepState()
        self.control = SweepControl()
        self.outcomes: dict[str, Outcome] = {}
        self.nodes = {"n1": Node(1, 0, "one"), "n2": Node(1, 0, "two"), "n3": Node(1, 0, "three")}
        self.health = NodeHealth(Resources(), lambda: self.nodes)
        self.policy = FaultPolicy(Faults(**limits), self.view, self.control, self.outcomes, self.health)
        self.view.apply({"kind": "trial", "trial_id": "t000", "number": 0, "params": {}})

    def fault(self, action: str) -> None:
        self.view.apply({"kind": "fault", "trial_id": "t000", "action": action})

    def report(self, samples: int) -> None:
        history = {"step": [1], "samples_seen": [samples]}
        self.view.apply({"kind": "steps", "trial_id": "t000", "history": history})

    def lose(self, error: Exception | None = None) -> tuple[str, str]:
        """The slot of the trial is lost; status and action."""
        failure = read_slot_failure(trial_with(error or ActorDiedError()))
        lost = self.policy.slot_lost("t000", failure)
        assert self.policy.lost_slots.pop("t000") == lost
        assert self.outcomes["t000"].status == lost.status
        self.fault(lost.action)
        return lost.status, lost.action


def raised(message: str) -> RayTaskError:
    error = RayTaskError("step", message, OSError(message))
    error.cause = OSError(message)
    return error


def lost_slot() -> RayTaskError:
    error = raised("")
    error.cause = SlotLost("no node has room")
    return error


def test_fault_policy__retries_up_to_faults_per_trial() -> None:
    sweep = Sweep(per_trial=2)
    assert [sweep.lose() for _ in range(3)] == [
        ("lost", RETRIED),
        ("lost", RETRIED),
        ("failed", "given up"),
    ]


def test_fault_policy__counts_rebuilt_ranks_not_micro_batches() -> None:
    sweep = Sweep(per_trial=2)
    sweep.fault(RANKS_REBUILT)
    sweep.fault("micro_batch 4 -> 2")
    assert sweep.lose()[0] == "lost"
    assert sweep.lose()[0] == "failed"


def test_fault_policy__delay_doubles_from_second_loss() -> None:
    sweep = Sweep(per_trial=9)
    delays = []
    for _ in range(7):
        sweep.lose()
        delays.append(sweep.outcomes["t000"].delay)
    assert delays == [0, 5, 10, 20, 40, 60, 60]


def test_fault_policy__same_error_at_same_place_fails_trial() -> None:
    sweep = Sweep(per_trial=9)
    assert sweep.lose(raised("bad row"))[0] == "lost"
    assert sweep.lose(raised("another"))[0] == "lost"
    sweep.report(64)
    assert sweep.lose(raised("bad row"))[0] == "lost", "the same error elsewhere"
    assert sweep.lose(raised("bad row"))[0] == "failed"


def test_fault_policy__gives_up_sweep_after_faults_per_sweep() -> None:
    sweep = Sweep(per_trial=9, per_sweep=1)
    assert sweep.lose() == ("lost", RETRIED)
    assert sweep.lose() == ("interrupted", "sweep ended")
    assert sweep.control.immediate
    assert "faults.per_sweep: 2 slots were lost" in (sweep.control.reason or "")


def test_fault_policy__leaves_trial_for_resume_while_stopping() -> None:
    sweep = Sweep()
    sweep.control.request_stop("interrupted by user")
    assert sweep.lose() == ("interrupted", "left for a resume")


@pytest.mark.parametrize(
    ("error", "name", "words"),
    [
        (ActorDiedError(), "CoordinatorDied", "the coordinator of the slot died"),
        (None, "CoordinatorDied", "the coordinator of the slot died"),
        (lost_slot(), "SlotLost", "no node has room"),
        (raised("no such file"), "CoordinatorRaised", "the coordinator raised OSError: no such file"),
    ],
)
def test_read_slot_failure__names_the_cause(error: Exception | None, name: str, words: str) -> None:
    failure = read_slot_failure(trial_with(error))
    assert failure.error == name
    assert failure.message.startswith(words)
    assert len(failure.message) < 500


def unstarted(certain: bool, *nodes: str, control_failed: bool = False) -> RayTaskError:
    error = raised("")
    error.cause = EnvironmentFault("start: rank 0 raised RuntimeError: no", certain, nodes, control_failed)
    return error


class Unstarted(Sweep):
    """Trials that a slot could not start, beside others that train, have trained or are starting."""

    def __init__(self, other: str | None = None) -> None:
        super().__init__()
        if other is not None:
            self.add("t009")
        if other in ("trains", "has trained"):
            history = {"step": [1], "samples_seen": [8]}
            self.view.apply({"kind": "steps", "trial_id": "t009", "history": history, "time": 1.0})
        if other == "has trained":
            self.view.trials["t009"].status = "completed"

    def add(self, name: str) -> None:
        self.view.apply({"kind": "trial", "trial_id": name, "number": int(name[1:]), "params": {}})

    def lose_trial(
        self, name: str, certain: bool, *nodes: str, control_failed: bool = False
    ) -> tuple[str, str, bool]:
        if name not in self.view.trials:
            self.add(name)
        error = unstarted(certain, *nodes, control_failed=control_failed)
        lost = self.policy.slot_lost(name, read_slot_failure(trial_with(error)))
        return lost.status, lost.action, lost.last

    def work(self, name: str, *nodes: str) -> None:
        """A trial reports on these nodes."""
        if name not in self.view.trials:
            self.add(name)
        history = {"step": [1], "samples_seen": [8]}
        self.view.apply({"kind": "steps", "trial_id": name, "history": history, "time": 1.0})
        self.health.reported(nodes)

    def kept_out(self) -> list[str]:
        """What the ledger is given of nodes since the last call."""
        return [f"{row['node']}: {row['action']}" for row in self.health.news()]

    @property
    def gave_up(self) -> bool:
        assert self.control.gave_up == self.control.resumable
        return self.control.gave_up


ASIDE = ("lost", "set aside until another trial has started", True)
ELSEWHERE = ("lost", "waits for another slot", False)
ENDED = ("interrupted", "sweep ended", False)


def test_fault_policy__three_trials_without_a_first_step_end_the_sweep_resumable() -> None:
    sweep = Unstarted()
    assert [sweep.lose_trial(f"t{n:03d}", False) for n in range(3)] == [ASIDE, ASIDE, ENDED]
    assert sweep.gave_up


def test_fault_policy__the_only_trial_is_not_set_aside_twice() -> None:
    sweep = Unstarted()
    assert [sweep.lose_trial("t000", False) for _ in range(2)] == [ASIDE, ENDED]


def test_fault_policy__another_trial_that_has_trained_tells_the_cause() -> None:
    sweep = Unstarted("has trained")
    assert sweep.lose_trial("t000", False) == ELSEWHERE, (
        "its next job has the settings of t009 to compare with"
    )
    assert not sweep.gave_up


@pytest.mark.parametrize(
    ("other", "certain", "expected"),
    [
        ("trains", True, ELSEWHERE),
        ("starts", True, ELSEWHERE),
        ("has trained", True, ENDED),
        (None, True, ENDED),
        ("starts", False, ASIDE),
    ],
)
def test_fault_policy__a_slot_that_cannot_start_ends_the_sweep_unless_others_can(
    other: str | None, certain: bool, expected: tuple[str, str, bool]
) -> None:
    sweep = Unstarted(other)
    for _ in range(1 if expected == ENDED else 9):  # 9: more than faults.per_trial and per_sweep allow
        assert sweep.lose_trial("t000", certain) == expected
    assert sweep.gave_up == (expected == ENDED)


def test_fault_policy__two_slots_that_cannot_start_end_the_sweep() -> None:
    sweep = Unstarted("starts")
    assert sweep.lose_trial("t000", True) == ELSEWHERE
    assert sweep.lose_trial("t009", True) == ENDED


def test_node__two_trials_that_fail_before_their_first_report_keep_it_out() -> None:
    sweep = Unstarted()
    assert [sweep.lose_trial(name, False, "n3") for name in ("t000", "t001")] == [ASIDE, ASIDE]
    assert sweep.health.kept_out == {"n3"}
    assert sweep.kept_out() == [], "until a trial has worked, the cause may be one that all nodes share"
    sweep.work("t002", "n1", "n2")
    (row,) = sweep.health.news()
    assert (row["node"], row["action"]) == ("three", "node kept out")
    assert "t000 and t001 failed there before the first report: start: rank 0 raised" in row["message"]
    assert not sweep.gave_up
    assert sweep.kept_out() == []


def test_node__one_trial_beside_one_that_has_trained_before_is_enough() -> None:
    sweep = Unstarted("has trained")
    sweep.health.reported(["n1"])
    assert sweep.lose_trial("t000", True, "n3", control_failed=True) == ELSEWHERE
    assert sweep.kept_out() == ["three: node kept out"]


def test_node__the_same_trial_twice_is_not_two_trials() -> None:
    sweep = Unstarted("trains")
    sweep.health.reported(["n1"])
    assert [sweep.lose_trial("t000", True, "n3") for _ in range(2)] == [ELSEWHERE, (*ELSEWHERE[:2], True)]
    assert sweep.kept_out() == [], "another trial is to try the node next"
    sweep.lose_trial("t001", True, "n3")
    assert sweep.kept_out() == ["three: node kept out"]


def test_node__a_lone_trial_runs_elsewhere() -> None:
    sweep = Unstarted()
    assert [sweep.lose_trial("t000", False, "n3") for _ in range(2)] == [ASIDE, ASIDE]
    assert sweep.health.kept_out == {"n3"}
    sweep.work("t000", "n1")
    assert (sweep.health.kept_out, sweep.kept_out()) == (set(), []), "one failure of one trial"


@pytest.mark.parametrize("certain", [False, True])
def test_node__a_cause_that_all_nodes_share_keeps_none_out(certain: bool) -> None:
    sweep = Unstarted()
    given = [sweep.lose_trial(f"t{i:03d}", certain, f"n{i % 3 + 1}") for i in range(3)]
    assert given[-1] == ENDED
    assert sweep.gave_up
    assert sweep.kept_out() == []
    reason = str(sweep.control.reason)
    assert all(f"{name}: t" in reason for name in ("one", "two", "three")), reason
    assert sweep.view.trials["t000"].open, "no trial has failed"


def test_node__when_none_is_left_the_sweep_ends_resumable() -> None:
    sweep = Unstarted("has trained")
    sweep.health.reported(["n1"])
    given = [sweep.lose_trial("t000", True, node, control_failed=True) for node in ("n1", "n2", "n3")]
    assert given[0] == ELSEWHERE
    assert given[-1] == ENDED
    assert sweep.gave_up
    assert "three: t" in str(sweep.control.reason)
    again = Unstarted("has trained")
    assert again.health.kept_out == set(), "a resume begins with all nodes"


def test_node__trials_that_fail_for_their_settings_take_it_back() -> None:
    sweep = Unstarted("starts")
    for name in ("t000", "t001"):
        sweep.lose_trial(name, False, "n3")
    sweep.work("t009", "n1")
    assert sweep.kept_out() == ["three: node kept out"]
    sweep.health.withdraw("t000")
    assert sweep.kept_out() == ["three: node used again"]
    assert sweep.health.kept_out == set()


def test_node__the_one_that_took_part_in_every_failure_is_found() -> None:
    """Ranks of a slot across nodes hang together: which node is the cause shows when others work together."""
    sweep = Unstarted()
    sweep.health._resources = Resources(workers_per_trial=2, placement="any")
    assert [sweep.lose_trial(f"t{i:03d}", False, "n1", "n3") for i in range(2)] == [ASIDE, ASIDE]
    (first,) = sweep.health.kept_out
    other = "n1" if first == "n3" else "n3"
    assert sweep.lose_trial("t002", False, other, "n2") == ASIDE, "the other one may be the cause"
    assert sweep.health.kept_out == {other}
    sweep.work("t003", first, "n2")
    assert sweep.health.kept_out == {other}
    assert sweep.kept_out() == [f"{sweep.nodes[other].name}: node kept out"]


@pytest.mark.parametrize("sick", ["n1", "n2", "n3"])
def test_node__one_that_no_other_reaches_is_found(sick: str) -> None:
    """Ranks that cannot meet fail before a trial's settings matter, and each node may be the cause."""
    sweep = Unstarted()
    sweep.health._resources = Resources(workers_per_trial=2, placement="any")
    tried = []
    while True:
        pair = [node for node in sweep.nodes if node not in sweep.health.kept_out][:2]
        tried.append(pair)
        if sick not in pair:
            break
        assert len(tried) < 4
        assert sweep.lose_trial("t000", True, *pair)[:2] == ELSEWHERE[:2]
    sweep.work("t000", *pair)
    assert not sweep.gave_up
    assert (sweep.health.kept_out, sweep.kept_out()) == (set(), []), "one trial condemns no node"


def test_node__a_network_that_joins_no_nodes_ends_the_sweep() -> None:
    sweep = Unstarted()
    sweep.health._resources = Resources(workers_per_trial=2, placement="any")
    given = None
    for _ in range(4):
        pair = [node for node in sweep.nodes if node not in sweep.health.kept_out][:2]
        given = sweep.lose_trial("t000", True, *pair)
        if given == ENDED:
            break
    assert given == ENDED
    assert sweep.kept_out() == []


def test_fault_policy__full_disk_of_a_coordinator_is_no_fault_of_the_trial() -> None:
    sweep, error = Unstarted(), raised("")
    error.cause = OSError(errno.ENOSPC, "No space left on device", "/full/file")
    assert sweep.lose(error) == ("interrupted", "sweep ended")
    assert "/full/file" in str(sweep.control.reason)
    assert "Free space" in str(sweep.control.reason)


@pytest.mark.ray
def test_fault_policy__coordinator_that_lacks_a_package() -> None:
    @ray.remote
    class Coordinator:
        def __init__(self) -> None:
            raise ModuleNotFoundError("No module named 'sweepft'")

        def step(self) -> None:
            """Never reached."""

    sweep = Unstarted()
    with local_ray(), pytest.raises(ActorDiedError) as died:
        ray.get(Coordinator.options(num_cpus=0).remote().step.remote())
    assert sweep.lose(died.value) == ("interrupted", "sweep ended")
    assert "ModuleNotFoundError: No module named 'sweepft'" in str(sweep.control.reason)


def test_restarts__begin_again_with_a_retry() -> None:
    sweep = Sweep()
    sweep.fault(RANKS_REBUILT)
    sweep.view.apply({"kind": "end", "trial_id": "t000", "status": "failed", "reason": "no", "attempt": 1})
    sweep.view.apply({"kind": "command", "trial_id": "t000", "command": "retry", "accepted": True})
    assert sweep.view.trials["t000"].open
    assert restarts(sweep.view, "t000") == 0
    sweep.fault(RANKS_REBUILT)
    assert restarts(sweep.view, "t000") == 1
