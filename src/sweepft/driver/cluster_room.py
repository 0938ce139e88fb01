"""Whether slots fit the cluster: checked when a sweep starts, and watched while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import ray
from ray import tune
from ray._private.state import available_resources_per_node
from ray.tune.experiment import Trial
from ray.util.placement_group import placement_group_table

from sweepft.driver.configs import placement
from sweepft.driver.control import DriverOnly, SweepControl
from sweepft.errors import ResourceError
from sweepft.slot.room import Node, fullest, need, ranks_on, short_of, slots_on
from sweepft.spec import Resources, SweepSpec

_SAY_AFTER: Final = 60.0
"""Seconds that a slot waits for a place before the terminal says why."""

_GIVE_UP_AFTER: Final = 3600.0
"""Seconds after which a sweep ends, to be resumed, where no slot runs and none would fit an empty cluster."""

_LOOK_EVERY: Final = 5.0


def check_cluster(resources: Resources) -> list[str]:
    """Refuse a sweep where not even one trial fits; warnings about slots that do not fit, and about idle GPUs.

    Raises:
        ResourceError: With what a trial needs and what the cluster has.
    """
    return check_nodes(list(cluster_nodes().values()), resources)


def check_nodes(nodes: Sequence[Node], resources: Resources) -> list[str]:
    """As `check_cluster`, on these nodes."""
    slots, wanted = slots_on(nodes, resources), resources.concurrent_trials
    if not slots:
        raise _too_small(nodes, resources)
    found = []
    running = min(slots, wanted)
    if slots < wanted:
        found.append(
            f"only {slots} of {wanted} concurrent trials fit the cluster ({_totals(nodes)}); one needs "
            f"{need(resources)}: lower resources.concurrent_trials, or cpus_per_worker, or add nodes"
        )
    gpus = sum(node.gpus for node in nodes)
    idle = gpus - running * resources.workers_per_trial * resources.gpus_per_worker
    if resources.gpus_per_worker and idle >= 1:
        remedy = (
            f"set resources.concurrent_trials: {slots}"
            if slots > running
            else "change resources.workers_per_trial"
        )
        found.append(f"{idle:g} of {gpus:g} GPUs of the cluster stay idle: {remedy}")
    return found


def _too_small(nodes: Sequence[Node], resources: Resources) -> ResourceError:
    one_node = resources.placement == "node" and resources.workers_per_trial > 1
    together = sum(ranks_on(node, resources) for node in nodes) >= resources.workers_per_trial
    if one_node and together:
        best = fullest(nodes, resources)
        return ResourceError(
            f"resources.placement: one trial needs {need(resources)}, and the largest node ({best.name}) has "
            f"{best.cpus:g} CPUs and {best.gpus:g} GPUs\n"
            "  set resources.placement: any to let a trial span nodes, or lower resources.workers_per_trial",
            key="resources.placement",
        )
    kind = next(iter(short_of(nodes, resources)), "GPU" if resources.gpus_per_worker else "CPU")
    key = f"resources.{kind.lower()}s_per_worker"
    return ResourceError(
        f"{key}: one trial needs {need(resources)}, and the cluster has {_totals(nodes)}\n"
        f"  lower {key} or resources.workers_per_trial, or join a larger cluster with --address",
        key=key,
    )


def _totals(nodes: Sequence[Node]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    count = f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}"
    return f"{count}: {cpus:g} CPUs and {gpus:g} GPUs"


def cluster_nodes() -> dict[str, Node]:
    """What the living nodes of the cluster have, by Ray's id of the node."""
    return {
        node["NodeID"]: _node(
            node["Resources"], f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        )
        for node in ray.nodes()
        if node["Alive"] and node["Resources"]
    }


def free_nodes() -> dict[str, Node]:
    """What the living nodes have left, by Ray's id of the node."""
    return {node_id: _node(free, node_id) for node_id, free in available_resources_per_node().items()}


def _node(found: dict[str, float], name: str) -> Node:
    return Node(found.get("CPU", 0.0), found.get("GPU", 0.0), name)


class PlacementWatch(DriverOnly, tune.Callback):
    """Says which resource is short where a slot waits for a place longer than a minute.

    A cluster that could not hold any slot even if it were empty (its nodes are gone) ends the sweep after an hour, to
    be resumed.

    Args:
        spec: Of the sweep.
        control: Ends it.
        say: Takes a line for the terminal.
        clock: Seconds that never run backwards.
        kept_out: Ray's ids of the nodes on which no slot is placed.
        rest: What is left of whole nodes without these and without GPUs that are given up; by default without these.
    """

    def __init__(
        self,
        spec: SweepSpec,
        control: SweepControl,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
        kept_out: Callable[[], Collection[str]] = frozenset,
        rest: Callable[[Mapping[str, Node]], list[Node]] | None = None,
    ) -> None:
        self._resources = spec.resources
        self._bundles = placement(spec).bundles
        self._control = control
        self._say = say
        self._kept_out = kept_out
        self._rest = rest or self._usable
        self._clock = clock
        self._look_at = 0.0
        self._since: float | None = None
        self._said = False

    def on_step_end(self, iteration: int, trials: Sequence[Trial], **info: object) -> None:
        """Tune's loop turns."""
        now = self._clock()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_EVERY
        if not any(trial.status == Trial.PENDING for trial in trials) or not self._unplaced():
            self._since, self._said = None, False
            return
        self._since = now if self._since is None else self._since
        waited = now - self._since
        if waited >= _SAY_AFTER and not self._said:
            self._said = True
            self._say(shortage(self._usable(free_nodes()), self._resources, waited))
        running = any(trial.status == Trial.RUNNING for trial in trials)
        if waited < _GIVE_UP_AFTER or running:
            return
        usable = self._rest(cluster_nodes())
        if not slots_on(usable, self._resources):
            why = shortage(usable, self._resources, waited)
            self._control.give_up(f"no node of the cluster can hold a trial: {why}", resumable=True)

    def _usable(self, nodes: Mapping[str, Node]) -> list[Node]:
        kept_out = self._kept_out()
        return [node for node_id, node in nodes.items() if node_id not in kept_out]

    def _unplaced(self) -> bool:
        """Whether Ray has a placement group of this size that it cannot place."""
        groups = placement_group_table().values()
        return any(
            group["state"] == "PENDING" and list(group["bundles"].values()) == self._bundles
            for group in groups
        )


def shortage(free: Sequence[Node], resources: Resources, seconds: float) -> str:
    """Why a slot cannot be placed, in a sentence."""
    best = fullest(free, resources)
    kinds = short_of(free, resources)
    short = f"{' and '.join(f'{kind}s' for kind in kinds)} are short" if kinds else "no single node has both"
    together = resources.placement == "any"
    cpus = sum(node.cpus for node in free) if together else best.cpus
    gpus = sum(node.gpus for node in free) if together else best.gpus
    where = "all nodes together have" if together else "the node with most room has"
    return (
        f"a trial has waited {seconds:.0f} s for a slot: it needs {need(resources)}, and {where} "
        f"{cpus:g} CPUs and {gpus:g} GPUs free: {short}; it starts when they are free"
    )
