"""A Ray cluster of several nodes on this machine, in a process of its own: nodes can be killed, and spares join.

One idea: a file of addresses in Ray's temporary folder draws every `ray.init` of the machine to the newest cluster, and
Ray's test cluster wants a main thread; so it lives in a child with a temporary folder of its own, told what to do in
lines of JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_SOON_SEEN_DEAD = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}


class LocalCluster:
    """A head without CPUs and worker nodes of one CPU each.

    Args:
        workers: Worker nodes to begin with; they are numbered from 0.
    """

    def __init__(self, workers: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="rc-", dir="/tmp")  # short: sockets lie in it
        self.env = os.environ | _SOON_SEEN_DEAD | {"RAY_TMPDIR": self._folder, "RAY_USAGE_STATS_ENABLED": "0"}
        self.env.pop("RAY_ADDRESS", None)
        path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._child = subprocess.Popen(
            [sys.executable, "-m", "support.cluster", str(workers)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=self.env | {"PYTHONPATH": os.pathsep.join(path)},
        )  # fmt: skip
        self.pid = self._child.pid
        self.address = self._answer()["address"]

    def raylet(self, node: int) -> int:
        """Process id of a worker node's raylet, whose children its actors are."""
        return int(self._ask(raylet=node)["pid"])

    def kill(self, node: int) -> None:
        """SIGKILL everything of a worker node."""
        self._ask(kill=node)

    def add(self) -> int:
        """A spare joins; returns its number."""
        return int(self._ask(add=True)["node"])

    def placements(self) -> int:
        """Placement groups that are not removed."""
        return int(self._ask(placements=True)["count"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        if self._child.stdout is not None:
            self._child.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, **order: Any) -> dict[str, Any]:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            if line.startswith('{"cluster"'):
                return dict(json.loads(line)["cluster"])
        raise RuntimeError("the cluster's process ended")


def _serve(workers: int) -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes: list[Any] = [cluster.add_node(num_cpus=1) for _ in range(workers)]
    _say(address=cluster.address)
    for line in sys.stdin:
        order = json.loads(line)
        if "kill" in order:
            cluster.remove_node(nodes[order["kill"]], allow_graceful=False)
            _say()
        elif "raylet" in order:
            _say(pid=nodes[order["raylet"]].all_processes["raylet"][0].process.pid)
        elif "placements" in order:
            states = [pg["state"] for pg in cluster.global_state.placement_group_table().values()]
            _say(count=sum(state != "REMOVED" for state in states))
        else:
            nodes.append(cluster.add_node(num_cpus=1))
            _say(node=len(nodes) - 1)
    cluster.shutdown()


def _say(**words: Any) -> None:
    print(json.dumps({"cluster": words}), flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
