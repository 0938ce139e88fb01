"""`make gpu-check`: a stage ends at its limit without the others, and every stage works in its CPU form."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def check(monkeypatch):
    """The script as a module; its folder is on the path, as where it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_check

    return gpu_check


def test_run_stage__ends_at_its_limit(check, monkeypatch, tmp_path):
    stage = replace(check.STAGES["imports"], limits={"cpu": 0.2, "gpu": 0.2})
    monkeypatch.setitem(check.STAGES, "imports", stage)
    line = check.run_stage("imports", "cpu", 0, tmp_path, time.monotonic() + 60)
    assert not line["ok"]
    assert "not finished within" in line["error"]
    late = check.run_stage("imports", "cpu", 0, tmp_path, time.monotonic() - 1)
    assert "no time" in late["error"]


@pytest.mark.parametrize(
    ("listed", "shown", "gpus", "said"),
    [
        ("", None, 0, "no GPU is seen"),
        ("NVIDIA H100 80GB HBM3, 81559\nNVIDIA H100 80GB HBM3, 81559", None, 2, "2 rank(s)"),
        ("NVIDIA H100 80GB HBM3, 81559\nNVIDIA H100 80GB HBM3, 81559", "1", 1, "1 rank(s)"),
        ("NVIDIA H100 80GB HBM3, 81559", "", 0, "no GPU is seen"),
        ("NVIDIA L4, 23034", None, 1, "may not fit NVIDIA L4"),
    ],
)
def test_visible_gpus__decide_the_form(check, monkeypatch, tmp_path, listed, shown, gpus, said):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\ncat <<END\n{listed}\nEND\n" if listed else "#!/bin/sh\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    if shown is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    found = check.visible_gpus()
    assert len(found) == gpus
    assert said in check.note("gpu" if found else "cpu", found)


@pytest.mark.full
@pytest.mark.timeout(2700)
def test_gpu_check__every_stage_passes_in_its_cpu_form(tmp_path):
    command = [
        sys.executable,
        str(BENCHMARKS / "gpu_check.py"),
        "--form",
        "cpu",
        "--json",
        str(tmp_path / "found.json"),
    ]
    done = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"')]
    assert done.returncode == 0, lines
    stages = json.loads((tmp_path / "found.json").read_text())["stages"]
    found = {line["stage"]: line for line in stages}
    assert all(line["ok"] for line in stages)
    assert found["qlora"]["peak_gib"] > 0
    assert found["out_of_memory"]["halved"] == ["micro_batch 4 -> 2"]
    assert found["killed_rank_and_exam"]["action"] == "ranks rebuilt"
    assert lines[0]["gpu_check"] == "cpu"
    assert "no figure is one of a GPU" in lines[0]["note"]
