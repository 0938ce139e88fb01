"""What a sweep takes from the cluster, and whether the cluster has it."""

from __future__ import annotations

import math
import os
from typing import Any

import ray
from ray import tune

from sweepft.errors import ResourceError
from sweepft.spec import SweepSpec
from sweepft.workers.group import WorkerShape

__all__ = ["COORDINATOR_CPUS", "check_cluster", "local_cpus", "placement", "shape"]

COORDINATOR_CPUS = 0.01
"""Logical CPUs of a slot's coordinator: it waits for its ranks and computes nothing."""


def shape(spec: SweepSpec) -> WorkerShape:
    """The ranks of one slot."""
    r = spec.resources
    return WorkerShape(r.workers_per_trial, r.cpus_per_worker, r.gpus_per_worker)


def placement(spec: SweepSpec) -> Any:
    """Placement of one slot: the coordinator, then a bundle for each rank, close together."""
    ranks = shape(spec)
    bundle = {"CPU": ranks.cpus} | ({"GPU": ranks.gpus} if ranks.gpus else {})
    return tune.PlacementGroupFactory([{"CPU": COORDINATOR_CPUS}, *[bundle] * ranks.workers], strategy="PACK")


def local_cpus(spec: SweepSpec) -> tuple[int, str | None]:
    """Logical CPUs to give a local Ray, and a warning when there are fewer real ones."""
    ranks, slots = shape(spec), spec.resources.concurrent_trials
    needed = math.ceil(slots * (ranks.workers * ranks.cpus + COORDINATOR_CPUS))
    busy = math.ceil(slots * ranks.workers * ranks.cpus)
    real = os.cpu_count() or 1
    warning = None
    if busy > real:
        warning = (
            f"{slots} trials x {ranks.workers} ranks x {ranks.cpus:g} CPUs want {busy} CPUs, "
            f"and this machine has {real}: ranks share them and run slower; "
            "lower resources.concurrent_trials or workers_per_trial"
        )
    return max(needed, real), warning


def check_cluster(spec: SweepSpec) -> None:
    """Refuse a sweep of which not even one trial fits.

    Raises:
        ResourceError: Says what a trial needs and what the cluster has.
    """
    ranks, total = shape(spec), ray.cluster_resources()
    for name, per_rank in (("CPU", ranks.cpus), ("GPU", ranks.gpus)):
        needed, there = per_rank * ranks.workers, total.get(name, 0.0)
        if needed > there:
            key = f"resources.{name.lower()}s_per_worker"
            raise ResourceError(
                f"{key}: one trial needs {ranks.workers} x {per_rank:g} = {needed:g} {name}s, "
                f"and the cluster has {there:g}\n"
                f"  lower {key} or resources.workers_per_trial, or join a larger cluster with --address"
            )
