"""Wait until a Ray cluster has so many nodes: ``python -m sweepft.driver.wait_for_nodes ADDRESS NODES``.

For scripts that start a cluster node by node, such as ``deploy/slurm.sbatch``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from typing import Final

from sweepft.driver.cluster_address import check_address
from sweepft.errors import ClusterError, Problem

_COUNT: Final = """
import logging, sys
import ray
ray.init(address=sys.argv[1], log_to_driver=False, configure_logging=False, logging_level=logging.ERROR)
for node in ray.nodes():
    if node["Alive"]:
        has = node["Resources"]
        print(node["NodeManagerAddress"], f"{has.get('CPU', 0):g} CPUs {has.get('GPU', 0):g} GPUs")
"""
_EVERY: Final = 2.0


def wait_for_nodes(address: str, count: int, seconds: float) -> list[str]:
    """The nodes of a cluster once there are enough of them: address, CPUs and GPUs of each.

    Args:
        address: ``HOST:PORT``.
        count: Nodes to wait for.
        seconds: How long.
    Raises:
        ClusterError: If they are not there in time, or the cluster cannot be joined.
    """
    deadline = time.monotonic() + seconds
    while True:
        problem: ClusterError | None = None
        nodes: list[str] = []
        try:
            check_address(address)
            nodes = _nodes(address)
        except ClusterError as error:
            problem = error
        if len(nodes) >= count:
            return nodes
        if time.monotonic() > deadline:
            if problem is not None:
                raise problem
            raise ClusterError([_too_few(address, nodes, count, seconds)])
        time.sleep(_EVERY)


def _nodes(address: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, address], capture_output=True, text=True, check=False, timeout=120
    )
    return done.stdout.splitlines()


def _too_few(address: str, nodes: list[str], count: int, seconds: float) -> Problem:
    rule = f"has {len(nodes)} of {count} nodes after {seconds:.0f} s"
    found = "; ".join(nodes) or None
    return Problem(
        address, "nodes", rule, "see what `ray start` printed on the nodes that are missing", found
    )


def main() -> int:
    """Wait, and print the nodes. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sweepft.driver.wait_for_nodes", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("nodes", type=int)
    parser.add_argument("--seconds", type=float, default=300.0)
    given = parser.parse_args()
    try:
        nodes = wait_for_nodes(given.address, given.nodes, given.seconds)
    except ClusterError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write("".join(f"node {line}\n" for line in nodes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
