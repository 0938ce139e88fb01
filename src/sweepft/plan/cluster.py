"""How many trials fit the cluster at once, and on which nodes their ranks run.

The ranks of a slot are placed on one node if they fit, otherwise across nodes, which is slower.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace

from sweepft.plan.memory import GIB
from sweepft.slot.room import Node, ranks_on, slots_on
from sweepft.spec import Resources


@dataclass(frozen=True)
class Cluster:
    """The nodes to run on.

    Attributes:
        nodes: Number of nodes.
        units_per_node: GPUs per node, or CPUs if ranks run on CPUs.
        memory: Bytes of one GPU, or of one node's main memory.
        gpu: Whether units are GPUs.
        cpus_per_node: Logical CPUs of a node with GPUs; None if unknown: then there are enough.
    """

    nodes: int
    units_per_node: int
    memory: int
    gpu: bool
    cpus_per_node: int | None = None

    @property
    def units(self) -> int:
        """Total GPUs (or CPUs)."""
        return self.nodes * self.units_per_node


@dataclass(frozen=True)
class Placement:
    """Placement of a spec's trials on a cluster.

    Attributes:
        units_per_trial: GPUs (or CPUs) per trial.
        slots: Concurrent trials: ``concurrent_trials``, or fewer if they do not fit.
        fit: Trials that fit at once, as ``resources.placement`` has it.
        inside_node: Trials that fit at once with all their ranks on one node.
        idle: Unused GPUs (or CPUs); negative if trials on CPUs share them.
        short: What bounds the trials of a node: ``GPU`` or ``CPU``.
        cpus_per_node: Logical CPUs that the trials of one node take.
    """

    units_per_trial: float
    slots: int
    fit: int
    inside_node: int
    idle: float
    short: str = "GPU"
    cpus_per_node: float = 0.0

    @property
    def across_nodes(self) -> bool:
        """Whether a trial has ranks on several nodes."""
        return self.slots > self.inside_node


def place(resources: Resources, cluster: Cluster) -> Placement:
    """Place the spec's slots on a cluster."""
    each = unit(resources, cluster.gpu)
    ranks = resources.workers_per_trial
    node = _node(cluster)
    fit = slots_on([node] * cluster.nodes, resources)
    inside = cluster.nodes * (ranks_on(node, resources) // ranks)
    if not cluster.gpu:  # a local Ray session declares as many logical CPUs as the spec asks for
        fit = inside = max(fit, resources.concurrent_trials)
    slots = min(resources.concurrent_trials, fit)
    idle = round(cluster.units - slots * ranks * each, 6)
    scarce_cpus = not cluster.gpu or fit < slots_on([replace(node, cpus=math.inf)] * cluster.nodes, resources)
    held = min(-(-slots // cluster.nodes) * ranks, ranks_on(node, resources)) if slots else 0
    return Placement(
        units_per_trial=round(ranks * each, 6),
        slots=slots,
        fit=fit,
        inside_node=inside,
        idle=idle,
        short="CPU" if scarce_cpus else "GPU",
        cpus_per_node=held * resources.cpus_per_worker,
    )


def _node(cluster: Cluster) -> Node:
    if not cluster.gpu:
        return Node(cluster.units_per_node, 0)
    return Node(math.inf if cluster.cpus_per_node is None else cluster.cpus_per_node, cluster.units_per_node)


def slots_across(resources: Resources, cluster: Cluster) -> int:
    """Trials that would fit if they could span nodes."""
    return slots_on([_node(cluster)] * cluster.nodes, resources.model_copy(update={"placement": "any"}))


def unit(resources: Resources, gpu: bool) -> float:
    """GPUs (or CPUs) per rank."""
    return resources.gpus_per_worker if gpu else resources.cpus_per_worker


def rank_room(resources: Resources, cluster: Cluster) -> int:
    """Bytes available to one rank: its share of a GPU, or the whole main memory."""
    share = resources.gpus_per_worker if cluster.gpu else 1.0
    return int(cluster.memory * min(1.0, share))


def smallest_cluster(
    resources: Resources, gpus_per_node: int, memory: int, cpus_per_node: int | None = None
) -> Cluster:
    """The smallest number of such nodes on which all concurrent trials fit; one node where none ever fits."""
    cluster = Cluster(1, gpus_per_node, memory, gpu=True, cpus_per_node=cpus_per_node)
    per_node = ranks_on(_node(cluster), resources)
    ranks, slots = resources.workers_per_trial, resources.concurrent_trials
    inside = per_node // ranks  # trials that fit one node are not split, so nodes are counted in whole trials
    if inside:
        return replace(cluster, nodes=math.ceil(slots / inside))
    if resources.placement == "node" or not per_node:
        return cluster
    return replace(cluster, nodes=math.ceil(slots * ranks / per_node))


def this_machine() -> Cluster:
    """CPUs and main memory of this machine, for trials without GPUs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(1, os.cpu_count() or 1, memory, gpu=False)


def gib(size: float) -> float:
    """Bytes in GiB, rounded to a tenth."""
    return round(size / GIB, 1)
