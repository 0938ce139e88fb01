"""A sweep as a Ray Job survives the loss of its client and of a node; job commands work from the note file."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sweepft
from support.cluster import LocalCluster
from support.faults import COORDINATOR, RANK, faults, processes, rows_of, story
from support.sweeps import write_spec
from sweepft.ledger import SweepState

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        importlib.util.find_spec("opencensus") is None,
        reason="ray[default] (sweepft[cluster]) is not installed",
    ),
]

ACROSS_NODES = {"workers_per_trial": 2, "cpus_per_worker": 0.9, "concurrent_trials": 1, "placement": "any"}
"""A node of one CPU holds one rank, and the coordinator beside it."""


@pytest.fixture(scope="module")
def cluster():
    """Three nodes and a head that takes jobs; each has a token in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", "hf_" + "x" * 20)
        with LocalCluster(workers=3, jobs=True) as cluster:
            yield cluster


def command(cluster: LocalCluster, folder: Path, *words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "sweepft.cli", *words], cwd=folder, text=True,
        env=cluster.env | {"PYTHONPATH": str(Path(sweepft.__file__).parents[1])},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def said(cluster: LocalCluster, folder: Path, *words: str, code: int | None = 0) -> str:
    process = command(cluster, folder, *words)
    output, _ = process.communicate(timeout=300)
    assert code is None or process.returncode == code, output[-4000:]
    return output


def submitted(cluster: LocalCluster, folder: Path, spec: Path, run: Path, *, ended: int) -> Path:
    """The note of a sweep whose client was killed when so many of its trials had ended."""
    client = command(cluster, folder, "run", str(spec), "--out", str(run), "--address", cluster.jobs)
    try:
        wait_until(
            lambda: rows_of(run, "end") >= ended or client.poll() is not None, "no trial has ended", 600
        )
        if client.poll() is not None:
            raise AssertionError(client.communicate()[0][-4000:])
    finally:
        client.send_signal(signal.SIGKILL)
        client.communicate()
    (note,) = (folder / "runs").iterdir()
    return note


def wait_until(condition, what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def test_ray_job__outlives_its_client_is_stopped_and_resumed(
    cluster, tiny_model_dir, tiny_data_file, tmp_path
):
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, resources=ACROSS_NODES,
        train={"budget": {"samples": 1600}}, search={"trials": 200}, early_stop={"rule": "none"},
    )  # fmt: skip
    run = tmp_path / "shared" / "run"

    def pinned() -> bool:
        """A trial that has ended meanwhile cannot be pinned."""
        last = max(SweepState.load(run).trials)
        process = command(cluster, tmp_path, "pin", str(note), last)
        process.communicate(timeout=300)
        return process.returncode == 0

    note = submitted(cluster, tmp_path, spec, run, ended=1)

    status = json.loads(said(cluster, tmp_path, "status", str(note), "--json"))
    assert status["status"] == "running"
    assert status["sweep"]["status"] == "running"
    wait_until(pinned, "no trial was pinned")
    said(cluster, tmp_path, "stop", str(note))
    log = said(cluster, tmp_path, "logs", str(note), code=None)
    assert "trial completed: trial=t000" in log
    view = SweepState.load(run)
    assert view.status == "interrupted", f"the driver had not the time to end its ledger: {log[-4000:]}"

    started = len(view.trials)
    output = said(cluster, tmp_path, "resume", str(note), "--set", f"search.trials={started}")
    assert "resuming tiny" in output
    view = SweepState.load(run)
    assert view.status == "finished"
    assert {t.status for t in view.trials.values()} == {"completed"}
    assert len(view.trials) == started
    metadata = "".join(p.read_text() for p in (tmp_path / "runs").rglob("job.json"))
    assert "hf_" not in metadata


def test_ray_job__across_three_nodes_outlives_client_and_a_node(
    cluster, tiny_model_dir, tiny_data_file, tmp_path
):
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, resources=ACROSS_NODES, checkpoint="rungs",
        train={"budget": {"samples": 192}}, search={"trials": 4},
    )  # fmt: skip
    run = tmp_path / "run"
    note = submitted(cluster, tmp_path, spec, run, ended=1)
    used = [node for node in range(3) if processes(RANK, cluster.raylet(node))]
    assert len(used) == 2, "a trial's two ranks are on two nodes"
    assert rows_of(run, "finish") == 0
    cluster.kill(used[-1])
    assert "winner:" in said(cluster, tmp_path, "logs", str(note))

    view = SweepState.load(run)
    assert view.status == "finished"
    (fault,) = faults(run)
    assert (fault["error"], fault["action"]) in {
        ("CoordinatorDied", "tried again"), ("RankDied", "ranks rebuilt"),
    }  # fmt: skip
    said(cluster, tmp_path, "run", str(spec), "--out", str(tmp_path / "calm"))
    assert story(view) == story(tmp_path / "calm"), "same trials, same numbers, same decisions"
    assert cluster.placements() == 0
    assert not [*processes(RANK, cluster.pid), *processes(COORDINATOR, cluster.pid)]
