"""Whether every node of a cluster sees the run folder: a sweep on node-local storage is refused before it starts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweepft.errors import ResourceError

__all__ = ["check_shared", "refusal"]

_PATIENCE = 15.0
"""Seconds in which a network file system must show a new file everywhere."""
_START = 120.0
"""Seconds for a worker process to start on each node."""


def check_shared(run_dir: Path) -> None:
    """Write a file into the run folder, and look for it from every node that can hold a rank.

    Raises:
        ResourceError: If a node does not see it; names the nodes.
    """
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU", 0) > 0]
    if len(nodes) < 2:
        return
    probe = run_dir / f".seen-{os.urandom(8).hex()}"
    probe.write_text(probe.name)
    try:
        look = ray.remote(num_cpus=0, max_retries=0)(_sees)
        asked = {
            look.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(str(probe), probe.name, _PATIENCE): node
            for node in nodes
        }
        done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_START)
        blind = [_name(node) for answer, node in asked.items() if answer not in done or not _yes(answer)]
    finally:
        probe.unlink(missing_ok=True)
    if blind:
        raise ResourceError(refusal(run_dir, blind, len(nodes)))


def refusal(run_dir: Path, blind: list[str], nodes: int) -> str:
    """The words for nodes that do not see a run folder."""
    return (
        f"{run_dir}: {len(blind)} of {nodes} nodes of the cluster do not see the run folder: {', '.join(blind[:5])}\n"
        "  name a folder on storage that all nodes share (NFS and the like) with --out, or run on one node"
    )


def _sees(path: str, text: str, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            if Path(path).read_text() == text:
                return True
        except OSError:
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.2)


def _yes(answer: Any) -> bool:
    try:
        return bool(ray.get(answer))
    except ray.exceptions.RayError:
        return False


def _name(node: dict[str, Any]) -> str:
    return str(node.get("NodeManagerHostname") or node.get("NodeManagerAddress"))
