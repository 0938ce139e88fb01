"""Planted secrets never reach a run folder, and other users cannot read a run."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

from support.errors import raises
from support.sweeps import run_spec, write_spec
from sweepft import redact
from sweepft.errors import SpecError
from sweepft.ledger import SweepState
from sweepft.spec import load

pytestmark = pytest.mark.ray

PLANTED = {
    "HF_TOKEN": "hf_" + "plantedQ7xPplantedX9Zk",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "OPENAI_API_KEY": "planted-without-any-shape-of-a-key",
}
ON_THE_LINE = "hf_" + "onTheCommandLine1234"


def everything(folder):
    """Name and bytes of every file below a folder."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path, str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes()


def leaks(folder, secrets) -> list[tuple[str, str]]:
    return [
        (str(path), secret)
        for path, found in everything(folder)
        for secret in secrets
        if secret.encode() in found
    ]


@pytest.fixture
def spec(tiny_model_dir, tiny_data_file, tmp_path):
    return write_spec(
        tmp_path, tiny_model_dir, tiny_data_file,
        search={"trials": 1}, early_stop={"rule": "none"}, resources={"concurrent_trials": 1},
        track={"tensorboard": True},
    )  # fmt: skip


def test_secrets__planted_ones_are_found_nowhere(ray_here, spec, tmp_path, monkeypatch):
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["sweepft", "run", f"--token={ON_THE_LINE}", *PLANTED.values()])
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "logs" / "slot-x-rank0.log").write_text(f"a library says {PLANTED['WANDB_API_KEY']}\n")
    logging.getLogger("sweepft").setLevel(logging.INFO)
    done = run_spec(spec, run)
    logging.getLogger("sweepft.driver").warning("retrying with %s", PLANTED["OPENAI_API_KEY"])
    assert done.status == "finished"
    assert len(list(everything(run))) > 15
    assert leaks(run, [*PLANTED.values(), ON_THE_LINE]) == []
    assert redact.REDACTED in SweepState.load(run).header["command"]
    assert not leaks(tmp_path, [*PLANTED.values(), ON_THE_LINE]), "nor on the screen"
    assert stat.S_IMODE(run.stat().st_mode) == 0o700, "also where the folder was there before"
    assert stat.S_IMODE((run / "ledger").stat().st_mode) == 0o700


def test_secrets__spec_with_one_is_refused_without_showing_it(spec):
    with raises(SpecError, "model.revision") as caught:
        load(spec, [f"model.revision={ON_THE_LINE}"])
    (problem,) = caught.value.problems
    assert problem.value is None
    assert "HF_TOKEN" in problem.remedy
    assert ON_THE_LINE not in str(caught.value)


def listening(process: psutil.Process) -> set[str]:
    """Addresses at which a process and all it started take connections."""
    found = set()
    for member in [process, *process.children(recursive=True)]:
        try:
            found |= {c.laddr.ip for c in member.net_connections("inet") if c.status == psutil.CONN_LISTEN}
        except psutil.NoSuchProcess:
            continue
    return found


def files_below(folder) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()}


@pytest.mark.full
def test_local_run__uses_only_the_loopback_and_its_run_folder(tiny_model_dir, tiny_data_file, tmp_path):
    (tmp_path / "spec").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    spec = write_spec(
        tmp_path / "spec", tiny_model_dir, tiny_data_file,
        train={"budget": {"samples": 2000}}, search={"trials": 1}, early_stop={"rule": "none"},
        resources={"concurrent_trials": 1, "workers_per_trial": 2},
    )  # fmt: skip
    run = tmp_path / "run"
    before = [files_below(folder) for folder in (tiny_model_dir, tiny_data_file.parent, tmp_path / "spec")]
    command = [sys.executable, "-m", "sweepft.cli", "run", str(spec), "--out", str(run)]
    built = os.environ.get("TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache" / "torch_extensions"))
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path / "here",
        env=os.environ | {"HOME": str(tmp_path / "home"), "TORCH_EXTENSIONS_DIR": built},
    )  # fmt: skip
    try:
        process, addresses, trained = psutil.Process(started.pid), set(), False
        while started.poll() is None and not trained:
            addresses |= listening(process)
            trained = any('"kind":"steps"' in line for line in _ledger(run))
            time.sleep(0.1)
        addresses |= listening(process)
        output, _ = started.communicate(timeout=300)
    finally:
        started.kill()
    assert trained, output.decode()[-2000:]
    assert addresses
    assert all(ip_address(a.removeprefix("::ffff:")).is_loopback for a in addresses), addresses
    assert json.loads((run / "report.json").read_text())["status"] == "finished"
    after = [files_below(folder) for folder in (tiny_model_dir, tiny_data_file.parent, tmp_path / "spec")]
    assert after == before, "model, data and spec are only read"
    assert files_below(tmp_path / "here") == set(), "nothing where the command was given"
    assert {Path(name).parts[0] for name in files_below(tmp_path / "home")} <= {
        ".cache",
        ".triton",
        ".ray",
    }, "caches, and Ray's token"
    assert {p.name for p in tmp_path.iterdir()} == {"spec", "here", "home", "run"}


def _ledger(run) -> list[str]:
    file = run / "ledger" / "ledger.jsonl"
    return file.read_text().splitlines() if file.exists() else []
