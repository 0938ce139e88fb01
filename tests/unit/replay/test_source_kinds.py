"""What people keep their curves in: every kind of source gives the same runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import curve_files
import pytest
from click.testing import CliRunner, Result
from curve_files import EVALUATED, KINDS, RATES, STEPS, loss, objective, write_csv

from support.errors import raises
from sweepft.cli.replay import replay as replay_command
from sweepft.errors import ReplayError
from sweepft.replay.sources import read_source

RAY = ("ray_results", "ray_progress", "ray_json")  # report at evaluations only
WITH_PARAMS = (*RAY, "lightning_csv", "mlflow_folder", "mlflow_database", "tensorboard_lightning")


def invoke(*args: Any) -> Result:
    return CliRunner().invoke(replay_command, [str(a) for a in args])


@pytest.mark.parametrize("kind", KINDS)
def test_read_source__every_kind_gives_the_same_runs(tmp_path: Path, kind: str) -> None:
    curves = read_source(KINDS[kind](tmp_path))
    (study,) = curves.studies
    assert (study.mode, len(study.runs), study.left_out) == ("min", len(RATES), 0)
    rows = len(EVALUATED) if kind in RAY else len(STEPS)
    for number, run in enumerate(study.runs):
        assert len(run.progress) == rows, run.run_id
        assert run.final == pytest.approx(objective(number, STEPS[-1]), rel=1e-6)
        assert run.metric[-1] == pytest.approx(run.final)
        assert run.loss[0] == pytest.approx(loss(number, EVALUATED[0] if kind in RAY else STEPS[0]), rel=1e-6)
        assert run.bad_row is None
    if kind in WITH_PARAMS:
        assert [run.params.get("lr", run.params.get("learning_rate")) for run in study.runs] == list(RATES)
        assert all(run.params_known for run in study.runs)


@pytest.mark.parametrize("kind", KINDS)
def test_replay_command__accounts_for_every_kind(tmp_path: Path, kind: str) -> None:
    result = invoke(KINDS[kind](tmp_path), "--rule", "median", "--orders", 1)
    assert result.exit_code == 0, result.output
    assert "6 runs: 6 ended, 0 diverged, 0 left out; objective " in result.output
    assert "min (" in result.output


@pytest.mark.parametrize(
    ("kind", "metric", "column"),
    [
        ("trainer_states", "eval_loss", "loss"),
        ("tensorboard_transformers", "eval/loss", "train/loss"),
        ("ray_results", "eval_loss", "loss"),
        ("mlflow_folder", "eval_loss", "loss"),
        ("mlflow_database", "eval_loss", "loss"),
        ("lightning_csv", "val_loss", "train_loss"),
        ("wandb_chart", "eval/loss", "train/loss"),
        ("jsonl_table", "eval_loss", "train_loss"),
    ],
)
def test_read_source__column_works_for_every_kind(
    tmp_path: Path, kind: str, metric: str, column: str
) -> None:
    path = KINDS[kind](tmp_path)
    assert read_source(path, columns={"metric": metric}).objective == metric
    (study,) = read_source(path, columns={"metric": column})
    assert study.runs[0].final == pytest.approx(loss(0, STEPS[-1]), rel=1e-6)
    with raises(ReplayError, "replay.column"):
        read_source(path, columns={"metric": "nope"})
    with raises(ReplayError, "replay.column"):
        read_source(path, columns={"metrics": metric})


# ----- which column is the objective, and which way it is good ---------------------------------------------


def test_read_source__takes_the_only_evaluation_loss_of_a_trainer(tmp_path: Path) -> None:
    curves = read_source(curve_files.trainer_states(tmp_path, "eval_wiki_loss"))
    assert (curves.objective, curves.studies[0].mode) == ("eval_wiki_loss", "min")
    assert "objective eval_wiki_loss, min (by the name" in curves.describe()


def test_read_source__names_the_objectives_to_choose_from(tmp_path: Path) -> None:
    rows = [
        {"run_id": f"r{r}", "step": s, "eval_wiki_loss": 1.0, "eval_code_loss": 2.0, "eval_runtime": 3.0}
        for r in range(3)
        for s in (1, 2)
    ]
    with raises(ReplayError, "replay.column") as caught:
        read_source(write_csv(tmp_path / "runs.csv", rows))
    assert "eval_wiki_loss, eval_code_loss" in str(caught.value)
    assert "eval_runtime" not in str(caught.value)


def test_read_source__names_the_tags_that_were_found(tmp_path: Path) -> None:
    for run in range(3):
        curve_files.write_events(
            tmp_path / f"r{run}", [{"step": s, "perf/total": 1.0, "perf/other": 2.0} for s in (1, 2)]
        )
    with raises(ReplayError, "replay.column") as caught:
        read_source(tmp_path)
    assert "perf/total" in str(caught.value)
    with raises(ReplayError, "replay.column") as caught:
        read_source(tmp_path, columns={"metric": "perf/totl"})
    assert "did you mean perf/total" in str(caught.value)


BETTER_HIGH = [
    "val_acc", "eval_accuracy", "eval/f1", "eval_f1_macro", "val_auc", "AUROC", "eval_bleu", "eval_rouge1", "eval_rougeLsum",
    "episode_reward_mean", "eval_rewards/accuracies", "f1_score", "exact_match", "valAcc", "mean_accuracy", "eval_mcc",
    "ray/tune/mean_accuracy",
]  # fmt: skip
BETTER_LOW = [
    "val_loss",
    "eval_perplexity",
    "validation/wer",
    "eval_mse",
    "error_rate",
    "eval_nll",
    "reward_loss",
]


@pytest.mark.parametrize(
    ("column", "mode"), [(c, "max") for c in BETTER_HIGH] + [(c, "min") for c in BETTER_LOW]
)
@pytest.mark.parametrize("mapped", [False, True])
def test_read_source__direction_by_the_name_is_stated(
    tmp_path: Path, column: str, mode: str, mapped: bool
) -> None:
    rows = [
        {"run_id": f"r{r}", "step": s, "loss": 1.0, column: 0.1 * r + s} for r in range(3) for s in (1, 2)
    ]
    curves = read_source(
        write_csv(tmp_path / "runs.csv", rows), columns={"metric": column} if mapped else None
    )
    assert (curves.objective, curves.studies[0].mode) == (column, mode)
    assert f"{mode} (by the name {column}; --mode " in curves.describe()


def test_read_source__does_not_guess_a_direction(tmp_path: Path) -> None:
    rows = [{"run_id": f"r{r}", "step": s, "loss": 1.0, "quality": s} for r in range(3) for s in (1, 2)]
    path = write_csv(tmp_path / "runs.csv", rows)
    with raises(ReplayError, "replay.mode"):
        read_source(path, columns={"metric": "quality"})
    (study,) = read_source(path, columns={"metric": "quality"}, mode="max")
    assert study.mode == "max"


def test_read_source__says_when_the_given_direction_is_against_the_name(tmp_path: Path) -> None:
    curves = read_source(curve_files.csv_table(tmp_path), mode="max")
    assert "max (as given, against the name eval_loss)" in curves.describe()


@pytest.mark.parametrize(
    ("text", "mode"),
    [("max", "max"), ("MAX", "max"), ("Maximize", "max"), ("maximise", "max"), ("higher", "max"), ("Higher is better", "max"),
     ("min", "min"), ("MINIMIZE", "min"), ("lower", "min"), ("up", "max"), ("up-down", None), ("maxi", None), ("best", None)],
)  # fmt: skip
def test_read_source__metric_mode_in_any_words(tmp_path: Path, text: str, mode: str | None) -> None:
    rows = [
        {"run_id": f"r{r}", "step": s, "eval_metric": 0.1 * r + s, "metric_mode": text}
        for r in range(3)
        for s in (1, 2)
    ]
    path = write_csv(tmp_path / "runs.csv", rows)
    if mode is None:
        with raises(ReplayError, "replay.mode"):
            read_source(path)
        assert invoke(path, "--mode", text).exit_code == 2
        return
    assert read_source(path)[0].mode == mode
    assert invoke(path, "--mode", text, "--orders", 1, "--min-peers", 1).exit_code == 0


def test_read_source__a_table_that_names_its_metric_has_its_direction(tmp_path: Path) -> None:
    rows = [
        {"run_id": f"r{r}", "step": s, "eval_metric": s, "metric": "test accuracy"}
        for r in range(3)
        for s in (1, 2)
    ]
    assert read_source(write_csv(tmp_path / "runs.csv", rows))[0].mode == "max"


# ----- numbers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (("10,000", "1,234.5"), (10000.0, 1234.5)),
        (("0,512", "1,234"), (0.512, 1.234)),
        (("1e-3", " 2.5 "), (0.001, 2.5)),
        (("45%", "50.5%"), (45.0, 50.5)),
        (("tensor(0.25, device='cuda:0')", "np.float64(0.5)"), (0.25, 0.5)),
    ],
)
def test_read_source__numbers_as_people_have_them(
    tmp_path: Path, texts: tuple[str, str], values: tuple[float, ...]
) -> None:
    rows = [
        {"run_id": f"r{r}", "step": s, "eval_loss": t}
        for r in range(2)
        for s, t in zip((1, 2), texts, strict=True)
    ]
    (study,) = read_source(write_csv(tmp_path / "runs.csv", rows))
    assert study.runs[0].metric.tolist() == pytest.approx(values)


def test_read_source__steps_with_commas(tmp_path: Path) -> None:
    rows = [
        {"run_id": f"r{r}", "step": f"{s:,}", "eval_loss": 1.0} for r in range(2) for s in (500, 5000, 10000)
    ]
    assert read_source(write_csv(tmp_path / "runs.csv", rows))[0].budget == 10000


@pytest.mark.parametrize(
    "step", ["Step", "_step", "epoch", "iteration", "training_iteration", "trainer/global_step"]
)
@pytest.mark.parametrize("run", ["Name", "run_name", "Trial ID", "run_id"])
def test_read_source__columns_as_people_name_them(tmp_path: Path, step: str, run: str) -> None:
    rows = [{run: f"r{r}", step: s, "Eval Loss": 1.0} for r in range(2) for s in (1, 2, 3)]
    assert len(read_source(write_csv(tmp_path / "runs.csv", rows))[0].runs) == 2


# ----- hyperparameters and progress ------------------------------------------------------------------------


def test_read_source__trainer_entries_without_a_step(tmp_path: Path) -> None:
    curve_files.trainer_states(tmp_path)
    for path in tmp_path.rglob("trainer_state.json"):
        state = json.loads(path.read_text())
        state["log_history"].insert(3, {"custom": 1.0})
        path.write_text(json.dumps(state))
    assert len(read_source(tmp_path)[0].runs) == len(RATES)


@pytest.mark.parametrize(
    ("params", "known"), [(None, False), ({"learning_rate": 1e-4, "per_device_train_batch_size": 8}, True)]
)
def test_read_source__a_trainer_state_has_not_all_hyperparameters(
    tmp_path: Path, params: Any, known: bool
) -> None:
    curve_files.trainer_states(tmp_path, trial_params=params)
    runs = read_source(tmp_path)[0].runs
    assert [run.params_known for run in runs] == [known] * len(RATES)
    assert runs[0].params["batch_size"] == 8


@pytest.mark.parametrize(
    ("rates", "params"),
    [
        ((0.1, None, None), {"learning_rate": 0.1}),  # written once
        ((0.1, 0.1, 0.1), {"learning_rate": 0.1}),
        ((0.1, 0.2, 0.0), {}),  # the schedule, step by step
    ],
)
def test_read_source__learning_rates_of_steps_are_no_hyperparameter(
    tmp_path: Path, rates: tuple[Any, ...], params: dict[str, float]
) -> None:
    rows = [
        {"run_id": f"r{r}", "step": s, "eval_loss": 1.0, "lr": lr}
        for r in range(2)
        for s, lr in enumerate(rates)
    ]
    (study,) = read_source(write_csv(tmp_path / "runs.csv", rows))
    assert [run.params for run in study.runs] == [params, params]


@pytest.mark.parametrize("samples", [False, True])
def test_read_source__runs_of_equal_samples_are_all_ended(tmp_path: Path, samples: bool) -> None:
    rows = [
        {"run_id": f"b{batch}", "step": step, "eval_loss": 1.0, "batch_size": batch}
        | ({"samples": batch * step} if samples else {})
        for batch in (8, 16, 32)
        for step in range(1, 640 // batch + 1)
    ]
    curves = read_source(write_csv(tmp_path / "runs.csv", rows))
    assert curves.studies[0].left_out == 0
    assert "budget 640 samples" in curves.describe()


# ----- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        ("--budget", "-5"),
        ("--budget", "0"),
        ("--budget", "nan"),
        ("--rungs", "10,25"),
        ("--rungs", "0"),
        ("--mode", "up-down"),
    ],
)
def test_replay_command__refuses_what_makes_no_sense(tmp_path: Path, args: tuple[str, str]) -> None:
    result = invoke(curve_files.csv_table(tmp_path), *args)
    assert result.exit_code == 2
    assert args[0] in result.output


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_replay_command__makes_the_folder_of_its_output(tmp_path: Path, option: str) -> None:
    target = tmp_path / "new" / "deep" / "out.file"
    result = invoke(curve_files.csv_table(tmp_path), option, target, "--rule", "median", "--orders", 1)
    assert result.exit_code == 0, result.output
    assert target.stat().st_size > 10
    (tmp_path / "file").write_text("")
    refused = invoke(tmp_path / "runs.csv", option, tmp_path / "file" / "out")
    assert refused.exit_code == 2
    assert option in refused.output


def test_replay_command__lists_rules_without_a_source() -> None:
    result = invoke("--list-rules")
    assert result.exit_code == 0
    assert "calibrated" in result.output.split()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: (p / "notes.txt").write_text("hello"),
        lambda p: (p / "empty.csv").write_text(""),
        lambda p: (p / "header.csv").write_text("run_id,step,eval_loss\n"),
        lambda p: (p / "words.csv").write_text("run_id,step,eval_loss\na,1,x\na,2,y\n"),
        lambda p: (p / "bad.jsonl").write_text("{\n}\n"),
        lambda p: (p / "list.jsonl").write_text("[1]\n[2]\n"),
        lambda p: (p / "bad.csv.gz").write_bytes(b"no gzip"),
        lambda p: (p / "mlflow.db").write_bytes(b"no database"),
        lambda p: (p / "summary.csv").write_text(
            "Name,State,step,eval/loss\na,finished,9,1.0\nb,finished,9,1.1\n"
        ),
    ],
)
def test_read_source__clear_errors(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    spoil(tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ReplayError) as caught:
        read_source(path)
    assert caught.value.key.startswith("replay.")
    assert "\n  " in str(caught.value)
