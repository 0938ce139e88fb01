"""Two Ray nodes on one machine: a sweep uses both; a run folder that one node cannot see is refused at the start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.sweeps import write_spec
from sweepft.ledger import SweepState

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

SCRIPT = """
import os, subprocess, sys, time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from sweepft.driver.ray_session import set_environment

spec, out, blind = sys.argv[1:]
set_environment()
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3})
if blind == "no":
    cluster.add_node(num_cpus=2)
else:  # a node that has something else mounted where the run folder lies
    Path(out).mkdir()
    start = [sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())", "start",
             "--address", cluster.address, "--num-cpus=1", "--block"]
    node = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", 'mount -t tmpfs tmpfs "$1" && shift && exec "$@"', "sh", out, *start]
    )
from sweepft.errors import SweepftError
from sweepft.driver.start import start_sweep
from sweepft.spec import load
from rich.console import Console

code = 0
try:
    ray.init(address=cluster.address)
    while len([n for n in ray.nodes() if n["Alive"]]) < 2:
        time.sleep(0.2)
    ray.shutdown()
    done = start_sweep(load(spec), Path(out), address=cluster.address, console=Console(file=sys.stdout))
    print("status", done.status)
except SweepftError as error:
    print("refused:", error)
finally:
    if blind != "no":
        node.terminate()
        node.wait(30)
    cluster.shutdown()
"""


def run_script(spec: Path, out: Path, blind: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(spec), str(out), blind],
        capture_output=True, text=True, timeout=500, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def test_two_nodes__trial_of_two_ranks_runs_across_both(tiny_model_dir, tiny_data_file, tmp_path):
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file,
        search={"trials": 2}, early_stop={"rule": "none"},
        resources={"workers_per_trial": 2, "cpus_per_worker": 2, "concurrent_trials": 1, "placement": "any"},
    )  # fmt: skip
    # Two ranks of two CPUs each fit on neither node alone.
    output = run_script(spec, tmp_path / "run", "no")
    assert "status finished" in output
    view = SweepState.load(tmp_path / "run")
    assert {t.status for t in view.trials.values()} == {"completed"}


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root for a mount of its own"
)
def test_two_nodes__node_local_storage_is_refused_before_the_start(tiny_model_dir, tiny_data_file, tmp_path):
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file, search={"trials": 1}, resources={"concurrent_trials": 1}
    )
    output = run_script(spec, tmp_path / "run", "yes")
    assert "refused:" in output
    assert "1 of 2 nodes of the cluster do not see the run folder" in output
    assert not SweepState.load(tmp_path / "run").trials
