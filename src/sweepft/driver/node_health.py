"""Which nodes start no trial and which GPUs are given up: two different trials failed there before their first report,
and there is room elsewhere.

Where one GPU of a node may be the cause of all its failures, that GPU is given up; else new slots keep away from the
node, and slots that live there go on. Each session begins with every node and GPU of the cluster: a resume gives all of
them another chance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from ray import tune
from ray.util.placement_group import PlacementGroup, placement_group

from sweepft.driver.control import DriverOnly
from sweepft.driver.start_failures import Place, StartFailures
from sweepft.ledger.rows import GPU_GIVEN_UP, GPU_USED_AGAIN, NODE_KEPT_OUT, NODE_USED_AGAIN
from sweepft.slot.room import Gpu, Node, slots_on
from sweepft.spec import Resources

_TRIALS: Final = 2
"""Different trials that must have failed on a node or a GPU."""

_SHARED: Final = 3
"""Nodes, or GPUs, on which trials fail while none has worked anywhere: the cause is then one that they share."""

_GPU_REMEDY: Final = "check the GPU (nvidia-smi -q; Xid errors in dmesg); a resume uses it again"
_GPUS_REMEDY: Final = (
    "check these GPUs (nvidia-smi -q; Xid errors in dmesg), or start Ray without them (CUDA_VISIBLE_DEVICES), "
    "then resume"
)


class NodeHealth(DriverOnly):
    """Counts the trials that could not start on each node and GPU in one session.

    Args:
        resources: What a slot needs.
        nodes: The living nodes of the cluster, by Ray's id.
        hold: Called with all GPUs that are given up, whenever these change: Ray must not place slots on them.

    Attributes:
        kept_out: Ray's ids of the nodes on which no new slot is placed.
        given_up: GPUs on which no new slot is placed.
        worked: Whether a trial has reported in this session.
    """

    def __init__(
        self,
        resources: Resources,
        nodes: Callable[[], dict[str, Node]],
        hold: Callable[[frozenset[Gpu]], None] = lambda gpus: None,
    ) -> None:
        self._resources = resources
        self._nodes = nodes
        self._hold = hold
        self._names: dict[str, str] = {}
        self._by_node = StartFailures[str]()
        self._by_gpu = StartFailures[Gpu]()
        self._gpus_of: dict[str, list[tuple[str, frozenset[Gpu]]]] = {}
        self._avoided: set[str] = set()
        self._avoided_gpus: set[Gpu] = set()
        self._declared: set[str] = set()
        self._declared_gpus: set[Gpu] = set()
        self.kept_out: frozenset[str] = frozenset()
        self.given_up: frozenset[Gpu] = frozenset()
        self.worked = False

    def name(self, node: str) -> str:
        """Host name and address of a node, as far as it is known."""
        self._names |= {node_id: found.name for node_id, found in self._nodes().items()}
        return self._names.get(node, node)

    def failed(
        self,
        trial: str,
        nodes: Sequence[str],
        reason: str,
        control: str | None = None,
        gpus: Sequence[Gpu] = (),
    ) -> None:
        """A trial failed before its first report.

        Args:
            trial: Its name.
            nodes: Of the ranks that failed; of all ranks where it is unknown which one did.
            reason: What they raised.
            control: Another trial, which has trained elsewhere and failed there as well.
            gpus: Of these ranks; empty without GPUs, or where they are unknown.
        """
        line = reason.splitlines()[0] if reason else ""
        trials = [trial] if control is None else [trial, control]
        for node in nodes:
            self.name(node)  # it may be gone when it is to be named
            here = frozenset(gpu for gpu in gpus if gpu.node == node)
            self._gpus_of.setdefault(node, []).append((trial, here))
        self._by_node.add(trials, nodes, line)
        self._by_gpu.add(trials, gpus, line)
        self._choose()

    def reported(self, nodes: Sequence[str], gpus: Sequence[Gpu] = ()) -> None:
        """A trial reported on these nodes: none of them was the cause where another one may have been.

        Its GPUs work, whatever failed on them before.
        """
        self.worked = True
        doubtful = self._by_node.clear_doubtful(nodes)
        working = self._by_gpu.clear(gpus)
        if self._avoided or self._avoided_gpus or doubtful or working:
            self._avoided.clear()
            self._avoided_gpus.clear()
            self._choose()
        self._by_node.common = self._by_gpu.common = None

    def withdraw(self, trial: str) -> None:
        """A trial has failed for its own settings: that it failed on a node says nothing about the node."""
        on_nodes, on_gpus = self._by_node.withdraw(trial), self._by_gpu.withdraw(trial)
        for node, found in self._gpus_of.items():
            self._gpus_of[node] = [(name, gpus) for name, gpus in found if name != trial]
        if on_nodes or on_gpus:
            self._choose()

    def avoid(self, nodes: Collection[str], gpus: Collection[Gpu] = ()) -> bool:
        """Place no new slot on these GPUs or nodes, where a trial has just failed, until a trial has reported.

        Where one of several is the cause, one that took part in every failure is tried first.

        Returns:
            Whether the next slot is placed elsewhere; False where there is no room, or the cause is a shared one.
        """
        if self.shared:
            return False
        if gpus and all(self._suspected_gpus(node) for node in nodes) and self._avoid_gpus(gpus):
            return True
        return self._avoid_nodes(nodes) or (bool(gpus) and self._avoid_gpus(gpus))

    def room_without(self, nodes: Collection[str], gpus: Collection[Gpu] = ()) -> bool:
        """Whether a slot fits beside what is kept out or given up, and these nodes, or these GPUs where they are known;
        False where neither is.
        """
        if gpus:
            return self._room(self.kept_out, self.given_up | set(gpus))
        return bool(nodes) and self._room(self.kept_out | set(nodes), self.given_up)

    def avoid_common(self) -> bool:
        """`avoid` what took part in each failure so far, if there is such a GPU or node."""
        nodes, gpus = self._by_node.common or frozenset(), self._by_gpu.common or frozenset()
        return bool(nodes or gpus) and self.avoid(nodes, gpus)

    def slots_left(self) -> int | None:
        """Slots that fit beside the GPUs that are given up; None where there are no such GPUs."""
        if not self.given_up:
            return None
        return slots_on(self._rest(self.kept_out, self.given_up), self._resources)

    def rest(self, nodes: Mapping[str, Node]) -> list[Node]:
        """What is left of whole nodes without those that are kept out and the GPUs that are given up."""
        return _without(nodes, self.kept_out, self.given_up)

    @property
    def shared(self) -> bool:
        """Whether trials fail on several nodes while none has worked anywhere: a cause that all nodes share."""
        return not self.worked and not self._by_node.common and len(self._by_node.places()) >= _SHARED

    def describe(self) -> str:
        """The GPUs and nodes on which trials failed, a line for each; nothing where it is one node."""
        gpus = self._by_gpu.places()
        of_gpus = {gpu.node for gpu in gpus}
        nodes = [node for node in self._by_node.places() if node not in of_gpus]
        lines = [f"{self._gpu_name(gpu)}: {self._by_gpu.words(gpu)}" for gpu in gpus]
        lines += [f"{self.name(node)}: {self._by_node.words(node)}" for node in nodes]
        if len(lines) < 2 and not gpus:
            return ""
        return "".join(f"\n  {line}" for line in [*lines, *([_GPUS_REMEDY] if gpus else [])])

    def news(self) -> list[dict[str, Any]]:
        """Fields of the ``fault`` rows that are due since the last call: nodes kept out and GPUs given up, or used
        again.

        They are named once a trial has worked somewhere: until then the cause may be one that all share. What is
        only avoided until the next report is not named.
        """
        if not self.worked:
            return []
        rows = []
        kept_out = {node for node in self.kept_out if len(self._by_node.trials(node)) >= _TRIALS}
        for node in sorted(kept_out - self._declared):
            message = (
                f"{self.name(node)}: {self._by_node.words(node)}\n  check the machine; a resume uses it again"
            )
            rows.append({"node": self.name(node), "message": message, "action": NODE_KEPT_OUT})
        for node in sorted(self._declared - kept_out):
            message = f"{self.name(node)}: the trials that failed there failed on other nodes, too"
            rows.append({"node": self.name(node), "message": message, "action": NODE_USED_AGAIN})
        self._declared = kept_out
        return [{"error": "NodeFailed"} | row for row in rows] + self._gpu_news()

    def _gpu_news(self) -> list[dict[str, Any]]:
        rows = []
        given_up = {gpu for gpu in self.given_up if len(self._by_gpu.trials(gpu)) >= _TRIALS}
        for gpu in sorted(given_up - self._declared_gpus):
            message = f"{self._gpu_name(gpu)}: {self._by_gpu.words(gpu)}\n  {_GPU_REMEDY}"
            rows.append((gpu, message, GPU_GIVEN_UP))
        for gpu in sorted(self._declared_gpus - given_up):
            rows.append((gpu, f"{self._gpu_name(gpu)}: trials failed elsewhere, too", GPU_USED_AGAIN))
        self._declared_gpus = given_up
        return [
            {
                "error": "GpuFailed",
                "node": self.name(gpu.node),
                "gpu": gpu.id,
                "message": message,
                "action": action,
            }
            for gpu, message, action in rows
        ]

    def _gpu_name(self, gpu: Gpu) -> str:
        return f"{self.name(gpu.node)}, GPU {gpu.id}"

    def _suspected_gpus(self, node: str) -> frozenset[Gpu]:
        """GPUs of a node that took part in all its failures; empty where the node itself is the cause."""
        found = [gpus for _, gpus in self._gpus_of.get(node, ())]
        return frozenset.intersection(*found) if found else frozenset()

    def _avoid_gpus(self, gpus: Collection[Gpu]) -> bool:
        if not self.worked and not self._by_gpu.common and len(self._by_gpu.places()) >= _SHARED:
            return False  # a cause that all GPUs share
        if not self._room(self.kept_out, _failing(self._by_gpu, gpus)):
            return False  # all have been tried
        avoided = set() if self._by_gpu.common else set(self._avoided_gpus)
        for gpu in sorted(self._by_gpu.common or gpus, key=lambda gpu: (-len(self._by_gpu.trials(gpu)), gpu)):
            if self._room(self.kept_out, avoided | {gpu}):
                avoided.add(gpu)
        self._avoided_gpus = avoided
        self._choose()
        return not self.given_up.isdisjoint(gpus)

    def _avoid_nodes(self, nodes: Collection[str]) -> bool:
        if not self._room(_failing(self._by_node, nodes)):
            return False  # all have been tried
        common = self._by_node.common
        avoided = set() if common else set(self._avoided)
        for node in sorted(common or nodes, key=lambda node: -len(self._by_node.trials(node))):
            if self._room(avoided | {node}):
                avoided.add(node)
        self._avoided = avoided
        self._choose()
        return not self.kept_out.isdisjoint(nodes)

    def _choose(self) -> None:
        """Keep out the nodes, and give up the GPUs, on which most trials failed, as long as the others have room for a
        slot.
        """
        chosen: set[str] = set()
        for node in self._by_node.places():
            enough = len(self._by_node.trials(node)) >= _TRIALS and not self._suspected_gpus(node)
            if (enough or node in self._avoided) and self._room(chosen | {node}):
                chosen.add(node)
        self.kept_out = frozenset(chosen)
        gpus: set[Gpu] = set()
        for gpu in self._by_gpu.places():
            enough = len(self._by_gpu.trials(gpu)) >= _TRIALS or gpu in self._avoided_gpus
            if enough and gpu.node not in chosen and self._room(chosen, gpus | {gpu}):
                gpus.add(gpu)
        if gpus != self.given_up:
            self.given_up = frozenset(gpus)
            self._hold(self.given_up)

    def _room(self, without: Collection[str], given_up: Collection[Gpu] = ()) -> bool:
        return slots_on(self._rest(without, given_up), self._resources) > 0

    def _rest(self, without: Collection[str], given_up: Collection[Gpu]) -> list[Node]:
        return _without(self._nodes(), without, given_up)


def _failing(failures: StartFailures[Place], last: Collection[Place]) -> set[Place]:
    """Places that are the cause of enough failures, and that of the last one, where these are known for certain."""
    found = {place for place in failures.places() if failures.certain(place) >= _TRIALS}
    return found | (set(last) if len(last) == 1 else set())


def _without(nodes: Mapping[str, Node], kept_out: Collection[str], given_up: Collection[Gpu]) -> list[Node]:
    """Nodes without those that are kept out, and with fewer GPUs where some are given up."""
    lost = [gpu.node for gpu in given_up]
    return [
        replace(node, gpus=max(0.0, node.gpus - lost.count(node_id)))
        for node_id, node in nodes.items()
        if node_id not in kept_out
    ]


class SlotPlacement(tune.PlacementGroupFactory):
    """The placement of a slot, away from nodes that are kept out when it is asked for.

    Tune holds many copies of it and compares them to reuse slots, so they must be equal whatever is kept out.

    Attributes:
        kept_out: Ray's ids of the nodes that are kept out now, in the driver's process.
    """

    kept_out: ClassVar[Callable[[], Collection[str]]] = frozenset

    def to_placement_group(self) -> PlacementGroup:
        """Ask Ray for the placement group."""
        nodes = sorted(type(self).kept_out())
        if not nodes:
            return super().to_placement_group()
        elsewhere = {"ray.io/node-id": f"!in({','.join(nodes)})"}
        return placement_group(
            self.bundles, self.strategy, bundle_label_selector=[elsewhere] * len(self.bundles)
        )
