"""Which trials fit the cluster at once, and where their ranks land.

One idea: a slot's ranks are packed: on one node where they fit, else across nodes, which works and is slower. What is
counted here is ranks per node, so that a rank never straddles two.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from sweepft.plan.memory import GIB
from sweepft.spec import Resources


@dataclass(frozen=True)
class Cluster:
    """What there is to run on.

    Attributes:
        nodes: Machines.
        units_per_node: GPUs of each, or CPUs where ranks are on CPUs.
        memory: Bytes of one GPU, or of one node's main memory.
        gpu: Whether units are GPUs.
        given: Whether the number of nodes was given, rather than taken to be what the spec asks for.
    """

    nodes: int
    units_per_node: int
    memory: int
    gpu: bool
    given: bool

    @property
    def units(self) -> int:
        """GPUs (or CPUs) in all."""
        return self.nodes * self.units_per_node


@dataclass(frozen=True)
class Placement:
    """How the spec's trials sit on a cluster.

    Attributes:
        units_per_trial: GPUs (or CPUs) one trial holds.
        slots: Trials that run at once: what is asked for, as far as it fits.
        fit: Trials that would fit at once, whole nodes or not.
        inside_node: Trials that fit at once with all their ranks on one node.
        idle: GPUs (or CPUs) no trial holds; negative where trials on CPUs share them.
    """

    units_per_trial: float
    slots: int
    fit: int
    inside_node: int
    idle: float

    @property
    def across_nodes(self) -> bool:
        """Whether some running trial has ranks on several nodes."""
        return self.slots > self.inside_node


def place(resources: Resources, cluster: Cluster) -> Placement:
    """Pack the spec's slots onto a cluster."""
    each = unit(resources, cluster.gpu)
    ranks = resources.workers_per_trial
    per_node = math.floor(cluster.units_per_node / each + 1e-9)
    fit = cluster.nodes * per_node // ranks
    inside = cluster.nodes * (per_node // ranks)
    if (
        not cluster.gpu
    ):  # a local Ray is given as many logical CPUs as are asked for; the trials share the real ones
        fit = inside = max(fit, resources.concurrent_trials)
    slots = min(resources.concurrent_trials, fit)
    idle = round(cluster.units - slots * ranks * each, 6)
    return Placement(round(ranks * each, 6), slots, fit, inside, idle)


def unit(resources: Resources, gpu: bool) -> float:
    """GPUs (or CPUs) of one rank."""
    return resources.gpus_per_worker if gpu else resources.cpus_per_worker


def rank_room(resources: Resources, cluster: Cluster) -> int:
    """Bytes that one rank may hold: its share of a GPU; of main memory, which ranks share as they come, all."""
    share = resources.gpus_per_worker if cluster.gpu else 1.0
    return int(cluster.memory * min(1.0, share))


def what_is_asked(resources: Resources, gpus_per_node: int, memory: int) -> Cluster:
    """The smallest number of such nodes that holds all the trials the spec wants at once."""
    per_node = max(1, math.floor(gpus_per_node / resources.gpus_per_worker + 1e-9))
    ranks, slots = resources.workers_per_trial, resources.concurrent_trials
    # ranks of a trial that fit one node are kept on one: nodes are counted in whole trials then
    inside = per_node // ranks
    nodes = math.ceil(slots / inside) if inside else math.ceil(slots * ranks / per_node)
    return Cluster(nodes, gpus_per_node, memory, gpu=True, given=False)


def this_machine() -> Cluster:
    """This machine's CPUs and main memory, for trials without GPUs."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cluster(1, os.cpu_count() or 1, memory, gpu=False, given=True)


def gib(size: float) -> float:
    """Bytes in GiB, to a tenth."""
    return round(size / GIB, 1)
