"""A Ray node is lost with slots on it and a spare joins: the sweep ends with the same trials and decisions."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import psutil
import pytest

from support.cluster import LocalCluster
from support.faults import COORDINATOR, RANK, faults, processes, rows_of, story
from support.sweeps import write_spec
from sweepft.ledger import SweepState, read_ledger

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

SEARCH = {
    "trials": 3,
    "start_with": [{"learning_rate": 3.0e-3}],
    "space": {"learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]}},
}
TRAIN = {
    "budget": {"samples": 96}, "micro_batch": 4, "precision": "fp32", "zero_stage": 2, "batch_size": 16,
}  # fmt: skip
ACROSS_NODES = {"workers_per_trial": 2, "cpus_per_worker": 0.9, "concurrent_trials": 1, "placement": "any"}
"""A node of one CPU holds one rank, and the coordinator beside it."""


@pytest.fixture(scope="module")
def spec(tiny_model_dir, tiny_data_file, tmp_path_factory):
    return write_spec(
        tmp_path_factory.mktemp("nodes"), tiny_model_dir, tiny_data_file,
        search=SEARCH, train=TRAIN, resources=ACROSS_NODES, checkpoint="rungs",
    )  # fmt: skip


@contextlib.contextmanager
def sweeping(spec, run, *more: str, env=None):
    """The sweep as a process of its own, which is gone when the block ends."""
    command = [sys.executable, "-m", "sweepft.cli", "run", str(spec), "--out", str(run), *more]
    sweep = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    try:
        yield sweep
    finally:
        if sweep.poll() is None:
            sweep.kill()
            sweep.communicate()


def finish(sweep: subprocess.Popen) -> None:
    output, _ = sweep.communicate(timeout=600)
    assert sweep.returncode == 0, output[-4000:]


@pytest.fixture(scope="module")
def undisturbed(spec):
    run = spec.parent / "calm"
    with sweeping(spec, run) as sweep:
        finish(sweep)
    return story(run)


@pytest.mark.parametrize("lost", ["coordinator", pytest.param("rank", marks=pytest.mark.full)])
def test_lost_node__trial_across_nodes_survives(undisturbed, spec, lost):
    run = spec.parent / lost
    with (
        LocalCluster(workers=2) as cluster,
        sweeping(spec, run, "--address", cluster.address, env=cluster.env) as sweep,
    ):
        here = [False, False]  # a process whose name is just changing is not seen: looked for until it is
        while (rows_of(run, "steps") < 4 or not any(here)) and sweep.poll() is None:
            time.sleep(0.01)
            here = [bool(processes(COORDINATOR, of=cluster.raylet(node))) for node in (0, 1)]
        assert sum(here) == 1, "the coordinator is on one of the two nodes"
        cluster.kill(here.index(lost == "coordinator"))
        cluster.add()
        finish(sweep)
        deadline = time.monotonic() + 60
        while (left := [*processes(RANK, cluster.pid), *processes(COORDINATOR, cluster.pid)]) and (
            time.monotonic() < deadline
        ):
            time.sleep(0.2)
        assert left == []
    view = SweepState.load(run)
    assert story(view) == undisturbed, "same trials, same numbers, same decisions"
    assert view.status == "finished"
    (fault,) = faults(run)
    expected = {"coordinator": ("CoordinatorDied", "tried again"), "rank": ("RankDied", "ranks rebuilt")}
    assert (fault["error"], fault["action"]) == expected[lost]
    ends = [row for row in read_ledger(run) if row["kind"] == "end"]
    assert len(ends) == SEARCH["trials"]
    assert not psutil.pid_exists(cluster.pid)
