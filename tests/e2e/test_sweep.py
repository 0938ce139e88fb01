"""A real sweep with Ray, DeepSpeed, Optuna, ledger and report, which must all agree."""

from __future__ import annotations

import csv
import json
import math

import optuna
import pytest
import torch
import transformers
from optuna.trial import TrialState

from support.sweeps import run_spec, write_spec
from sweepft.data import TokenSet
from sweepft.ledger import SweepState, read_ledger, winner
from sweepft.replay.sources import live_decisions
from sweepft.search import STUDY_FILE, open_study

pytestmark = pytest.mark.ray


@pytest.fixture(
    scope="module", params=[1, pytest.param(2, marks=pytest.mark.full)], ids=["one rank", "two ranks"]
)
def finished(request, ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    spec = write_spec(
        folder,
        tiny_model_dir,
        tiny_data_file,
        resources={"workers_per_trial": request.param, "concurrent_trials": 2},
        train={
            "budget": {"samples": 96},
            "micro_batch": 4 if request.param == 1 else {"tokens": 256},  # padded on one rank, packed on two
            "precision": "fp32",
            "zero_stage": 1 + request.param,
        },
    )
    run = folder / "run"
    return run, run_spec(spec, run)


def test_sweep__some_trials_complete_and_some_are_stopped(finished):
    _, done = finished
    statuses = {t.status for t in done.view.trials.values()}
    assert done.exit_code == 0
    assert len(done.view.trials) == 6
    assert {"completed", "stopped"} <= statuses
    assert not {"failed", "running", "interrupted"} & statuses


def test_sweep__study_ledger_and_ranking_agree_trial_by_trial(finished):
    run, done = finished
    study, _ = open_study(run / STUDY_FILE, "tiny")
    by_name = {t.user_attrs["trial_id"]: t for t in study.trials if "trial_id" in t.user_attrs}
    with (run / "ranked.csv").open() as f:
        table = {row["trial_id"]: row for row in csv.DictReader(f)}
    assert by_name.keys() == table.keys() == done.view.trials.keys()
    states = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "diverged": TrialState.PRUNED}
    for name, trial in done.view.trials.items():
        in_study, row = by_name[name], table[name]
        assert in_study.state == states[trial.status]
        assert row["status"] == trial.status
        assert in_study.user_attrs["params"] == trial.params
        assert float(row["learning_rate"]) == trial.params["learning_rate"]
        rungs = {round(e["rung"] * 96): e["objective"] for e in trial.evals}
        assert in_study.intermediate_values == rungs
        kept = [["residuals" in found for found in e["sets"].values()] for e in trial.evals]
        assert all(all(k) if e["final"] else not any(k) for k, e in zip(kept, trial.evals, strict=True))
        if trial.status == "completed":
            assert (
                in_study.value == trial.objective == trial.evals[-1]["objective"] == float(row["objective"])
            )
            assert trial.samples_seen == 96
        else:
            assert row["rank"] == ""
            assert trial.objective is None
            assert rungs, "a stopped trial keeps all its intermediate values"
    values = [t.value for t in by_name.values() if t.state == TrialState.COMPLETE]
    assert float(next(r for r in table.values() if r["rank"] == "1")["objective"]) == min(values)


def test_sweep__every_step_is_recorded_once_with_its_samples(finished):
    _, done = finished
    for trial in done.view.trials.values():
        history, batch = trial.history, trial.params["batch_size"]
        steps = len(history["step"])
        assert history["step"].tolist() == list(range(1, steps + 1))
        assert history["samples_seen"].tolist() == [min(96, batch * (i + 1)) for i in range(steps)]
        assert all(math.isfinite(v) for name in ("loss", "grad_norm", "lr") for v in history[name])
    orders = {t.data_order for t in done.view.trials.values()}
    assert len(orders) == 1, "same data and seed: comparable sample for sample"


def test_sweep__stop_has_its_reason(finished):
    run, done = finished
    stopped = [t for t in done.view.trials.values() if t.status == "stopped"]
    decisions = [r for r in read_ledger(run) if r["kind"] == "decision" and r["action"] == "stop"]
    assert {v["trial_id"] for v in decisions} == {t.trial_id for t in stopped}
    for trial in stopped:
        decision = next(v for v in decisions if v["trial_id"] == trial.trial_id)
        assert decision["rung"] in (0.25, 0.5)
        assert decision["rule"] == "median"
        assert trial.reason == decision["reason"]
        assert len(decision["reason"]) > 20
        assert decision["evidence"]


def test_replay__ledger_gives_the_live_decisions(finished):
    run, _ = finished
    rows = read_ledger(run)
    recorded = [r for r in rows if r["kind"] == "decision"]
    assert {"continue", "stop"} <= {r["action"] for r in recorded}
    again = [json.loads(json.dumps(v.to_row())) for v in live_decisions(SweepState.from_rows(rows))]
    assert again == [{key: r[key] for key in row} for r, row in zip(recorded, again, strict=True)]


def test_sweep__ranks_live_from_trial_to_trial(finished):
    run, _ = finished
    starts = [r for r in read_ledger(run) if r["kind"] == "start"]
    assert len(starts) == 6
    assert sum(not s["warm"] for s in starts) == len({s["slot"] for s in starts})


def test_sweep__all_slot_time_is_in_the_ledger(finished):
    """From the sweep's first row to its last, no second of a slot is without a phase."""
    run, done = finished
    rows = read_ledger(run)
    between = [r for r in rows if r["kind"] == "cost" and r["trial_id"] is None]
    slots = {r["slot"] for r in rows if r["kind"] == "start"}
    assert sorted(r["slot"] for r in between if r["phase"] == "startup") == sorted(slots)
    assert sum(r["phase"] == "idle" for r in between) == len(done.view.trials), (
        "before each trial, and at the end"
    )
    for slot in slots:
        total = sum(r["seconds"] for r in rows if r["kind"] == "cost" and r["slot"] == slot)
        assert total == pytest.approx(rows[-1]["time"] - rows[0]["time"], rel=0.01)


def test_sweep__run_folder_holds_report_logs_and_spec(finished):
    run, done = finished
    for name in ("spec.yaml", "ranked.csv", "report.json", "report.html", "ledger/ledger.jsonl"):
        assert (run / name).stat().st_size > 0, name
    assert {p.name for p in done.reports.values()} >= {"ranked.csv", "report.json", "report.html"}
    assert list((run / "logs").glob("slot-*-rank0.log"))
    progress = (run.parent / "run.txt").read_text()
    assert "trial stop: trial=" in progress
    assert "trial completed: trial=" in progress


@pytest.mark.full
def test_sweep__same_seed_gives_the_same_sweep(ray_here, tiny_model_dir, tiny_data_file, tmp_path):
    spec = write_spec(tmp_path, tiny_model_dir, tiny_data_file, resources={"concurrent_trials": 1})
    first, second = (run_spec(spec, tmp_path / name, ("search.trials=5",)).view for name in "ab")
    assert first.trials.keys() == second.trials.keys()
    for name, trial in first.trials.items():
        other = second.trials[name]
        assert (trial.params, trial.status, trial.objective) == (other.params, other.status, other.objective)
        for column in ("loss", "grad_norm", "lr"):
            assert trial.history[column].tolist() == other.history[column].tolist()
        assert [v["reason"] for v in trial.decisions] == [v["reason"] for v in other.decisions]


def test_sweep__continues_after_a_diverged_trial(ray_here, tiny_model_dir, tiny_data_file, tmp_path):
    spec = write_spec(
        tmp_path,
        tiny_model_dir,
        tiny_data_file,
        train={
            "budget": {"samples": 96}, "micro_batch": 4, "precision": "fp32", "zero_stage": 2,
            "gradient_clipping": 0.0, "schedule": "constant", "batch_size": 8,
        },
        search={
            "trials": 2,
            "start_with": [{"learning_rate": 1.0e30}],
            "space": {"learning_rate": {"log_uniform": [1.0e-3, 1.0e31]}},
        },
        resources={"concurrent_trials": 1},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    trial = done.view.trials["t000"]
    assert trial.status == "diverged"
    assert "step" in trial.reason
    study, _ = open_study(tmp_path / "run" / STUDY_FILE, "tiny")
    assert all(t.state != TrialState.RUNNING for t in study.trials)
    assert study.trials[0].state in (TrialState.PRUNED, TrialState.FAIL)
    assert study.trials[0].user_attrs["reason"] == trial.reason
    assert len(done.view.trials) == 2


def test_weights__winners_load_elsewhere_and_give_its_loss(finished):
    """Gathered at ZeRO-3, with tokenizer and chat template; nothing of the trials that were overtaken stays."""
    run, done = finished
    best = winner(done.view)
    folder = run / "weights" / best.trial_id
    assert done.weights == folder
    assert [p.name for p in (run / "weights").iterdir() if p.is_dir()] == [best.trial_id]
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    assert (folder / "generation_config.json").exists()
    validation = TokenSet(done.view.header["data"]["validation"][0]["data"]["path"])
    total = tokens = 0
    for i in range(len(validation)):
        ids, mask = (torch.from_numpy(a)[None] for a in validation.row(i))
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(
            logits[mask[0, 1:]], ids[0, 1:][mask[0, 1:]], reduction="sum"
        ).item()
        tokens += int(mask[0, 1:].sum())
    assert total / tokens == pytest.approx(best.objective, rel=1e-5)


def test_study__opens_with_optuna_alone(finished):
    run, _ = finished
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(run / STUDY_FILE))
    )
    study = optuna.load_study(study_name="tiny", storage=storage)
    pruned = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert pruned
    assert all(t.intermediate_values for t in pruned)
