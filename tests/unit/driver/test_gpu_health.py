"""GPUs on which no trial starts: given up when two trials have failed there, where another GPU has room."""

from __future__ import annotations

from typing import Any

from sweepft.driver.control import SweepControl
from sweepft.driver.fault_policy import FaultPolicy, SlotFailure
from sweepft.driver.node_health import NodeHealth
from sweepft.errors import EnvironmentFault
from sweepft.ledger import SweepState
from sweepft.slot.room import Gpu, Node
from sweepft.spec import Faults, Resources

ASIDE = "set aside until another trial has started"
ELSEWHERE = "waits for another slot"
ENDED = "sweep ended"


class Gpus:
    """The fault policy of a sweep on nodes of GPUs; slots of one rank on one GPU by default."""

    def __init__(self, *gpus: int, **resources: Any) -> None:
        self.nodes = {f"n{i}": Node(64, count, f"host{i} (10.0.0.{i})") for i, count in enumerate(gpus)}
        self.view, self.control = SweepState(), SweepControl()
        self.held: list[frozenset[Gpu]] = []
        self.health = NodeHealth(
            Resources(gpus_per_worker=1, **resources), lambda: self.nodes, self.held.append
        )
        self.policy = FaultPolicy(Faults(), self.view, self.control, {}, self.health)

    def add(self, name: str) -> None:
        if name not in self.view.trials:
            self.view.apply({"kind": "trial", "trial_id": name, "number": int(name[1:]), "params": {}})

    def fail(self, name: str, *gpus: str, certain: bool = False, control: bool = False) -> str:
        """A trial fails before its first report on GPUs such as ``n0/1``; the action."""
        self.add(name)
        where = tuple(Gpu(*gpu.split("/")) for gpu in gpus)
        nodes = tuple(dict.fromkeys(gpu.node for gpu in where))
        failure = SlotFailure(
            EnvironmentFault.__name__, "run: rank 0 raised RuntimeError: broken", False, certain, nodes, control, where
        )  # fmt: skip
        self.lost = self.policy.slot_lost(name, failure)
        return self.lost.action

    def work(self, name: str, *gpus: str) -> None:
        """A trial reports from these GPUs."""
        self.add(name)
        history = {"step": [1], "samples_seen": [8]}
        self.view.apply({"kind": "steps", "trial_id": name, "history": history, "time": 1.0})
        where = [Gpu(*gpu.split("/")) for gpu in gpus]
        self.health.reported([gpu.node for gpu in where], where)

    @property
    def given_up(self) -> set[str]:
        """As held by Ray's placeholders."""
        assert self.health.given_up == (self.held[-1] if self.held else frozenset())
        return {f"{gpu.node}/{gpu.id}" for gpu in self.health.given_up}

    def news(self) -> list[str]:
        return [f"{row['node']} {row.get('gpu')}: {row['action']}" for row in self.health.news()]


def test_gpu__one_sick_of_two_is_given_up_and_the_node_goes_on() -> None:
    sweep = Gpus(2)
    sweep.add("t000")
    assert sweep.fail("t001", "n0/1") == ASIDE
    assert (sweep.lost.node, sweep.lost.gpu) == ("host0 (10.0.0.0)", "1")
    sweep.work("t000", "n0/0")
    assert sweep.given_up == set(), "one trial may fail for its settings"
    assert sweep.fail("t002", "n0/1", certain=True, control=True) == ELSEWHERE
    assert sweep.given_up == {"n0/1"}
    (row,) = sweep.health.news()
    assert (row["error"], row["node"], row["gpu"]) == ("GpuFailed", "host0 (10.0.0.0)", "1")
    assert row["action"] == "GPU given up"
    assert (
        "host0 (10.0.0.0), GPU 1: t001, t002 and t000 failed there before the first report: run: rank 0"
        in row["message"]
    )
    assert "nvidia-smi" in row["message"]
    assert sweep.health.kept_out == set()
    assert sweep.health.slots_left() == 1
    assert not sweep.control.stopping


def test_gpu__of_one_slot_at_a_time_the_next_trial_runs_on_another_one() -> None:
    sweep = Gpus(2)
    assert [sweep.fail(name, "n0/0") for name in ("t000", "t001")] == [ASIDE, ASIDE]
    assert sweep.given_up == {"n0/0"}
    assert sweep.news() == [], "until a trial has worked, all GPUs may share the cause"
    sweep.work("t002", "n0/1")
    assert sweep.news() == ["host0 (10.0.0.0) 0: GPU given up"]


def test_gpu__a_lone_trial_tries_another_one() -> None:
    sweep = Gpus(2)
    assert sweep.fail("t000", "n0/0", certain=True) == ELSEWHERE
    assert sweep.given_up == {"n0/0"}, "a self-test failed, and no other trial needs the GPU meanwhile"
    sweep.work("t000", "n0/1")
    assert (sweep.given_up, sweep.news()) == (set(), []), "one failure of one trial"
    again = Gpus(2)
    assert [again.fail("t000", "n0/0") for _ in range(2)] == [ASIDE, ASIDE]
    assert again.given_up == {"n0/0"}


def test_gpu__without_another_one_the_sweep_ends_resumable() -> None:
    sweep = Gpus(2)
    sweep.work("t000", "n0/0")
    given = [sweep.fail(f"t{i:03d}", "n0/1", certain=True, control=True) for i in (1, 2)]
    assert given[0] == ELSEWHERE
    sweep.view.trials["t000"].status = "completed"
    assert sweep.fail("t003", "n0/0", certain=True, control=True) == ENDED
    assert sweep.control.gave_up
    assert sweep.control.resumable
    reason = str(sweep.control.reason)
    assert "host0 (10.0.0.0), GPU 0: t003 and t000 failed there" in reason
    assert "host0 (10.0.0.0), GPU 1: t001, t000 and t002 failed there" in reason
    assert "start Ray without them" in reason
    assert sweep.view.trials["t003"].open, "no trial has failed"


def test_gpu__both_of_two_are_tried_and_the_sweep_ends() -> None:
    """Two slots on two sick GPUs, whose trials change places: neither GPU is given up for the other one for ever."""
    sweep = Gpus(2)
    sweep.add("t000")
    sweep.add("t001")
    tried = [("t000", "n0/1"), ("t001", "n0/0"), ("t000", "n0/0"), ("t001", "n0/1")]
    given = [sweep.fail(name, gpu, certain=True) for name, gpu in tried]
    assert given == [ELSEWHERE, ELSEWHERE, ELSEWHERE, ENDED]
    assert sweep.control.resumable
    reason = str(sweep.control.reason)
    assert "GPU 0: t001 and t000 failed there" in reason
    assert "GPU 1: t000 and t001 failed there" in reason


def test_node__both_of_two_are_tried_and_the_sweep_ends() -> None:
    sweep = Gpus(1, 1)
    sweep.health._resources = Resources()
    tried = [("t000", "n0"), ("t001", "n1"), ("t000", "n1"), ("t001", "n0")]
    given = []
    sweep.add("t000")
    sweep.add("t001")
    for name, node in tried:
        failure = SlotFailure(EnvironmentFault.__name__, "broken", False, True, (node,))
        given.append(sweep.policy.slot_lost(name, failure).action)
    assert given == [ELSEWHERE, ELSEWHERE, ELSEWHERE, ENDED]


def test_gpu__that_is_avoided_for_one_trial_is_not_named() -> None:
    sweep = Gpus(2)
    sweep.work("t000", "n0/0")
    sweep.view.trials["t000"].status = "completed"
    assert sweep.fail("t001", "n0/1", certain=True) == ELSEWHERE
    assert (sweep.given_up, sweep.news()) == ({"n0/1"}, [])
    sweep.work("t001", "n0/0")
    assert (sweep.given_up, sweep.news()) == (set(), [])


def test_gpu__settings_that_fail_everywhere_end_the_sweep_as_before() -> None:
    sweep = Gpus(8)
    assert [sweep.fail(f"t{i:03d}", f"n0/{i}") for i in range(3)] == [ASIDE, ASIDE, ENDED]
    assert sweep.given_up == set()
    certain = Gpus(8)
    given = [certain.fail("t000", f"n0/{i}", certain=True) for i in range(3)]
    assert given == [ELSEWHERE, ELSEWHERE, ENDED], (
        "a package that is missing is tried on three GPUs, not on eight"
    )


def test_gpu__that_has_worked_since_is_not_given_up() -> None:
    sweep = Gpus(2)
    sweep.add("t009")
    sweep.fail("t000", "n0/1")
    sweep.work("t001", "n0/1")
    sweep.fail("t002", "n0/1", certain=True)
    assert sweep.given_up == set()


def test_gpu__trials_that_fail_for_their_settings_give_it_back() -> None:
    sweep = Gpus(2)
    sweep.add("t009")
    for name in ("t000", "t001"):
        sweep.fail(name, "n0/1")
    sweep.work("t009", "n0/0")
    assert sweep.news() == ["host0 (10.0.0.0) 1: GPU given up"]
    sweep.health.withdraw("t000")
    assert sweep.news() == ["host0 (10.0.0.0) 1: GPU used again"]
    assert sweep.given_up == set()
    assert sweep.health.slots_left() is None


def test_node__whose_gpus_all_fail_is_kept_out_not_each_gpu() -> None:
    sweep = Gpus(8, 8)
    sweep.work("t009", "n0/0")
    given = [sweep.fail(f"t{i:03d}", f"n1/{i}", certain=True) for i in range(2)]
    assert given == [ELSEWHERE] * 2
    assert (sweep.health.kept_out, sweep.given_up) == ({"n1"}, set())
    one = Gpus(8, 8)
    one.work("t009", "n0/0")
    for i in range(2):
        one.fail(f"t{i:03d}", "n1/5", certain=True)
    assert (one.health.kept_out, one.given_up) == (set(), {"n1/5"}), "seven GPUs of the node go on"


def test_gpu__of_a_slot_that_takes_a_whole_node_is_named() -> None:
    """The node has no room for a slot without it, so no slot is placed there."""
    sweep = Gpus(2, 2, workers_per_trial=2)
    sweep.work("t009", "n0/0", "n0/1")
    for i in range(2):
        sweep.fail(f"t{i:03d}", "n1/1", certain=True)
    assert (sweep.given_up, sweep.health.slots_left()) == ({"n1/1"}, 1)


def test_gpu__of_ranks_that_hang_together_the_common_one_is_given_up_first() -> None:
    sweep = Gpus(3, workers_per_trial=2)
    assert sweep.fail("t000", "n0/0", "n0/1", certain=True) == ELSEWHERE
    (first,) = sweep.given_up
    other = "n0/1" if first == "n0/0" else "n0/0"
    assert sweep.fail("t001", other, "n0/2", certain=True) == ELSEWHERE
    assert sweep.given_up == {other}


def test_node_health__rest_has_neither_sick_nodes_nor_gpus() -> None:
    sweep = Gpus(2, 2)
    sweep.work("t009", "n0/0")
    for i in range(2):
        sweep.fail(f"t{i:03d}", "n0/1", certain=True)
    assert [node.gpus for node in sweep.health.rest(sweep.nodes)] == [1.0, 2.0]


def test_gpu__of_a_slot_across_nodes_is_not_named_as_one() -> None:
    sweep = Gpus(2, 2, workers_per_trial=2, placement="any")
    sweep.fail("t000", "n0/1", "n1/0")
    assert (sweep.lost.node, sweep.lost.gpu) == ("host0 (10.0.0.0), host1 (10.0.0.1)", None)


def test_ledger_rows__name_the_gpu() -> None:
    view = SweepState()
    row = {"kind": "fault", "time": 1.0, "trial_id": None, "node": "host0", "gpu": "1", "error": "GpuFailed"}
    view.apply(row | {"action": "GPU given up", "message": "host0, GPU 1: t001 failed"})
    assert view.gpus_given_up == {("host0", "1"): "host0, GPU 1: t001 failed"}
    assert view.nodes_kept_out == {}
    view.apply(row | {"action": "GPU used again", "message": ""})
    assert view.gpus_given_up == {}
