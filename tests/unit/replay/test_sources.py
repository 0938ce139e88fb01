"""What people keep their curves in: each kind of source, read as it is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from curve_files import with_nan
from synthetic_studies import make_study

from support.errors import raises
from sweepft.cli.replay import replay as replay_command
from sweepft.early_stopping import EarlyStopper, make_report, make_rule
from sweepft.early_stopping.audit import audit_rate
from sweepft.errors import ReplayError
from sweepft.ledger import Ledger
from sweepft.replay.curves import Study
from sweepft.replay.sources import read_source

CURVES = Path(__file__).resolve().parents[4] / "shared" / "curves"


def table(study: Study) -> pd.DataFrame:
    parts = []
    for run in study.runs:
        part = {"run_id": run.run_id, "step": run.step, "train_loss": run.loss, "grad_norm": run.grad_norm}
        part |= {"eval_metric": run.metric, "lr": run.params["learning_rate"], "study": study.name}
        parts.append(pd.DataFrame(part))
    return pd.concat(parts)


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(replay_command, [str(a) for a in args])


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_read_source__table(tmp_path: Path, suffix: str) -> None:
    study = make_study(runs=5, bad=True)
    path = tmp_path / f"runs{suffix}"
    frame = table(study)
    frame.to_csv(path, index=False, na_rep="nan") if suffix == ".csv" else with_nan(frame, path)
    (read,) = read_source(path)
    assert (read.name, read.mode, read.budget, len(read.runs)) == ("made-up", "min", 100.0, 5)
    for ours, theirs in zip(study.runs, read.runs, strict=True):
        np.testing.assert_allclose(ours.loss, theirs.loss)
        np.testing.assert_allclose(ours.metric, theirs.metric)
        assert theirs.params["learning_rate"] == pytest.approx(ours.params["learning_rate"])
        assert theirs.final == pytest.approx(ours.final, nan_ok=True)
        assert theirs.bad_row == ours.bad_row


def test_read_source__hyperparameters_in_a_column_of_json(tmp_path: Path) -> None:
    frame = table(make_study(runs=3))
    frame["other_hps"] = ['{"dropout": 0.1, "beta": [0.9, 0.95]}'] * (len(frame) - 1) + ["{no json"]
    frame.to_parquet(tmp_path / "runs.parquet")
    (read,) = read_source(tmp_path / "runs.parquet")
    assert read.runs[0].params["other_hps"] == {"dropout": 0.1, "beta": [0.9, 0.95]}
    frame["other_hps"] = "{no json"
    frame.to_parquet(tmp_path / "runs.parquet")
    (read,) = read_source(tmp_path / "runs.parquet")
    assert read.runs[0].params["other_hps"] == "{no json"


def test_read_source__maps_columns_and_refuses_unknown_ones(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    table(make_study(runs=3)).rename(columns={"eval_metric": "acc", "run_id": "who"}).to_csv(
        path, index=False
    )
    with raises(ReplayError, "replay.column"):
        read_source(path)
    (study,) = read_source(path, columns={"metric": "acc", "run": "who"}, mode="max", budget=102)
    assert (study.mode, study.budget) == ("max", 102)
    with raises(ReplayError, "replay.column"):
        read_source(path, columns={"metric": "nope", "run": "who"})


def test_read_source__budget_is_the_longest_run_of_the_study(tmp_path: Path) -> None:
    frame = table(make_study(runs=3))
    frame = frame[(frame.run_id != "r0") | (frame.step <= 30)]
    path = tmp_path / "runs.csv"
    frame.to_csv(path, index=False)
    (study,) = read_source(path)
    assert study.budget == 100.0
    assert [r.run_id for r in study.runs] == ["r1", "r2"]
    (study,) = read_source(path, cut_runs=True)
    assert study.budget == 100.0
    assert study.runs[0].progress[-1] == 30.0


def test_read_source__newest_trainer_state(tmp_path: Path) -> None:
    for i, run in enumerate(make_study(runs=4).runs):
        history: list[dict[str, float]] = []
        for step, loss, metric in zip(run.step, run.loss, run.metric, strict=True):
            history.append({"step": int(step), "loss": loss, "grad_norm": 1.0, "learning_rate": 1e-5})
            history.append({"step": int(step), "eval_loss": metric, "eval_runtime": 1.0})
        for cut in (40, 80):
            folder = tmp_path / f"run{i}" / f"checkpoint-{cut}"
            folder.mkdir(parents=True)
            state = {"global_step": cut, "log_history": history[:cut], "train_batch_size": 8}
            (folder / "trainer_state.json").write_text(json.dumps(state))
    (study,) = read_source(tmp_path)
    assert [r.run_id for r in study.runs] == ["run0", "run1", "run2", "run3"]
    assert all(
        len(r.step) == 40 and np.isfinite(r.metric).all() and np.isfinite(r.loss).all() for r in study.runs
    )
    assert study.runs[0].params == {"batch_size": 8, "learning_rate": 1e-5}  # it did not change


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_read_source__tensorboard_events(tmp_path: Path) -> None:
    writer_of = pytest.importorskip("tensorboardX", reason="tensorboardX writes the files this test reads")
    study = make_study(runs=3)
    for run in study.runs:
        writer = writer_of.SummaryWriter(str(tmp_path / run.run_id))
        for step, loss, metric in zip(run.step, run.loss, run.metric, strict=True):
            writer.add_scalar("train/loss", loss, int(step), walltime=1e9 + step)
            writer.add_scalar("eval/loss", metric, int(step), walltime=1e9 + step)
            writer.add_scalar("other", 1.0, int(step))
        writer.close()
    (read,) = read_source(tmp_path)
    for ours, theirs in zip(study.runs, read.runs, strict=True):
        np.testing.assert_allclose(theirs.loss[-5:], ours.loss[-5:], rtol=1e-6)
        np.testing.assert_allclose(theirs.metric[-5:], ours.metric[-5:], rtol=1e-6)
    torn = next((tmp_path / "r0").glob("*tfevents*"))
    torn.write_bytes(torn.read_bytes()[:-7])
    assert len(read_source(tmp_path)[0].runs) == 3


def test_read_source__refuses_what_cannot_be_read(tmp_path: Path) -> None:
    with raises(ReplayError, "replay.no_curves"):
        read_source(tmp_path)
    (tmp_path / "trainer_state.json").write_text("{")
    with raises(ReplayError, "replay.unreadable"):
        read_source(tmp_path)
    (tmp_path / "bad.parquet").write_bytes(b"nope")
    with raises(ReplayError, "replay.unreadable"):
        read_source(tmp_path / "bad.parquet")


def write_run(folder: Path, study: Study, rule: str = "median") -> list[tuple[str, int, str]]:
    """A run folder as a live sweep of one slot would leave it; returns its decisions."""
    audit = audit_rate(rule, None)
    early_stopper = EarlyStopper(
        rule=make_rule(rule, audit=audit),
        rungs=(0.1, 0.5),
        budget=100,
        mode="min",
        min_steps=2,
        audit=audit,
    )
    decided = []
    with Ledger.create(folder) as ledger:
        spec = {"early_stop": {"rule": rule, "rungs": [0.1, 0.5], "min_steps": 2, "min_peers": 3}}
        sweep = {"sweepft_version": "0", "name": "x", "spec": spec, "spec_digest": ""}
        sweep |= {"seed": 0, "budget_samples": 100, "data": {}, "versions": {}, "hardware": {}}
        ledger.append("sweep", **sweep, git_commit=None, command=[])
        for number, run in enumerate(study.runs):
            name, stopped = f"t{number:03d}", False
            early_stopper.add(name, run.params)
            ledger.append(
                "trial", trial_id=name, number=number, params=run.params, train_config={}, origin="sampler",
                planned_steps=40, warmup_steps=0, study_number=number,
            )  # fmt: skip
            for start, stop in ((0, 4), (4, 20), (20, 40)):
                rows = slice(start, stop)
                history = {
                    "step": list(range(start + 1, stop + 1)), "samples_seen": run.progress[rows].tolist(),
                    "tokens_seen": run.progress[rows].tolist(), "loss": run.loss[rows].tolist(),
                    "grad_norm": run.grad_norm[rows].tolist(), "lr": [0.1] * (stop - start),
                    "seconds": [1.0] * (stop - start),
                }  # fmt: skip
                ledger.append(
                    "steps", trial_id=name, attempt=1, history=history, data_order="d",
                    blocks={"index": [], "loss": [], "tokens": []}, phase_seconds={"train": 1.0},
                )  # fmt: skip
                objective, final = float(run.metric[stop - 1]), stop == 40
                ledger.append(
                    "eval", trial_id=name, attempt=1, step=stop, samples_seen=history["samples_seen"][-1],
                    rung=None if final else history["samples_seen"][-1] / 100, final=final, objective=objective,
                    sets={}, seconds=0.1,
                )  # fmt: skip
                report = make_report(
                    step=history["step"], progress=history["samples_seen"], loss=history["loss"],
                    grad_norm=history["grad_norm"], metric=objective, data_order="d",
                )  # fmt: skip
                decisions = (
                    early_stopper.complete(name, report) if final else early_stopper.report(name, report)
                )
                for decision in decisions:
                    ledger.append("decision", **decision.to_row())
                    decided.append((decision.trial_id, decision.step, decision.action))
                ledger.append("cost", trial_id=name, slot=0, phase="train", seconds=1.0, gpus=0.0)
                stopped = bool(decisions) and decisions[-1].ends_trial
                if stopped:
                    break
            ledger.append(
                "end", trial_id=name, attempt=1, status="stopped" if stopped else "completed", reason="",
                objective=None if stopped else run.final, step=stop, samples_seen=int(run.progress[stop - 1]),
                tokens_seen=0,
            )  # fmt: skip
    return decided


@pytest.mark.parametrize("rule", ["median", "recipe", "asha", "calibrated"])
def test_live_decisions__are_those_of_the_live_sweep(tmp_path: Path, rule: str) -> None:
    decided = write_run(tmp_path / "run", make_study(runs=12, seed=3), rule)
    assert {"stop", "continue"} <= {action for _, _, action in decided}
    result = invoke(tmp_path / "run", "--live")
    assert result.exit_code == 0, result.output
    assert f"{len(decided)} live decisions, all equal" in result.output
    (study,) = read_source(tmp_path / "run")
    stopped = {name for name, _, action in decided if action == "stop"}
    assert {r.run_id for r in study.runs} == {f"t{i:03d}" for i in range(12)} - stopped
    assert study.budget == 100
    assert study.left_out == len(stopped)
    assert (
        f"{len(stopped)} left out ({len(stopped)} stopped)" in invoke(tmp_path / "run", "--orders", 1).output
    )
    cut = read_source(tmp_path / "run", cut_runs=True)[0]
    assert (len(cut.runs), cut.left_out) == (12, 0)
    assert all(math.isfinite(r.final) for r in cut.runs)
    for wrong in ({"columns": {"metric": "x"}}, {"mode": "max"}):
        with pytest.raises(ReplayError):
            read_source(tmp_path / "run", **wrong)  # type: ignore[arg-type]


def test_replay_command__prints_and_writes(tmp_path: Path) -> None:
    source, rows, page = tmp_path / "runs.csv", tmp_path / "rows.json", tmp_path / "plot.html"
    table(make_study(runs=14, seed=1)).to_csv(source, index=False)
    options = (
        "--rule",
        "median",
        "--rule",
        "calibrated",
        "--orders",
        2,
        "--json",
        rows,
        "--plot",
        page,
        "--stops",
    )
    result = invoke(source, *options)
    assert result.exit_code == 0, result.output
    assert "calibrated" in result.output
    assert "; final " in result.output
    written = json.loads(rows.read_text())
    assert [r["rule"] for r in written] == ["median", "calibrated"]
    needed = {"source", "study", "rule", "saved", "best_kept", "false_stop", "regret", "orders"}
    assert needed <= set(written[0])
    assert all(0 <= r["saved"] < 1 and not math.isnan(r["regret"]) for r in written)
    assert "<html>" in page.read_text()[:200]


def test_replay_command__calibrates_and_uses_the_calibration(tmp_path: Path) -> None:
    frames = [table(make_study(runs=10, seed=s, points=20, name=f"s{s}")) for s in range(10)]
    source, history = tmp_path / "runs.parquet", tmp_path / "history.json"
    pd.concat(frames).to_parquet(source)
    result = invoke(source, "--calibrate", history, "--max-false-stop-rate", "0.2")
    assert result.exit_code == 0, result.output
    assert json.loads(history.read_text())["sweeps"] == 10
    args = (
        "--prior-sweep",
        history,
        "--rule",
        "calibrated",
        "--orders",
        1,
        "--max-false-stop-rate",
        "0.2",
        "--stops",
    )
    result = invoke(source, *args)
    assert result.exit_code == 0, result.output
    few = invoke(source, "--calibrate", history, "--max-false-stop-rate", "0.05")
    assert isinstance(few.exception, ReplayError)
    assert "at least 19 are needed" in str(few.exception)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--rule", "tea"), "one of none"),
        (("--rungs", "x"), "fractions of the budget"),
        (("--column", "a"), "OURS="),
    ],
)
def test_replay_command__refuses_wrong_options(tmp_path: Path, args: tuple[str, ...], words: str) -> None:
    source = tmp_path / "runs.csv"
    source.write_text("run_id,step,eval_metric\n")
    result = invoke(source, *args)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.skipif(not CURVES.is_dir(), reason="the public curves are not at ../shared/curves")
@pytest.mark.parametrize(("name", "studies", "runs"), [("peft_sft", 4, 130), ("algoperf", 52, 1132)])
def test_read_source__public_curves(name: str, studies: int, runs: int) -> None:
    read = read_source(CURVES / f"{name}.parquet")
    assert (len(read), sum(len(s.runs) for s in read)) == (studies, runs)
    for study in read:
        assert all(r.progress[-1] <= study.budget for r in study.runs)
        assert {s.mode for s in read} <= {"min", "max"}
