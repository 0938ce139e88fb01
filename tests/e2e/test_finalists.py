"""The final stage: replicates, finalists and base model scored in the slots' ranks, the winner by ``rank_by``."""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest
from test_resume import finish, kill_after, rows_in, story, sweepft

from support.errors import raises
from support.stand_in_judge import Reply, stand_in_judge
from support.sweeps import run_spec, write_spec
from support.tasks import task_folder
from support.tiny import tiny_data
from sweepft.errors import EvaluateError
from sweepft.ledger import SweepState, finalists, ranking, read_ledger, winner

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.ray, pytest.mark.full]  # forty seconds: five models, four evaluation items each


def finals_spec(folder, model, data, **sections):
    """Three trials, the best of which gets two replicates."""
    tests = tiny_data(folder, rows=24, seed=9, name="test.jsonl")
    evaluate = {
        "finalists": {"top": 1, "random": 1},
        "tasks": ["tiny_words", {"name": "tiny_choice", "limit": 6}],
        "include_path": str(task_folder(folder / "tasks")),
        "batch_size": 4,
        "rank_by": {"tiny_choice.acc": 1.0, "test_set.loss": 1.0},
        "replicates": {"top": 1, "seeds": 2},
    }
    data_section = {
        "train": [{"path": str(data)}],
        "validation": [{"name": "own", "fraction": 0.15}],
        "test": [{"name": "test_set", "path": str(tests)}],
        "max_length": 128,
        "overlap": "drop",
    }
    return write_spec(
        folder, model, data, data=data_section, evaluate={**evaluate, **sections.pop("evaluate", {})},
        early_stop={"rule": "none", "rungs": [0.5]}, search=SEARCH, resources={"concurrent_trials": 1}, **sections,
    )  # fmt: skip


SEARCH = {
    "trials": 3,
    "start_with": [{"learning_rate": 3.0e-3, "batch_size": 8}],
    "space": {"batch_size": {"choice": [8, 16]}, "learning_rate": {"log_uniform": [1.0e-4, 3.0e-2]}},
}


KEY = "sk-planted-77d0c2"


def rating(body, before):
    """The judge likes long requests, and rates one of the questions not at all."""
    text = json.dumps(body)
    return Reply(
        f"Fine. Rating: [[{1 + len(text) % 9}]]" if "unratable" not in text else "No number from me."
    )


def mt_bench(folder, url):
    questions = [
        {"question_id": 1, "category": "writing", "turns": ["Write.", "Shorter."]},
        {"question_id": 2, "category": "math", "turns": ["2+2?", "Twice that?"]},
        {"question_id": 3, "category": "math", "turns": ["unratable?", "Why?"]},
    ]
    file = folder / "question.jsonl"
    file.write_text("".join(json.dumps(q) + "\n" for q in questions))
    return {
        "questions": str(file),
        "judge": "stand-in",
        "base_url": url,
        "key_env": "JUDGE_KEY",
        "max_new_tokens": 6,
    }


@pytest.fixture(scope="module")
def finished(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("final_stage")
    with stand_in_judge(rating) as judge, pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUDGE_KEY", KEY)
        judged = {"mt_bench": mt_bench(folder, judge.url)}
        run = run_spec(finals_spec(folder, tiny_model_dir, tiny_data_file, evaluate=judged), folder / "run")
    return run, judge


@pytest.fixture(scope="module")
def done(finished):
    return finished[0]


def test_finalists__base_and_replicates_are_scored_on_every_item(done):
    rows, view = read_ledger(done.run_dir), done.view
    (chosen,) = [row for row in rows if row["kind"] == "finalists"]
    names = [entry["trial_id"] for entry in chosen["chosen"]]
    ranked = [r.trial.trial_id for r in ranking(view) if r.rank]
    assert names[0] == ranked[0]
    assert len(names) == 2
    seeds = [f"{names[0]}-seed1", f"{names[0]}-seed2"]
    parts = ["test_set", "tiny_words", "tiny_choice", "mt_bench"]
    scored = [(row["trial_id"], row["name"]) for row in rows if row["kind"] == "score"]
    expected = [(t, p) for t in [None, *names, *seeds] for p in parts] + [(None, "own")]
    assert sorted(scored, key=str) == sorted(expected, key=str), "each once"
    assert all(row["reason"] is None for row in rows if row["kind"] == "score")
    choice = view.scores[names[0], "tiny_choice"]
    assert choice["items"] == 6
    assert 0 <= choice["metrics"]["acc"]["value"] <= 1


def test_finalists__item_results_lie_beside_the_ledger_by_digest(done):
    row = next(r for r in read_ledger(done.run_dir) if r["kind"] == "score" and r["name"] == "tiny_choice")
    data = (done.run_dir / row["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == row["file_digest"]
    items = [json.loads(line) for line in gzip.decompress(data).splitlines()]
    assert sum(item["acc"] for item in items) / 6 == pytest.approx(row["metrics"]["acc"]["value"])


def test_mt_bench__judged_with_the_drivers_key_which_is_not_stored(finished):
    done, asked = finished
    assert {h["Authorization"] for h in asked.headers} == {f"Bearer {KEY}"}
    row = done.view.scores[None, "mt_bench"]
    assert row["items"] == 2, "questions with all their verdicts"
    assert row["metrics"]["failed_verdicts"]["value"] == 2
    assert 1 <= row["metrics"]["score"]["value"] <= 10
    assert set(row["parts"]) == {"writing", "math"}
    for file in done.run_dir.rglob("*"):
        if file.is_file():
            data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
            assert KEY.encode() not in data, file


def test_finalists__replicates_are_no_candidates(done):
    seeds = [t for t in done.view.trials.values() if t.replicate_of]
    assert [t.origin for t in seeds] == ["replicate"] * 2
    assert len({t.data_order for t in seeds} | {done.view.trials[seeds[0].replicate_of].data_order}) == 3
    assert {t.status for t in seeds} == {"completed"}
    assert not any(t.decisions for t in seeds)
    assert not {t.trial_id for t in seeds} & {r.trial.trial_id for r in ranking(done.view) if r.rank}
    study = (done.run_dir / "study.journal").read_text()
    assert "seed1" not in study
    assert not any((done.run_dir / "weights" / t.trial_id).exists() for t in seeds), "scored, then removed"


def test_finalists__winner_is_first_by_rank_by_and_exported_to_best(done):
    first, *rest = finalists(done.view)
    assert [bool(f.replicates) for f in (first, *rest)] == [True, False], (
        "the one with replicates comes first"
    )
    assert winner(done.view) is first.trial
    replicated = first
    assert replicated.standing.replicates == 2
    own = [s["test_set"]["metrics"]["loss"]["value"] for s in replicated.replicate_scores]
    acc = [s["tiny_choice"]["metrics"]["acc"]["value"] for s in replicated.replicate_scores]
    assert replicated.standing.value == pytest.approx(sum(a - o for a, o in zip(acc, own, strict=True)) / 4)
    facts = json.loads((done.run_dir / "best" / "best.json").read_text())
    assert facts["trial_id"] == first.trial.trial_id
    assert (done.run_dir / "best" / "model.safetensors").exists()
    card = (done.run_dir / "best" / "README.md").read_text().replace("\\_", "_")  # Markdown's escape
    assert "the first of 2 finalists by\ntest_set.loss, tiny_choice.acc" in card
    assert "| test_set | loss |" in card


def test_finalists__time_of_their_evaluation_is_accounted_for(done):
    cost = json.loads((done.run_dir / "report.json").read_text())["cost"]
    assert sum(cost["by_phase"].values()) == pytest.approx(cost["capacity"], rel=0.01)
    rows = read_ledger(done.run_dir)
    eval_jobs = [
        r for r in rows if r["kind"] == "cost" and r["trial_id"] is None and r["phase"] == "evaluate"
    ]
    assert sum(r["seconds"] for r in eval_jobs) == pytest.approx(
        sum(r["seconds"] for r in rows if r["kind"] == "score"), rel=1e-6
    )


def test_finalists__missing_task_is_an_error_before_the_first_trial(tiny_model_dir, tiny_data_file, tmp_path):
    wrong = {"tasks": ["tiny_chioce"], "rank_by": "objective"}
    spec = finals_spec(tmp_path, tiny_model_dir, tiny_data_file, evaluate=wrong)
    with raises(EvaluateError, "evaluate.tasks") as caught:
        run_spec(spec, tmp_path / "run")
    assert "did you mean tiny_choice" in str(caught.value)
    spec = finals_spec(
        tmp_path, tiny_model_dir, tiny_data_file, evaluate={"rank_by": "tiny_words.exact_match"}
    )
    with raises(EvaluateError, "evaluate") as caught:
        run_spec(spec, tmp_path / "other")
    assert "tiny_words.exact_match,strict" in str(caught.value)


@pytest.mark.timeout(1200)
def test_finalists__killed_sweep_scores_no_pair_twice(tiny_model_dir, tiny_data_file, tmp_path):
    spec = finals_spec(tmp_path, tiny_model_dir, tiny_data_file)
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "killed"
    finish(sweepft("run", spec, "--out", undisturbed))
    kinds = [row["kind"] for row in read_ledger(undisturbed)]
    at = [kinds.index("finalists") + 5, kinds.index("score") + 2, len(kinds) - 8]
    kill_after(sweepft("run", spec, "--out", run), run, at[0])
    for rows in at[1:]:
        kill_after(sweepft("resume", run), run, max(rows, rows_in(run) + 3))
    finish(sweepft("resume", run))
    assert story(run) == story(undisturbed)
    scores = [r for r in read_ledger(run) if r["kind"] == "score"]
    assert len({(r["trial_id"], r["name"]) for r in scores}) == len(scores)
    before, after = SweepState.load(undisturbed), SweepState.load(run)
    assert {k: r["metrics"] for k, r in after.scores.items()} == {
        k: r["metrics"] for k, r in before.scores.items()
    }
    assert winner(after).trial_id == winner(before).trial_id
