"""How many slots fit some nodes, by GPUs and CPUs. Arithmetic only: the plan uses it without Ray."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sweepft.spec import Resources

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Node:
    """What a node has, or has left.

    Attributes:
        cpus: Logical CPUs; infinite where they are not known.
        gpus: GPUs.
        name: Of the node.
    """

    cpus: float
    gpus: float
    name: str = ""


class Gpu(NamedTuple):
    """One GPU of the cluster.

    Attributes:
        node: Ray's id of its node.
        id: Ray's id of it there: its number, or what ``CUDA_VISIBLE_DEVICES`` calls it where Ray was started.
    """

    node: str
    id: str


def ranks_on(node: Node, resources: Resources) -> int:
    """Ranks that fit a node."""
    cpus, gpus = resources.cpus_per_worker, resources.gpus_per_worker
    by_cpu = math.inf if math.isinf(node.cpus) else math.floor(node.cpus / cpus + _ROUNDING)
    if not gpus:
        return int(by_cpu)
    if gpus < 1:  # a rank does not share two GPUs
        whole, rest = divmod(node.gpus, 1)
        by_gpu = whole * math.floor(1 / gpus + _ROUNDING) + math.floor(rest / gpus + _ROUNDING)
    else:
        by_gpu = math.floor(node.gpus / gpus + _ROUNDING)
    return int(min(by_cpu, by_gpu))


def slots_on(nodes: Iterable[Node], resources: Resources) -> int:
    """Slots that fit some nodes at once, as ``resources.placement`` has it."""
    ranks = [ranks_on(node, resources) for node in nodes]
    if resources.placement == "any":
        return sum(ranks) // resources.workers_per_trial
    return sum(n // resources.workers_per_trial for n in ranks)


def need(resources: Resources) -> str:
    """What one slot takes, in words: ``8 x 4 = 32 CPUs and 8 x 1 = 8 GPUs on one node``."""
    n = resources.workers_per_trial
    parts = [f"{n} x {resources.cpus_per_worker:g} = {n * resources.cpus_per_worker:g} CPUs"]
    if resources.gpus_per_worker:
        parts.append(f"{n} x {resources.gpus_per_worker:g} = {n * resources.gpus_per_worker:g} GPUs")
    return " and ".join(parts) + ("" if resources.placement == "any" or n == 1 else " on one node")


def short_of(nodes: Sequence[Node], resources: Resources) -> list[str]:
    """The resources that no node (or all nodes together) has enough of for one slot: of ``GPU`` and ``CPU``.

    Empty where each is there somewhere, but never both on one node.
    """
    n = resources.workers_per_trial
    wanted = {"GPU": n * resources.gpus_per_worker, "CPU": n * resources.cpus_per_worker}
    there = {"GPU": [node.gpus for node in nodes], "CPU": [node.cpus for node in nodes]}
    most = {
        kind: (sum if resources.placement == "any" else max)(found or [0.0]) for kind, found in there.items()
    }
    return [kind for kind, amount in wanted.items() if amount > most[kind] + _ROUNDING]


def fullest(nodes: Sequence[Node], resources: Resources) -> Node:
    """The node with most room for ranks."""
    return max(
        nodes, key=lambda node: (ranks_on(node, resources), node.gpus, node.cpus), default=Node(0.0, 0.0)
    )
