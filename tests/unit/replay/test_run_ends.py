"""How a run ended: what counts as diverged, as cut short, as unknown, and what is scored at all."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import curve_files
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from curve_files import EVALUATED, RATES, STEPS, Rows, long_rows, write_csv
from synthetic_studies import make_study

from support.errors import raises
from sweepft.cli.replay import replay as replay_command
from sweepft.early_stopping import EarlyStopper, make_rule
from sweepft.errors import ReplayError
from sweepft.replay.calibrate import calibrate
from sweepft.replay.clock import replay_study
from sweepft.replay.curves import Run, Study
from sweepft.replay.policies import EarlyStopperPolicy
from sweepft.replay.runner import Replay, make_policy, replay_all
from sweepft.replay.score import repeat_noise
from sweepft.replay.sources import read_source

NAN = math.nan
LAST = STEPS[-1]


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(replay_command, [str(a) for a in args])


def summary_rows(**summary: Any) -> Rows:
    """A row after the end of each run, as the Trainer, W&B and MLflow write one."""
    rows: Rows = []
    for number in range(len(RATES)):
        rows += [row for row in long_rows() if row["run_id"] == curve_files.name(number)]
        rows.append({"run_id": curve_files.name(number), "step": LAST + 5, "train_runtime": 12.5, **summary})
    return rows


def every_step(missing: Any) -> Rows:
    """Evaluations each 20 of 105 steps, other columns at each step."""
    rows = long_rows() + [
        {"run_id": curve_files.name(r), "step": LAST + 5, "lr_now": 0.1, "train_loss": 1.0} for r in range(6)
    ]
    rows.sort(key=lambda row: (row["run_id"], row["step"]))
    return [
        {**row, "eval_loss": row.get("eval_loss") if row.get("eval_loss") is not None else missing}
        for row in rows
    ]


UNHARMED = {
    "a summary row": summary_rows(),
    "a summary row of nan": [
        {"train_runtime": NAN, **{k: NAN if v is None else v for k, v in row.items()}}
        for row in summary_rows(train_loss=NAN, eval_loss=NAN)
    ],
    "a summary row at the last step": [{**row, "step": min(LAST, row["step"])} for row in summary_rows()],
    "rows of the learning rate alone": long_rows() + [{"run_id": curve_files.name(r), "step": LAST + s, "lr_now": 0.1} for r in range(6) for s in (1, 2, 3)],
    "evaluations each 20 of 105 steps, else empty": every_step(None),
    "evaluations each 20 of 105 steps, else nan": every_step(NAN),
    "nan before the first evaluation": [{**row, "eval_loss": NAN if row["step"] < 20 else row["eval_loss"]} for row in long_rows()],
    "inf before the first evaluation": [{**row, "eval_loss": math.inf if row["step"] < 20 else row["eval_loss"]} for row in long_rows()],
    "one nan that training recovered from": [{**row, "train_loss": NAN if row["step"] == 50 else row["train_loss"]} for row in long_rows()],
    "words in cells": [{**row, "eval_loss": "n/a" if row["eval_loss"] is None else row["eval_loss"]} for row in long_rows()],
}  # fmt: skip


@pytest.mark.parametrize("case", UNHARMED)
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_read_source__what_was_not_logged_is_no_divergence(tmp_path: Path, case: str, suffix: str) -> None:
    rows = UNHARMED[case]
    path = tmp_path / f"runs{suffix}"
    if suffix == ".csv":
        write_csv(path, rows)
    else:
        path.write_text(
            "\n".join(json.dumps({k: v for k, v in row.items() if v is not None}) for row in rows)
        )
    curves = read_source(path)
    assert [run.bad_row for run in curves[0].runs] == [None] * len(RATES)
    assert all(math.isfinite(run.final) for run in curves[0].runs)
    assert "6 ended, 0 diverged, 0 left out" in curves.describe()


def diverging(value: float, column: str = "train_loss", at: int = 55) -> Rows:
    """Run 0 is not finite from a step on."""
    rows = long_rows()
    for row in rows:
        if row["run_id"] == curve_files.name(0) and row["step"] >= at:
            row |= {column: value, "eval_loss": value if row["eval_loss"] is not None else None}
    return rows


@pytest.mark.parametrize("value", [NAN, math.inf])
@pytest.mark.parametrize("at", [5, 55, LAST])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_read_source__a_loss_that_is_not_finite_to_the_end_is_divergence(
    tmp_path: Path, value: float, at: int, suffix: str
) -> None:
    path, rows = tmp_path / f"runs{suffix}", diverging(value, at=at)
    if suffix == ".jsonl":
        path.write_text(
            "\n".join(json.dumps({k: v for k, v in row.items() if v is not None}) for row in rows)
        )
    else:
        write_csv(path, rows, sep="\t" if suffix == ".tsv" else ",")
    curves = read_source(path)
    worst = curves[0].runs[0]
    assert math.isnan(worst.final)
    assert worst.step[worst.bad_row] == at
    assert "5 ended, 1 diverged, 0 left out" in curves.describe()


def test_read_source__nan_in_parquet_is_divergence_and_null_is_not(tmp_path: Path) -> None:
    frame = pd.DataFrame(diverging(NAN))
    curve_files.with_nan(frame.astype({"eval_loss": float}), tmp_path / "nan.parquet")
    assert read_source(tmp_path / "nan.parquet")[0].runs[0].bad_row is not None
    frame.to_parquet(tmp_path / "null.parquet")  # pandas writes NaN as null
    null = read_source(tmp_path / "null.parquet")
    assert (len(null[0].runs), dict(null.omitted)) == (5, {"cut short below 95% of the budget": 1})


@pytest.mark.parametrize("at", [20, 60])
@pytest.mark.parametrize("kind", ["trainer_states", "ray_json", "lightning_csv", "mlflow_folder"])
def test_read_source__divergence_in_every_kind(tmp_path: Path, kind: str, at: int, monkeypatch: Any) -> None:
    true_loss = curve_files.loss
    monkeypatch.setattr(
        curve_files, "loss", lambda run, step: NAN if run == 1 and step >= at else true_loss(run, step)
    )
    (study,) = read_source(curve_files.KINDS[kind](tmp_path))
    assert [math.isnan(run.final) for run in study.runs] == [False, True, False, False, False, False]


# ----- cut short -------------------------------------------------------------------------------------------


def cut(rows: Rows, runs: int, at: int) -> Rows:
    """The first runs cut at a step."""
    return [row for row in rows if row["step"] <= at or int(row["run_id"].split("-")[1]) >= runs]


def test_read_source__leaves_out_runs_cut_short(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "runs.csv", cut(long_rows(), 2, 30))
    curves = read_source(path)
    assert [run.run_id for run in curves[0].runs] == ["run-2", "run-3", "run-4", "run-5"]
    assert "2 left out (2 cut short below 95% of the budget)" in curves.describe()
    kept = read_source(path, cut_runs=True)
    assert len(kept[0].runs) == 6
    assert kept[0].runs[0].final == curve_files.objective(0, 20)
    assert "6 runs: 6 ended, 0 diverged, 0 left out" in invoke(path, "--cut-runs", "--orders", 1).output


def test_read_source__a_given_result_is_known_for_cut_runs_too(tmp_path: Path) -> None:
    rows = [{**row, "final_metric": 2.0} for row in cut(long_rows(), 2, 30)]
    assert len(read_source(write_csv(tmp_path / "runs.csv", rows))[0].runs) == 6


def test_read_source__a_run_without_a_given_result_is_left_out(tmp_path: Path) -> None:
    rows = [{**row, "final_metric": None if row["run_id"] == "run-0" else 2.0} for row in long_rows()]
    curves = read_source(write_csv(tmp_path / "runs.csv", rows))
    assert (len(curves[0].runs), dict(curves.omitted)) == (5, {"without a final result": 1})


def test_read_source__a_result_in_a_row_of_its_own(tmp_path: Path) -> None:
    rows = long_rows() + [
        {"run_id": curve_files.name(r), "step": LAST, "final_metric": 2.0 + r} for r in range(6)
    ]
    (study,) = read_source(write_csv(tmp_path / "runs.csv", rows))
    assert [run.final for run in study.runs] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_read_source__leaves_out_runs_whose_last_objective_is_old(tmp_path: Path) -> None:
    rows = [
        {**row, "eval_loss": None if row["run_id"] == "run-0" and row["step"] > 20 else row["eval_loss"]}
        for row in long_rows()
    ]
    curves = read_source(write_csv(tmp_path / "runs.csv", rows))
    assert dict(curves.omitted) == {"without an objective at their end": 1}


def test_read_source__a_trainer_state_knows_its_planned_steps(tmp_path: Path) -> None:
    curve_files.trainer_states(tmp_path)
    state = tmp_path / "run-0" / f"checkpoint-{LAST}" / "trainer_state.json"
    state.unlink()
    curves = read_source(tmp_path)
    assert (len(curves[0].runs), curves[0].left_out) == (5, 1)


# ----- no objective, no score ------------------------------------------------------------------------------


def test_read_source__leaves_out_runs_without_an_objective(tmp_path: Path) -> None:
    rows = [
        {**row, "eval_loss": None if row["run_id"] == "run-0" else row["eval_loss"]} for row in long_rows()
    ]
    curves = read_source(write_csv(tmp_path / "runs.csv", rows))
    assert (len(curves[0].runs), dict(curves.omitted)) == (5, {"without an objective": 1})
    none = [
        {**row, "eval_loss": None if row["run_id"] != "run-0" else row["eval_loss"]} for row in long_rows()
    ]
    with raises(ReplayError, "replay.no_runs"):
        read_source(write_csv(tmp_path / "none.csv", none))


def test_replay_command__gives_no_scores_where_too_few_ends_are_known(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "runs.csv", cut(long_rows(), 3, 30))
    result = invoke(path, "--orders", 1)
    assert isinstance(result.exception, ReplayError)
    assert result.exception.key == "replay.too_few_ends"
    assert "3 of 6 runs is known" in str(result.exception)
    assert "4 are needed: a rule compares a run with at least 3 others" in str(result.exception)
    assert invoke(path, "--orders", 1, "--min-peers", 2).exit_code == 0
    assert invoke(path, "--orders", 1, "--cut-runs").exit_code == 0


def test_replay_all__refuses_runs_that_all_diverged() -> None:
    study = make_study(runs=12)
    lost = [Run(**{**run.__dict__, "final": NAN}) for run in study.runs]
    with raises(ReplayError, "replay.too_few_ends"):
        replay_all([Study(study.name, study.source, "min", 100.0, lost)], ["median"], Replay(orders=1))


def test_replay_command__scores_the_studies_that_can_be(tmp_path: Path) -> None:
    good = [{**row, "study": "good"} for row in long_rows()]
    bad = [{**row, "study": "bad"} for row in cut(long_rows(), 4, 30)]
    out = tmp_path / "rows.json"
    result = invoke(
        write_csv(tmp_path / "runs.csv", good + bad), "--orders", 1, "--rule", "median", "--json", out
    )
    assert result.exit_code == 0, result.output
    assert "not scored: bad: the result of 2 of 6 runs is known" in result.output
    assert [row["study"] for row in json.loads(out.read_text())] == ["good"]


@pytest.mark.parametrize("spoiled", ["summary", "cut", "objective"])
def test_replay_command__calibrates_on_known_ends_only(tmp_path: Path, spoiled: str) -> None:
    rows: Rows = []
    for sweep in range(10):
        new = [{**row, "study": f"s{sweep}"} for row in long_rows()]
        if sweep == 3 and spoiled == "cut":
            new = cut(new, 3, 30)
        if sweep == 3 and spoiled == "objective":
            new = [
                {**r, "eval_loss": None if r["run_id"] in ("run-0", "run-1") else r["eval_loss"]} for r in new
            ]
        if spoiled == "summary":
            new += [
                {"run_id": f"run-{r}", "step": LAST + 5, "study": f"s{sweep}", "train_runtime": 1.0}
                for r in range(6)
            ]
        rows += new
    target = tmp_path / "calibration.json"
    result = invoke(
        write_csv(tmp_path / "runs.csv", rows), "--calibrate", target, "--max-false-stop-rate", "0.2"
    )
    if spoiled == "summary":  # the rows after the end say nothing: the ends are known
        assert result.exit_code == 0, result.output
        return
    assert isinstance(result.exception, ReplayError)
    assert result.exception.key == "replay.unknown_ends"
    assert not target.exists()


def test_calibrate__refuses_sweeps_whose_ends_are_not_known() -> None:
    studies = [make_study(seed=s, runs=8, points=20, name=f"s{s}") for s in range(6)]
    cut_study = Study("cut", "made-up", "min", 100.0, studies[0].runs, {"cut short": 20})
    with raises(ReplayError, "replay.unknown_ends"):
        calibrate([*studies, cut_study], max_false_stop_rate=0.2, orders=1)


def test_read_source__counts_trials_that_logged_nothing(tmp_path: Path) -> None:
    folder = curve_files.ray_json(tmp_path)
    lost = folder / "tune_2026" / "train_00009"
    lost.mkdir()
    (lost / "result.json").write_text("")
    curves = read_source(folder)
    assert (len(curves[0].runs), dict(curves.omitted)) == (6, {"that logged nothing": 1})


# ----- what the rule is told -------------------------------------------------------------------------------


def with_test_results(study: Study) -> Study:
    """Results on test data, far from the objective on validation data."""
    runs = [Run(**{**run.__dict__, "final": 100.0 - run.final}) for run in study.runs]
    return Study(study.name, study.source, study.mode, study.budget, runs)


@pytest.mark.parametrize("rule", ["median", "asha", "calibrated", "ray-median", "ray-asha", "optuna-median"])
def test_replay__a_rule_never_sees_results_on_test_data(rule: str) -> None:
    """With other results on test data, every rule stops the same runs: a live sweep knows validation data only."""
    study = make_study(seed=4, runs=20)
    stopped = []
    for known in (study, with_test_results(study)):
        outcome = replay_study(known, make_policy(rule, known, Replay(), 0), slots=4, order=range(20))
        stopped.append([(o.status, o.spent) for o in outcome.runs.values()])
    assert stopped[0] == stopped[1]


def test_replay__finished_runs_end_with_their_last_validation_objective() -> None:
    study = with_test_results(make_study(runs=6))
    policy = EarlyStopperPolicy(EarlyStopper(rule=make_rule("none"), rungs=(0.5,), budget=100, mode="min"))
    replay_study(study, policy, slots=2, order=range(6))
    assert dict(policy.early_stopper.cohort.finals) == {r.run_id: float(r.metric[-1]) for r in study.runs}


def test_replay__an_objective_known_at_the_end_only_is_told_then() -> None:
    study = make_study(runs=6)
    runs = [Run(**{**run.__dict__, "metric": np.full(len(run.metric), NAN)}) for run in study.runs]
    policy = EarlyStopperPolicy(EarlyStopper(rule=make_rule("none"), rungs=(0.5,), budget=100, mode="min"))
    replay_study(Study("end", "made-up", "min", 100.0, runs), policy, slots=2, order=range(6))
    assert dict(policy.early_stopper.cohort.finals) == {r.run_id: r.final for r in runs}


# ----- repeats ---------------------------------------------------------------------------------------------


def repeats(**columns: list[Any]) -> Rows:
    """Twelve runs; columns of hyperparameters, one value a run."""
    rows: Rows = []
    for run in range(12):
        for step in (50, 100):
            row: dict[str, Any] = {
                "run_id": f"r{run}",
                "step": step,
                "eval_loss": 1.0 + 0.1 * (run // 2) + 0.02 * (run % 2),
            }
            rows.append(row | {name: values[run] for name, values in columns.items()})
    return rows


PAIRS = [run // 2 for run in range(12)]


@pytest.mark.parametrize(
    ("columns", "known"),
    [
        ({"lr": PAIRS, "seed": [r % 2 for r in range(12)]}, True),
        ({"lr": PAIRS, "config/seed": [r % 2 for r in range(12)]}, True),
        ({"lr": PAIRS, "weight_decay": [None, *[0.1] * 11]}, None),  # one is partly unknown
        ({"lr": PAIRS, "weight_decay": [None] * 12}, False),
        ({"lr": PAIRS, "other_hps": [f"rank={r}" for r in range(12)]}, False),
        ({"lr": PAIRS, "lora_rank": list(range(12))}, False),  # a column of its own tells them apart
        ({}, False),
    ],
)
def test_repeat_noise__repeats_agree_in_all_hyperparameters(
    tmp_path: Path, columns: dict[str, list[Any]], known: bool | None
) -> None:
    (study,) = read_source(write_csv(tmp_path / "runs.csv", repeats(**columns)))
    assert (repeat_noise(study) > 0) == (known is not False)
    policy = make_policy("median", study, Replay(), 0)
    assert isinstance(policy, EarlyStopperPolicy)
    replay_study(study, policy, slots=4, order=range(12))
    kinds = [trial.configuration for trial in policy.early_stopper.cohort.trials.values()]
    pairs = sum(kinds.count(kind) > 1 for kind in kinds if kind is not None)
    assert pairs == {True: 12, False: 0, None: 10}[known]


def test_study__seeds_are_a_column_and_repeats_are_seen() -> None:
    """Two seeds of each configuration: the noise is that of the findings, .02 nats."""
    table = Path(__file__).parents[3] / "benchmarks" / "data" / "study.parquet"
    study = next(s for s in read_source(table) if s.name == "sweepft/study")
    assert {run.params["seed"] for run in study.runs} == {0, 1}
    assert repeat_noise(study) == pytest.approx(0.0225, abs=0.002)


def test_read_source__evaluated_rows_are_those_of_the_source(tmp_path: Path) -> None:
    (study,) = read_source(curve_files.csv_table(tmp_path))
    seen = [int(s) for s, m in zip(study.runs[0].step, study.runs[0].metric, strict=True) if math.isfinite(m)]
    assert seen == list(EVALUATED)
