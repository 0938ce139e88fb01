"""How many trials fit the cluster at once, and on which nodes their ranks run.

The ranks of a slot are placed on one node if they fit, otherwise across nodes, which is slower.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from sweepft.plan.memory import GIB
from sweepft.spec import Resources


@dataclass(frozen=True)
class Cluster:
    """The nodes to run on.

    Attributes:
        nodes: Number of nodes.
        units_per_node: GPUs per node, or CPUs if ranks run on CPUs.
        memory: Bytes of one GPU, or of one node's main memory.
        gpu: Whether units are GPUs.
    """

    nodes: int
    units_per_node: int
    memory: int
    gpu: bool

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
        fit: Trials that fit at once, within or across nodes.
        inside_node: Trials that fit at once with all their ranks on one node.
        idle: Unused GPUs (or CPUs); negative if trials on CPUs share them.
    """

    units_per_trial: float
    slots: int
    fit: int
    inside_node: int
    idle: float

    @property
    def across_nodes(self) -> bool:
        """Whether a trial has ranks on several nodes."""
        return self.slots > self.inside_node


def place(resources: Resources, cluster: Cluster) -> Placement:
    """Place the spec's slots on a cluster."""
    each = unit(resources, cluster.gpu)
    ranks = resources.workers_per_trial
    per_node = math.floor(cluster.units_per_node / each + 1e-9)
    fit = cluster.nodes * per_node // ranks
    inside = cluster.nodes * (per_node // ranks)
    if not cluster.gpu:  # a local Ray session declares as many logical CPUs as the spec asks for
        fit = inside = max(fit, resources.concurrent_trials)
    slots = min(resources.concurrent_trials, fit)
    idle = round(cluster.units - slots * ranks * each, 6)
    return Placement(round(ranks * each, 6), slots, fit, inside, idle)


def unit(resources: Resources, gpu: bool) -> float:
    """GPUs (or CPUs) per rank."""
    return resources.gpus_per_worker if gpu else resources.cpus_per_worker


def rank_room(resources: Resources, cluster: Cluster) -> int:
    """Bytes available to one rank: its share of a GPU, or the whole main memory."""
    share = resources.gpus_per_worker if cluster.gpu else 1.0
    return int(cluster.memory * min(1.0, share))


def smallest_cluster(resources: Resources, gpus_per_node: int, memory: int) -> Cluster:
    """The smallest number of such nodes on which all concurrent trials fit."""
    per_node = max(1, math.floor(gpus_per_node / resources.gpus_per_worker + 1e-9))
    ranks, slots = resources.workers_per_trial, resources.concurrent_trials
    # trials that fit one node are not split, so nodes are counted in whole trials
    inside = per_node // ranks
    nodes = math.ceil(slots / inside) if inside else math.ceil(slots * ranks / per_node)
    return Cluster(nodes, gpus_per_node, memory, gpu=True)


def this_machine() -> Cluster:
    """CPUs and main memory of this machine, for trials without GPUs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(1, os.cpu_count() or 1, memory, gpu=False)


def gib(size: float) -> float:
    """Bytes in GiB, rounded to a tenth."""
    return round(size / GIB, 1)
