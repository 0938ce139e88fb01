"""Which slots fit a cluster, and what the terminal says of one that waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ray import cloudpickle
from ray._private.label_utils import validate_label_selector
from ray.tune.experiment import Trial

from support.errors import raises
from support.specs import spec
from sweepft.driver import cluster_room, node_health
from sweepft.driver.cluster_room import PlacementWatch, check_nodes
from sweepft.driver.configs import placement
from sweepft.driver.control import SweepControl
from sweepft.driver.node_health import SlotPlacement
from sweepft.errors import ResourceError
from sweepft.slot.group import narrow_affinity
from sweepft.slot.room import Node, ranks_on, slots_on
from sweepft.spec import Resources

FOUR = {"workers_per_trial": 4}


def resources(ranks: int, cpus: float, gpus: float, slots: int = 1, where: str = "node") -> Resources:
    return Resources(
        workers_per_trial=ranks, cpus_per_worker=cpus, gpus_per_worker=gpus, concurrent_trials=slots, placement=where
    )  # fmt: skip


@pytest.mark.parametrize(
    ("nodes", "asked", "fit"),
    [
        ([Node(32, 8)], resources(8, 4, 1), 1),  # as in deploy/: the coordinator takes no CPU
        ([Node(64, 16)], resources(4, 4, 1, 4), 4),
        ([Node(31, 8)], resources(8, 4, 1), 0),
        ([Node(32, 8)] * 2, resources(16, 4, 1), 0),
        ([Node(32, 8)] * 2, resources(16, 4, 1, where="any"), 1),
        ([Node(32, 6)] * 2, resources(4, 4, 1), 2),
        ([Node(32, 6)] * 2, resources(4, 4, 1, where="any"), 3),
        ([Node(8, 0), Node(4, 0)], resources(2, 2, 0), 3),
        ([Node(64, 2)], resources(1, 1, 0.4), 4),  # no rank has a part of two GPUs
        ([], resources(1, 1, 0), 0),
    ],
)
def test_slots_on__by_cpus_gpus_and_nodes(nodes: list[Node], asked: Resources, fit: int) -> None:
    assert slots_on(nodes, asked) == fit


def test_ranks_on__fractions_of_cpus_and_gpus() -> None:
    assert ranks_on(Node(0.9, 0), resources(1, 0.3, 0)) == 3
    assert ranks_on(Node(10, 0.75), resources(1, 1, 0.25)) == 3


def test_placement__coordinator_takes_nothing() -> None:
    """A node of exactly the ranks' CPUs holds the slot: with a CPU share of the coordinator it never started."""
    found = placement(
        spec({"train.micro_batch": 1}, resources=FOUR | {"cpus_per_worker": 2, "gpus_per_worker": 1})
    )
    assert found.bundles == [{"CPU": 2.0, "GPU": 1.0}] * 4
    assert (found.head_cpus, found.required_resources["CPU"], found.strategy) == (0.0, 8.0, "STRICT_PACK")
    spanning = placement(spec({"train.micro_batch": 1}, resources=FOUR | {"placement": "any"}))
    assert spanning.strategy == "PACK"


def test_placement__keeps_away_from_nodes_that_are_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(node_health, "placement_group", lambda *given, **more: asked.append((given, more)))
    before = placement(spec({"train.micro_batch": 1}, resources=FOUR))
    copy = cloudpickle.loads(cloudpickle.dumps(before))  # as Tune does, for each trial
    monkeypatch.setattr(SlotPlacement, "kept_out", staticmethod(lambda: {"b" * 56, "a" * 56}))
    copy.to_placement_group()
    (((bundles, strategy), more),) = asked
    assert (bundles, strategy) == ([{"CPU": 1.0}] * 4, "STRICT_PACK")
    elsewhere = {"ray.io/node-id": f"!in({'a' * 56},{'b' * 56})"}
    assert more == {"bundle_label_selector": [elsewhere] * 4}
    assert validate_label_selector(elsewhere) is None
    assert (copy, hash(copy)) == (before, hash(before)), "living slots are used on"


@pytest.mark.parametrize(
    ("nodes", "asked", "key", "words"),
    [
        ([Node(32, 4)], resources(8, 4, 1), "resources.gpus_per_worker", "8 x 1 = 8 GPUs"),
        ([Node(16, 8)], resources(8, 4, 1), "resources.cpus_per_worker", "8 x 4 = 32 CPUs"),
        ([Node(32, 8, "a"), Node(32, 8)], resources(16, 4, 1), "resources.placement", "largest node (a) has 32 CPUs"),
        ([Node(2, 8), Node(64, 0)], resources(1, 4, 1), "resources.gpus_per_worker", "2 nodes: 66 CPUs and 8 GPUs"),
    ],
)  # fmt: skip
def test_check_nodes__refuses_what_never_fits(
    nodes: list[Node], asked: Resources, key: str, words: str
) -> None:
    with raises(ResourceError, key) as caught:
        check_nodes(nodes, asked)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "asked", "warned"),
    [
        ([Node(32, 8)], resources(8, 4, 1), []),
        ([Node(60, 16)], resources(4, 4, 1, 4), ["only 3 of 4", "4 of 16 GPUs of the cluster stay idle"]),
        ([Node(32, 8)] * 4, resources(8, 4, 1), ["24 of 32 GPUs of the cluster stay idle: set resources.concurrent_trials: 4"]),
        ([Node(64, 8)], resources(1, 4, 0), []),  # trials on CPUs leave all GPUs idle, as asked
    ],
)  # fmt: skip
def test_check_nodes__warns_of_slots_that_do_not_fit_and_idle_gpus(
    nodes: list[Node], asked: Resources, warned: list[str]
) -> None:
    found = check_nodes(nodes, asked)
    assert len(found) == len(warned)
    for text, words in zip(found, warned, strict=True):
        assert words in text


class Cluster:
    """What `PlacementWatch` asks of Ray."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, free: list[Node], whole: list[Node], bundle: dict
    ) -> None:
        group = {"state": "PENDING", "bundles": {0: bundle}}
        monkeypatch.setattr(cluster_room, "placement_group_table", lambda: {"a": group})
        monkeypatch.setattr(cluster_room, "free_nodes", lambda: dict(enumerate(free)))
        monkeypatch.setattr(cluster_room, "cluster_nodes", lambda: dict(enumerate(whole)))
        self.group = group
        self.now, self.said = 0.0, []
        self.control = SweepControl()
        one = spec(resources={"cpus_per_worker": 4})
        self.kept_out: set[int] = set()
        self.watch = PlacementWatch(
            one, self.control, self.said.append, lambda: self.now, lambda: self.kept_out
        )

    def turn(self, seconds: float, *states: str) -> None:
        self.now += seconds
        trials: Any = [SimpleNamespace(status=state) for state in states]
        self.watch.on_step_end(0, trials)


def test_placement_watch__says_what_is_short_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [Node(2, 0), Node(3, 0)], [Node(8, 0)], {"CPU": 4.0})
    cluster.turn(1, Trial.PENDING, Trial.RUNNING)
    cluster.turn(59, Trial.PENDING, Trial.RUNNING)
    assert cluster.said == []
    for _ in range(3):
        cluster.turn(6, Trial.PENDING, Trial.RUNNING)
    assert len(cluster.said) == 1
    assert "needs 1 x 4 = 4 CPUs" in cluster.said[0]
    assert "has 3 CPUs and 0 GPUs free: CPUs are short" in cluster.said[0]
    cluster.turn(6, Trial.RUNNING)  # placed
    cluster.turn(6, Trial.PENDING)
    cluster.turn(66, Trial.PENDING)
    assert len(cluster.said) == 2
    cluster.group["state"] = "CREATED"  # its actor starts slowly
    cluster.turn(6, Trial.PENDING)
    cluster.turn(600, Trial.PENDING)
    assert len(cluster.said) == 2


def test_placement_watch__ends_a_sweep_that_no_node_can_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = Cluster(monkeypatch, [Node(0, 0)], [Node(8, 0)], {"CPU": 4.0})
    busy.turn(1, Trial.PENDING)
    busy.turn(7200, Trial.PENDING)
    assert not busy.control.gave_up, "another job has the node"
    gone = Cluster(monkeypatch, [Node(1, 0)], [Node(1, 0)], {"CPU": 4.0})
    gone.turn(1, Trial.PENDING)
    gone.turn(3500, Trial.PENDING)
    assert not gone.control.gave_up
    gone.turn(200, Trial.PENDING)
    assert gone.control.resumable
    assert "CPUs are short" in str(gone.control.reason)
    sick = Cluster(monkeypatch, [Node(8, 0), Node(1, 0)], [Node(8, 0), Node(1, 0)], {"CPU": 4.0})
    sick.kept_out.add(0)
    sick.turn(1, Trial.PENDING)
    sick.turn(3700, Trial.PENDING)
    assert sick.control.resumable, "the only node that could hold a slot is kept out"


@pytest.mark.parametrize(
    ("usable", "there", "cpus", "warned"),
    [(1, 64, 4, True), (32, 64, 4, False), (2, 2, 4, False), (1, 2, 1, True), (8, 64, 1, False)],
)
def test_narrow_affinity__compares_with_what_ranks_hold(
    usable: int, there: int, cpus: float, warned: bool
) -> None:
    places = [{"host": "n1", "node": "a", "usable_cpus": usable, "node_cpus": there}] * 8
    found = narrow_affinity(places, cpus)
    assert (found is not None) == warned
    if found:
        assert "SRUN_CPUS_PER_TASK" in found
