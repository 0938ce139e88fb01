"""Three machines started by hand with a token in HOME, one of which fails every rank: its trials run on the others."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import sweepft
from support.faults import faults
from support.models import faulty_model
from support.namespaces import Machine, Network, can_make_namespaces
from support.sweeps import write_spec
from sweepft.ledger import SweepState

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]

SICK = """
import os, socket
name = socket.gethostname()
if os.environ.get("RANK") == "1":  # the first node with a rank 1 is the sick one
    try:
        os.write(os.open({claim!r}, os.O_CREAT | os.O_EXCL | os.O_WRONLY), name.encode())
    except FileExistsError:
        pass
if os.path.exists({claim!r}) and open({claim!r}).read() == name:
    raise RuntimeError("broken machine")
"""


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What all machines share: a home folder with Ray's token, and nothing else about a token."""
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    (home / ".ray" / "auth_token").chmod(0o600)
    (home / ".cache").symlink_to(Path.home() / ".cache")  # what is compiled already
    folder = tempfile.mkdtemp(prefix="rs-", dir="/tmp")  # short: sockets lie in it
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = os.pathsep.join([str(Path(sweepft.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    more = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_TMPDIR": folder}
    yield kept | more | {"HOME": str(home), "PYTHONPATH": path}
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def ray_by_hand(machines: list[Machine], environment: dict[str, str]) -> Iterator[str]:
    """``ray start`` on each machine with one CPU, as deploy/slurm.sbatch does; yields the address."""
    ray = [
        sys.executable,
        "-c",
        "import sys; from ray.scripts.scripts import main; sys.exit(main())",
        "start",
    ]
    ports = ["--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={150 * 2**20}", "--block"]
    address = f"{machines[0].address}:6379"
    started = []
    try:
        for number, machine in enumerate(machines, start=1):
            where = (
                ["--head", "--port=6379", "--include-dashboard=false"]
                if number == 1
                else [f"--address={address}"]
            )
            command = [
                *machine.prefix,
                *ray,
                *where,
                f"--node-ip-address={machine.address}",
                "--num-cpus=1",
                *ports,
            ]
            started.append(
                psutil.Popen(
                    command, env=environment | {"RAY_AUTH_MODE": "token"},
                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                )
            )  # fmt: skip
            wait = [sys.executable, "-m", "sweepft.driver.wait_for_nodes", address, str(number)]
            done = subprocess.run(
                [*machines[0].prefix, *wait], env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout + done.stderr
        yield address
    finally:
        for process in reversed(started):
            for one in (process, *process.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
            process.wait()


@pytest.mark.skipif(not can_make_namespaces(), reason="needs root, ip and unshare for network namespaces")
def test_sick_node__trials_run_on_the_others(environment, tiny_model_dir, tiny_data_file, tmp_path):
    claim = tmp_path / "sick"
    code = tmp_path / "sick.py"
    code.write_text(SICK.format(claim=str(claim)))
    model = faulty_model(tiny_model_dir, tmp_path / "model", f"exec(open({str(code)!r}).read())")
    spec = write_spec(
        tmp_path, model, tiny_data_file, model={"trust_remote_code": True}, early_stop={"rule": "none"},
        train={"budget": {"samples": 32}, "micro_batch": 4, "precision": "fp32", "batch_size": 8},
        search={
            "trials": 4,
            "start_with": [{"learning_rate": 3.0e-3}],
            "space": {"learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]}},
        },
        resources={"workers_per_trial": 2, "cpus_per_worker": 1, "concurrent_trials": 1, "placement": "any"},
    )  # fmt: skip
    run = tmp_path / "run"
    with Network() as network:
        machines = [network.add() for _ in range(3)]
        with ray_by_hand(machines, environment) as address:
            command = [
                sys.executable,
                "-m",
                "sweepft",
                "run",
                str(spec),
                "--out",
                str(run),
                "--address",
                address,
            ]
            done = subprocess.run(
                [*machines[0].prefix, *command], env=environment, capture_output=True, text=True, check=False,
                timeout=800,
            )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    view, sick = SweepState.load(run), claim.read_text()
    assert {t.status for t in view.trials.values()} == {"completed"}
    for trial in view.trials.values():
        for attempt in trial.attempts:
            assert len(attempt.nodes) == 2
            assert sick not in attempt.nodes
    (row,) = json.loads((run / "report.json").read_text())["nodes"]
    assert row["node"].startswith(f"{sick} (10.77.0.")
    assert "broken machine" in row["reason"]
    assert row["kept_out"] == (len(row["trials"]) > 1)
    assert f"**Node {sick}" in (run / "report.md").read_text()
    assert all(fault["node"] == row["node"] for fault in faults(run) if fault["error"] == "EnvironmentFault")
    if row["kept_out"]:
        assert "node kept out: " in said
