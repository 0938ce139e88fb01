"""A sweep as on clusters: a read-only home, a user id without an account, and a temporary folder with a long path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.namespaces import can_make_namespaces
from support.sweeps import write_spec
from sweepft.ledger import SweepState

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

SCRIPT = """
mount --bind "$HOME" "$HOME" && mount -o remount,ro,bind "$HOME" && mount --bind /dev/null /etc/passwd && exec "$@"
"""
UNSET = ("USER", "LOGNAME", "LNAME", "USERNAME", "HF_HOME", "XDG_CACHE_HOME", "TORCH_EXTENSIONS_DIR")


@pytest.mark.skipif(not can_make_namespaces(), reason="needs root and unshare for a mount namespace")
def test_run__read_only_home_no_account_long_temp_folder(
    tiny_model_dir, tiny_data_file, tmp_path: Path
) -> None:
    spec = write_spec(
        tmp_path,
        tiny_model_dir,
        tiny_data_file,
        search={"trials": 2},
        resources={"concurrent_trials": 1, "workers_per_trial": 2},
    )
    home, temp, run = tmp_path / "home", tmp_path / ("t" * 100), tmp_path / "run"
    home.mkdir()
    temp.mkdir()
    kept = {
        name: value for name, value in os.environ.items() if name not in UNSET and not name.startswith("RAY_")
    }
    sweep = [sys.executable, "-m", "sweepft.cli", "run", spec, "--out", run]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", SCRIPT, "sh", *sweep],
        env=kept | {"HOME": str(home), "TMPDIR": str(temp)},
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    assert "Traceback" not in output
    assert f"TMPDIR={temp}: too long" in output
    assert f"{home} cannot be written: caches go to {run / 'home'}" in output
    view = SweepState.load(run)
    assert [trial.status for trial in view.trials.values()] == ["completed", "completed"]
    assert not view.faults
    assert list((run / "home").rglob("*.so")), "DeepSpeed's op was compiled there"
    assert list(home.iterdir()) == []
