"""A sweep as a Ray Job: it outlives its client, and can be asked after, followed and stopped from its note."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sweepft
from support.sweeps import write_spec
from sweepft.recorder import RunView

pytestmark = [
    pytest.mark.full,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        importlib.util.find_spec("opencensus") is None,
        reason="ray[default] (sweepft[cluster]) is not installed",
    ),
]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A head of its own with a job server; ended by its process, never by `ray stop`."""
    port, gcs = free_port(), free_port()
    folder = tmp_path_factory.mktemp("head")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # The code comes with the job: the cluster's own path does not know it.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {
        "PATH": path, "RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "HF_TOKEN": "hf_" + "x" * 20,
        "RAY_AUTH_MODE": "disabled",
    }  # fmt: skip
    command = [
        sys.executable, "-c", "import sys; from ray.scripts.scripts import main; sys.exit(main())",
        "start", "--head", "--block", "--num-cpus=4", f"--port={gcs}", "--include-dashboard=true",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={port}", f"--temp-dir=/tmp/rj{os.getpid()}",
        f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0",
    ]  # fmt: skip
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            assert process.poll() is None, (folder / "head.log").read_text()[-3000:]
            assert time.monotonic() < deadline, "the job server did not come up"
            time.sleep(0.5)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def answers(port: int) -> bool:
    with socket.socket() as s:
        s.settimeout(0.5)
        return s.connect_ex(("127.0.0.1", port)) == 0


def command(folder: Path, *words: str, **options) -> subprocess.Popen:
    environment = os.environ | {
        "PYTHONPATH": str(Path(sweepft.__file__).parents[1]),
        "RAY_AUTH_MODE": "disabled",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "sweepft.cli", *words],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def said(folder: Path, *words: str, code: int | None = 0) -> str:
    process = command(folder, *words)
    output, _ = process.communicate(timeout=300)
    assert code is None or process.returncode == code, output[-4000:]
    return output


def wait_until(condition, what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.3)


def ended(run: Path) -> int:
    """Trials that have ended, as far as the ledger says."""
    ledger = run / "ledger" / "ledger.jsonl"
    return ledger.read_text().count('"kind":"end"') if ledger.exists() else 0


def test_a_sweep_outlives_its_client_is_stopped_and_resumed(head, tiny_model_dir, tiny_data_file, tmp_path):
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file,
        train={"budget": {"samples": 1600}}, search={"trials": 4}, early_stop={"rule": "none"},
        resources={"concurrent_trials": 1},
    )  # fmt: skip
    run = tmp_path / "shared" / "run"
    client = command(tmp_path, "run", str(spec), "--out", str(run), "--address", head)
    wait_until(lambda: ended(run) or client.poll() is not None, "no trial has ended", seconds=600)
    if client.poll() is not None:
        raise AssertionError(client.communicate()[0][-4000:])
    client.send_signal(signal.SIGKILL)
    client.communicate()
    (note,) = (tmp_path / "runs").iterdir()

    status = json.loads(said(tmp_path, "status", str(note), "--json"))
    assert status["status"] == "running"
    assert status["sweep"]["status"] == "running"
    said(tmp_path, "pin", str(note), max(RunView.load(run).trials))
    said(tmp_path, "stop", str(note))
    assert "trial completed: trial=t000" in said(tmp_path, "logs", str(note), code=None)
    view = RunView.load(run)
    assert view.status == "interrupted", "the driver had the time to end its trials and its ledger"

    output = said(tmp_path, "resume", str(note))
    assert "resuming tiny" in output
    view = RunView.load(run)
    assert view.status == "finished"
    assert {t.status for t in view.trials.values()} == {"completed"}
    assert len(view.trials) == 4
    metadata = "".join(p.read_text() for p in (tmp_path / "runs").rglob("job.json"))
    assert "hf_" not in metadata
