"""What may change when a run goes on, what is no change, and how many trials it then has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from support.errors import raises
from support.ledger_builder import LedgerBuilder
from support.specs import spec, spec_dict
from sweepft.data import model_digest
from sweepft.driver.progress import describe_run, status_of
from sweepft.driver.resume_rules import check_changes, check_model, drop_checkpoints, trials_in_force
from sweepft.driver.run_folder import make_run_folder
from sweepft.driver.start import resume_sweep
from sweepft.errors import LedgerError, LedgerLocked, SpecError, SweepftError
from sweepft.ledger import Ledger, SweepState
from sweepft.spec import Model, from_dict


def test_check_changes__missing_keys_have_defaults() -> None:
    """A key that its ledger lacks has its default."""
    before = from_dict(spec_dict()).to_dict()
    for key in ("strategy", "phases", "replay", "mixture"):
        del before["data"][key]
    assert check_changes(before, from_dict(spec_dict())) == {}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"data.mixture": {"a": 2.0}}, "data.mixture.a"),
        ({"data.train": [{"path": "org/rows", "domain": "x"}]}, "data.train"),
        ({"data.train": [{"path": "org/rows"}, {"path": "org/more"}]}, "data.train"),
        ({"train.budget.samples": 65}, "train.budget.samples"),
        ({"train.micro_batch": 1}, "train.micro_batch"),
        ({"early_stop.rule": "none"}, "early_stop.rule"),
        ({"search.seed": 8}, "search.seed"),
        ({"model.trust_remote_code": True}, "model.trust_remote_code"),
        ({"keeper": None, "early_stop.top_fraction": 0.4}, "early_stop.top_fraction"),
    ],
)
def test_check_changes__refuses_what_changes_numbers(changes: dict[str, Any], key: str) -> None:
    with raises(SpecError, key):
        check_changes(spec_dict(), spec(changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"search.trials": 9},
        {"resources.concurrent_trials": 3},
        {"resources.workers_per_trial": 2},
        {"resources.cpus_per_worker": 2.0},
        {"model.path": "org/elsewhere"},
        {"data.train": [{"path": "org/moved"}]},
        {"keep.top": 2},
        {"faults.per_trial": 5},
    ],
)
def test_check_changes__names_what_may_change(changes: dict[str, Any]) -> None:
    (key,) = changes
    before = from_dict(spec_dict())
    found = check_changes(before.to_dict(), spec(changes))
    assert set(found) == {key}
    assert found[key][0] != found[key][1]


@pytest.mark.parametrize("at", ["end", "best"])
def test_check_changes__bounds_may_change_unless_they_chose_the_best_evaluations(at: str) -> None:
    bound = {"objective.at": at, "search.subject_to": {"own": {"at_most": 0.5}}}
    before, now = spec(bound), spec(bound | {"search.subject_to": {"own": {"at_most": 0.7}}})
    key = "search.subject_to.own.at_most"
    if at == "end":
        assert check_changes(before.to_dict(), now) == {key: [0.5, 0.7]}
        return
    with raises(SpecError, key) as refused:
        check_changes(before.to_dict(), now)
    assert "start a new run" in str(refused.value)
    with raises(SpecError, key):
        check_changes(spec({"objective.at": at}).to_dict(), before)


def write_model(folder: Path, weights: bytes = b"\x01" * 5000, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(
        json.dumps({"model_type": "llama", "_name_or_path": str(folder)} | config)
    )
    return folder


def begun(model: Path, **header: Any) -> SweepState:
    return LedgerBuilder(spec=spec_dict({"model.path": str(model)}), **header).trial("t0").state()


def test_model_digest__sees_each_byte_and_no_path(tmp_path: Path) -> None:
    def digest(name: str, **changes: Any) -> str | None:
        return model_digest(Model(path=str(write_model(tmp_path / name, **changes))))

    first = digest("a")
    assert digest("b") == first
    assert digest("c", weights=b"\x01" * 2500 + b"\x02" + b"\x01" * 2499) != first
    assert digest("d", rope_theta=1.0) != first
    assert model_digest(Model(path="org/never-downloaded")) is None


def test_check_model__same_path_with_other_weights(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    state = begun(model, model_digest=model_digest(Model(path=str(model))))
    check_model(state, spec({"model.path": str(model)}))
    write_model(model, weights=b"\x02" * 5000)
    with raises(SpecError, "model.path"):
        check_model(state, spec({"model.path": str(model)}))


def test_check_model__hub_id_whose_branch_has_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache as huggingface_hub lays it out: a branch is a file with a commit, which names a folder."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    cache = tmp_path / "models--org--model"
    (cache / "refs").mkdir(parents=True)
    for commit, byte in (("a" * 40, b"\x01"), ("b" * 40, b"\x02")):
        write_model(cache / "snapshots" / commit, weights=byte * 5000)
    (cache / "refs" / "main").write_text("a" * 40)
    first = model_digest(Model(path="org/model"))
    assert first is not None
    unknown_at_first = (
        LedgerBuilder(spec=spec_dict({"model.path": "org/model"})).trial("t0").sweep(model_digest=first)
    )
    for state in (begun(Path("org/model"), model_digest=first), unknown_at_first.state()):
        check_model(state, spec({"model.path": "org/model"}))
    (cache / "refs" / "main").write_text("b" * 40)
    for state in (begun(Path("org/model"), model_digest=first), unknown_at_first.state()):
        with raises(SpecError, "model.path"):
            check_model(state, spec({"model.path": "org/model"}))
        check_model(state, spec({"model.path": "org/model", "model.revision": "a" * 40}))


def test_check_model__same_model_elsewhere(tmp_path: Path) -> None:
    old = write_model(tmp_path / "old")
    state = begun(old, model_digest=model_digest(Model(path=str(old))))
    old.rename(tmp_path / "new")
    check_model(state, spec({"model.path": str(tmp_path / "new")}))
    other = write_model(tmp_path / "other", rope_theta=1.0)
    with raises(SpecError, "model.path"):
        check_model(state, spec({"model.path": str(other)}))
    with raises(SpecError, "model.path"):
        check_model(state, spec({"model.path": "org/never-downloaded"}))


def test_check_model__without_a_digest_on_record(tmp_path: Path) -> None:
    """A ledger of before: the old folder is compared, if it is still there."""
    old, new = write_model(tmp_path / "old"), write_model(tmp_path / "new")
    check_model(begun(old), spec({"model.path": str(new)}))
    check_model(begun(Path("org/model")), spec({"model.path": "org/model"}))
    with raises(SpecError, "model.path"):
        check_model(begun(tmp_path / "gone"), spec({"model.path": str(new)}))


def test_check_model__files_that_changed_in_place(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    state = begun(model, model_digest=model_digest(Model(path=str(model))))
    (model / "model.safetensors").write_bytes(b"\x02" * 5000)
    with raises(SpecError, "model.path"):
        check_model(state, spec({"model.path": str(model)}))


# --- the number of trials -------------------------------------------------------------------------


def resumed(state: SweepState, overrides: tuple[str, ...] = (), in_file: int = 3) -> int | None:
    """The number of trials after another resume; the row is folded."""
    given = next((int(o.partition("=")[2]) for o in overrides), in_file)
    trials = trials_in_force(state, spec({"search.trials": given}), in_file, overrides)
    changed = {} if trials == state.asked_trials else {"search.trials": [state.asked_trials, trials]}
    state.apply(
        {"kind": "sweep", "time": 9.0, "resumed": True, "spec": spec_dict({"search.trials": trials})}
        | {"budget_samples": 64, "changes": changed}
    )
    return state.asked_trials


def extended(state: SweepState, trials: int) -> None:
    state.apply(
        {
            "kind": "command",
            "command": "extend",
            "accepted": True,
            "time": 5.0,
            "arguments": {"trials": trials},
        }
    )


def test_trials_in_force__the_later_word_counts() -> None:
    state = LedgerBuilder(spec=spec_dict()).trial("t0").state()
    assert state.planned_trials == 3
    extended(state, 6)
    assert state.planned_trials == 6
    assert resumed(state) == 6, "an extension outlives a resume"
    assert resumed(state, ("search.trials=2",)) == 2
    assert resumed(state) == 2, "so does --set"
    extended(state, 8)
    assert resumed(state) == 8
    assert resumed(state, ("search.trials=3",)) == 3, "also back to what the file says"
    assert resumed(state, in_file=5) == 5, "the file was edited"
    extended(state, 7)
    assert resumed(state, in_file=5) == 7


# --- ranks ----------------------------------------------------------------------------------------


def test_drop_checkpoints__of_another_number_of_ranks(tmp_path: Path) -> None:
    sweep = LedgerBuilder().trial("t0").result("t0", 5).trial("t1").trial("t2").result("t2", 5)
    state = sweep.end("t2", "stopped").finish(status="interrupted").state()
    checkpoint = tmp_path / "t0" / "50"
    checkpoint.mkdir(parents=True)
    (checkpoint / "complete.json").touch()
    assert drop_checkpoints(state, tmp_path, {"resources.concurrent_trials": [1, 2]}) == []
    assert checkpoint.exists()
    assert drop_checkpoints(state, tmp_path, {"resources.workers_per_trial": [1, 2]}) == ["t0"]
    assert not checkpoint.exists()


# --- folders in which nothing is recorded ---------------------------------------------------------


@pytest.mark.parametrize("left", ["folder", "empty ledger", "half a row", "no trial"])
def test_run_folder__of_a_sweep_that_never_began(left: str, tmp_path: Path) -> None:
    run, plan = tmp_path / "run", spec()
    if left == "folder":
        run.mkdir()
        (run / "spec.yaml").touch()
        (run / "ledger").mkdir()
    elif left == "no trial":
        LedgerBuilder(run).close()
    else:
        make_run_folder(run, plan).close()
        (run / "ledger" / "ledger.jsonl").write_text("" if left == "empty ledger" else '{"seq":0,"ti')
    if left != "no trial":
        (run / "spec.yaml").touch()
        with raises(LedgerError, "ledger.empty") as refused:
            resume_sweep(run)
        assert f"sweepft run {run / 'spec.yaml'} --out {run}" in str(refused.value)
    if "row" in left or left == "empty ledger":
        found = status_of(run)
        assert (found["status"], found["resume"]) == ("not started", False)
        assert f"--out {run}" in describe_run(found)
    (run / "study.journal").touch()
    with make_run_folder(run, plan):
        assert not (run / "study.journal").exists()
        with raises(LedgerLocked, "ledger.locked"):
            make_run_folder(run, plan)


def test_run_folder__with_trials_is_kept(tmp_path: Path) -> None:
    LedgerBuilder(tmp_path / "run").trial("t0").close()
    with raises(SweepftError, "run_dir.exists"):
        make_run_folder(tmp_path / "run", spec())
    with raises(LedgerError, "ledger.exists"):
        Ledger.create(tmp_path / "run")
