"""A Ray cluster of several nodes on this machine, in a process of its own: nodes can be killed, and spares join.

One idea: a file of addresses in Ray's temporary folder draws every `ray.init` of the machine to the newest cluster, and
Ray's test cluster wants a main thread; so it lives in a child with a temporary folder of its own, which gets its commands in
lines of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from support.namespaces import Machine, Network

__all__ = ["LocalCluster"]

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # A node that is gone is seen in seconds.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "4",
}
_STORE_BYTES = 150 * 1024 * 1024


class LocalCluster:
    """A head without CPUs and worker nodes of one CPU each.

    Args:
        workers: Worker nodes to begin with; they are numbered from 0.
        namespaces: Each node in a network namespace of its own: another address, another host name, and a node that is
            killed falls silent, as a machine does that loses its power. Needs root and iproute2.
        jobs: The head takes Ray Jobs, at ``jobs`` (needs ``ray[default]``); sweepft's code is not on its path.

    Attributes:
        inside: What a command is to be preceded by to run on the head's machine.
        address: Of the cluster, ``HOST:PORT``.
        jobs: Address of its job server, or "".
        env: The environment of commands that use it.
    """

    def __init__(self, workers: int, namespaces: bool = False, jobs: bool = False) -> None:
        self._held = contextlib.ExitStack()
        self._network = self._held.enter_context(Network()) if namespaces else None
        self._machines: list[Machine] = []
        head = self._network.add() if self._network else None
        self.inside: tuple[str, ...] = head.prefix if head else ()
        self._folder = tempfile.mkdtemp(prefix="rc-", dir="/tmp")  # short: sockets lie in it
        self.env = os.environ | _SETTINGS | {"RAY_TMPDIR": self._folder}
        self.env.pop("RAY_ADDRESS", None)
        path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._child = subprocess.Popen(
            [*self.inside, sys.executable, "-m", "support.cluster", head.address if head else "", "jobs" * jobs],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=self.env | {"PYTHONPATH": os.pathsep.join(path)}, start_new_session=True,
        )  # fmt: skip
        self.pid = self._child.pid
        begun = self._answer()
        self.address, self.jobs = begun["address"], begun["jobs"]
        for _ in range(workers):
            self.add()

    def raylet(self, node: int) -> int:
        """Process id of a worker node's raylet, whose children its actors are."""
        return int(self._ask(raylet=node)["pid"])

    def kill(self, node: int) -> None:
        """SIGKILL everything of a worker node."""
        if self._network:
            self._network.cut(self._machines[node])
        self._ask(kill=node)

    def add(self) -> int:
        """A spare joins; returns its number."""
        if self._network is None:
            return int(self._ask(add=True)["node"])
        machine = self._network.add()
        self._machines.append(machine)
        return int(self._ask(add=True, address=machine.address, prefix=machine.prefix)["node"])

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
        self._held.close()
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


class _Beside:
    """A worker node in this process's own network; a job's files, which a node removes when it is idle, are its own."""

    def __init__(self, cluster: Any, number: int) -> None:
        self._cluster = cluster
        self._node = cluster.add_node(num_cpus=1, runtime_env_dir_name=f"runtime_resources_{number}")

    def raylet(self) -> int:
        return int(self._node.all_processes["raylet"][0].process.pid)

    def kill(self) -> None:
        self._cluster.remove_node(self._node, allow_graceful=False)


class _Elsewhere:
    """A worker node in a namespace of its own, by ``ray start``."""

    def __init__(self, cluster: Any, address: str, prefix: Sequence[str]) -> None:
        words = [
            "start", f"--address={cluster.address}", f"--node-ip-address={address}", "--num-cpus=1", "--num-gpus=0",
            f"--object-store-memory={_STORE_BYTES}", "--min-worker-port=0", "--max-worker-port=0", "--block",
        ]  # fmt: skip
        ray = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())"]
        # A session of its own, as on a machine of its own: raylets end whole process groups.
        self._process = psutil.Popen(
            [*prefix, *ray, *words], stdout=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while not any(n["Alive"] and n["NodeName"] == address for n in cluster.global_state.node_table()):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no node came up at {address}: exit code {self._process.poll()}")
            time.sleep(0.1)

    def raylet(self) -> int:
        return next(p.pid for p in self._process.children(recursive=True) if p.name() == "raylet")

    def kill(self) -> None:
        if self._process.poll() is not None:
            return
        for process in (self._process, *self._process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()


def _serve(address: str, jobs: bool) -> None:
    from ray.cluster_utils import Cluster

    head: dict[str, Any] = {"num_cpus": 0, "include_dashboard": jobs}
    if address:
        head |= {"node_ip_address": address}
    if jobs:
        head |= {"dashboard_port": _free_port(), "dashboard_agent_listen_port": _free_port()}
        del os.environ["PYTHONPATH"]  # what the nodes run comes with the job
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes: list[_Beside | _Elsewhere] = []
    _say(address=cluster.address, jobs=f"http://{cluster.webui_url}" if jobs else "")
    for line in sys.stdin:
        order = json.loads(line)
        if "kill" in order:
            nodes[order["kill"]].kill()
            _say()
        elif "raylet" in order:
            _say(pid=nodes[order["raylet"]].raylet())
        elif "placements" in order:
            states = [pg["state"] for pg in cluster.global_state.placement_group_table().values()]
            _say(count=sum(state != "REMOVED" for state in states))
        else:
            where = (order["address"], order["prefix"]) if "address" in order else None
            nodes.append(_Elsewhere(cluster, *where) if where else _Beside(cluster, len(nodes)))
            _say(node=len(nodes) - 1)
    for node in nodes:
        if isinstance(node, _Elsewhere):
            node.kill()
    cluster.shutdown()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _say(**words: Any) -> None:
    print(json.dumps({"cluster": words}), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], sys.argv[2] == "jobs")
