"""TensorBoard's files hold every step and evaluation, as its own format has them, and torch is not loaded for them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from support.sweeps import write_spec
from support.tracked_run import TrackedRun
from sweepft.cli.main import cli
from sweepft.errors import SpecError
from sweepft.replay.sources import Scalar, read_scalars
from sweepft.trackers.feed import track_run


def tracked(tmp_path: Path) -> TrackedRun:
    return TrackedRun(tmp_path, {"tensorboard": True})


def scalars(run_dir: Path, trial: str = "t000") -> list[Scalar]:
    files = sorted((run_dir / "tensorboard" / trial).iterdir(), key=lambda f: int(f.name.rpartition(".")[2]))
    return [s for file in files for s in read_scalars(file)]


def test_event_files__every_step_and_evaluation_once(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    run.trial()
    row = run.result(objective=2.25, loss=math.nan)
    run.end(objective=2.25)
    run.finish()
    assert track_run(tmp_path) == {"tensorboard": None}
    found = scalars(tmp_path)
    assert [(s.tag, s.step) for s in found] == [
        ("train/loss", 8), ("train/grad_norm", 8), ("train/lr", 8),
        ("train/loss", 16), ("train/grad_norm", 16), ("train/lr", 16),
        ("validation/own", 16), ("validation/general", 16), ("validation/objective", 16),
    ]  # fmt: skip
    values = [s.value for s in found]
    assert math.isnan(values[0])
    assert values[1:3] == [1.0, pytest.approx(1e-3)]
    assert values[4] == math.inf
    assert values[6:] == [2.25, 4.0, 2.25]
    assert found[3].wall_time == pytest.approx(row["time"])
    assert found[0].wall_time == pytest.approx(row["time"] - 0.5), "the second step took half a second"


def test_event_files__params_metric_and_decisions(tmp_path: Path) -> None:
    """HPARAMS reads the first two."""
    run = tracked(tmp_path)
    run.trial()
    run.result(objective=2.25)
    run.decision("audit", reason="p_top 0.01 < 0.05 <script>")
    run.end(objective=2.25)
    track_run(tmp_path)
    (file,) = (tmp_path / "tensorboard/t000").iterdir()
    content = file.read_bytes()
    for part in (
        b"_hparams_/session_start_info",
        b"optimizer.eps",
        b"learning_rate",
        b"audit by calibrated: p_top",
    ):
        assert part in content


def test_event_files__new_file_after_a_restart(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    run.trial()
    run.result()
    track_run(tmp_path)
    run.result()
    run.decision("pause")
    run.start(attempt=2)
    run.result()
    run.end()
    track_run(tmp_path)
    assert [s.step for s in scalars(tmp_path) if s.tag == "train/loss"] == [8, 16, 24, 32, 40, 48]
    assert len(list((tmp_path / "tensorboard/t000").iterdir())) == 3


def test_event_files__value_beyond_32_bits_is_infinite(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    run.trial()
    run.result(loss=-1e300)
    track_run(tmp_path)
    assert scalars(tmp_path)[0].value == -math.inf


def test_event_files__a_file_in_the_way_ends_only_the_tracking(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    run.trial()
    run.result()
    (tmp_path / "tensorboard").write_text("in the way")
    (failure,) = track_run(tmp_path).values()
    assert failure is not None
    assert "tensorboard" in failure


def test_event_files__torch_is_not_imported(tmp_path: Path) -> None:
    run = tracked(tmp_path)
    run.trial()
    run.result()
    run.end()
    code = (
        "import pathlib, sys; from sweepft.trackers.feed import track_run;"
        "print(track_run(pathlib.Path(sys.argv[1])), 'torch' in sys.modules, 'ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "{'tensorboard': None} False False"
    assert len(scalars(tmp_path)) == 6


def test_track_command__tracker_from_the_command_line(
    tmp_path: Path, tiny_model_dir: Path, tiny_data_file: Path
) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result()
    run.end()
    write_spec(tmp_path, tiny_model_dir, tiny_data_file).rename(tmp_path / "spec.yaml")
    call = CliRunner().invoke
    none = call(cli, ["track", str(tmp_path)])
    assert isinstance(none.exception, SpecError)
    assert "track: names no tracker" in str(none.exception)
    done = call(cli, ["track", str(tmp_path), "--set", "track.tensorboard=true"])
    assert (done.exit_code, done.output) == (0, "tensorboard: up to date\n")
    assert len(scalars(tmp_path)) == 6
    (tmp_path / "tensorboard/t001").write_text("in the way")
    run.trial("t001")
    run.result("t001")
    failed = call(cli, ["track", str(tmp_path), "--set", "track.tensorboard=true"])
    assert failed.exit_code == 1
    assert "tensorboard: " in failed.output
