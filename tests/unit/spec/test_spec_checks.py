# ruff: noqa: E501  # one case a line
"""What must hold in a spec and between its sections: each rule, a spec that breaks it, one that just does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweepft.errors import Problem
from sweepft.spec import Budget, MicroTokens, SweepSpec, Train, check_budget, load, packing_note

Problems = Callable[..., list[Problem]]

FIX_LR = ("search.space.learning_rate=null",)
ONE_GPU = ("resources.gpus_per_worker=1",)
NO_START = ("search.start_with=null",)

BROKEN = [
    # overrides, key, rule
    (["train.zero_stage=0", "train.precision=bf16"], "train.zero_stage", "cannot be reset exactly"),
    (["data.validation.0.weight=0"], "data.validation", "must not all have weight 0"),
    (["data.validation=[{name: a, fraction: 0.5}, {name: b, fraction: 0.5}]"], "data.validation", "must leave rows"),
    (["data.validation.1={name: own, fraction: 0.1}"], "data.validation.1.name", "data.validation.0 has it too"),
    (["data.test=[{name: own, path: test.jsonl}]"], "data.test.0.name", "data.validation.0 has it too"),
    (["data.validation.0={name: a, fraction: 0.1, split: x}"], "data.validation.0.split", "applies to a path only"),
    (["data.validation.0.fraction=0.1"], "data.validation.0", "exactly one of fraction, path; fraction and path given"),
    (["data.validation=[]"], "data.validation", "must have at least 1 entry"),
    (["data.test=[{name: t, path: train.jsonl}]"], "data.test.0.path", "must not overlap with training"),
    (["train.budget={}"], "train.budget", "exactly one of samples, tokens, epochs; none given"),
    (["train.budget.tokens=5"], "train.budget", "exactly one of samples, tokens, epochs; samples and tokens given"),
    (["train.budget.samples=0"], "train.budget.samples", "must be greater than 0"),
    (["train.budget.samples=15", *NO_START], "search.space.batch_size.choice.1", "is larger than the budget of 15 samples"),
    (["train.warmup={}", "search.space.warmup=null"], "train.warmup.steps", "is required"),
    (["train.warmup={steps: 32}", "search.space.warmup=null"], "train.warmup", "batch size 16 takes 32 steps"),
    (["search.space.warmup={choice: [{steps: 40}]}"], "search.space.warmup.choice.0", "takes 32 steps"),
    (["search.space.warmup=null", "search.space.warmup.steps={int_uniform: [0, 99]}"],
     "search.space.warmup.steps.int_uniform.1", "takes 32 steps"),
    (["search.space.warmup.steps={choice: [1]}"], "search.space.warmup.steps", "is part of warmup"),
    (["train.learning_rate=1e-3"], "search.space.learning_rate", "is both fixed in train and swept"),
    (FIX_LR, "train.learning_rate", "is neither fixed nor swept"),
    (["search.space.lr={choice: [1]}"], "search.space.lr", "is not a field of train"),
    (["search.space.weight_decay={choice: [0.1]}"], "search.space.weight_decay", "is not a field of train"),
    (["search.space.micro_batch={choice: [1]}"], "search.space.micro_batch", "cannot be swept"),
    (["search.space.budget.samples={choice: [1]}"], "search.space.budget.samples", "cannot be swept"),
    (["search.space.batch_size={int_uniform: [8, 64]}", *NO_START], "search.space.batch_size", "must be a choice"),
    (["search.space.batch_size={choice: [8.0]}", *NO_START], "search.space.batch_size.choice.0", "whole number"),
    (["search.space.batch_size={choice: []}", *NO_START], "search.space.batch_size", "must have at least one choice"),
    (["search.space.batch_size={}", *NO_START], "search.space.batch_size", "exactly one of choice, uniform"),
    (["search.space.seed={choice: [1, 1]}"], "search.space.seed", "must not list 1 twice"),
    (["search.space.seed={choice: [1, 1.0]}"], "search.space.seed", "must not list 1.0 twice"),
    (["search.space.seed={uniform: [1, 2]}"], "search.space.seed.uniform.0", "must be a whole number"),
    (["search.space.min_lr_ratio={uniform: [0.5, 0.5]}"], "search.space.min_lr_ratio", "must have low < high"),
    (["search.space.min_lr_ratio={uniform: [0.5, 1.5]}"], "search.space.min_lr_ratio.uniform.1", "at most 1"),
    (["search.space.min_lr_ratio={uniform: [0.5]}"], "search.space.min_lr_ratio.uniform", "must have at least 2 entries"),
    (["search.space.schedule={uniform: [0, 1]}"], "search.space.schedule.uniform.0", "must be one of 'constant'"),
    (["search.space.learning_rate={choice: [.nan]}"], "search.space.learning_rate.choice.0", "finite number"),
    (["search.start_with.0.batch_size=24"], "search.start_with.0.batch_size", "must lie in the search space"),
    (["search.start_with.0.learning_rate=1.0"], "search.start_with.0.learning_rate", "must lie in the search space"),
    (["search.start_with.0.seed=1"], "search.start_with.0.seed", "is not in search.space"),
    (["search.trials=null"], "search.trials", "is required unless"),
    (["search.limit={}"], "search.limit", "must have hours, gpu_hours or both"),
    (["search.sampler=grid"], "search.space.learning_rate", "must be a choice for sampler grid"),
    (["search.sampler=grid", "search.space.seed={choice: [" + ", ".join(map(str, range(600))) + "]}",
      "search.space.power={choice: [" + ", ".join(map(str, range(1, 600))) + "]}",
      "search.space.learning_rate={choice: [1e-3]}"], "search.space", "more than 1000000 combinations"),
    (["train.micro_batch=1000000000000000000000000000000", "search.space.batch_size=null", "train.batch_size=9", *NO_START],
     "train.batch_size", "is not a multiple of micro_batch 1000000000000000000000000000000"),
    (["search.sampler=bayes"], "search.sampler", "must be one of 'tpe'"),
    (["early_stop.rungs=[0.5, 0.2]"], "early_stop.rungs", "must rise"),
    (["early_stop.rungs=[0.5, 1.0]"], "early_stop.rungs.1", "must be less than 1"),
    (["early_stop.rungs=[]"], "early_stop.rungs", "at least 1 entry"),
    (["early_stop.prior_sweeps=absent"], "early_stop.prior_sweeps", "is not there"),
    (["early_stop.prior_sweeps=[model]"], "early_stop.prior_sweeps.0", "holds no ledger"),
    (["early_stop.prior_sweeps=model/config.json"], "early_stop.prior_sweeps", "is not a calibration"),
    (["early_stop.prior_sweeps=5"], "early_stop.prior_sweeps", "must be a list"),
    (["train.zero_stage=4"], "train.zero_stage", "must be at most 3"),
    (["train.seed=4294967296"], "train.seed", "must be less than 4294967296"),
    (["search.space.decay_fraction={choice: [a, 0.5]}", "search.space.schedule={choice: [wsd]}"], "search.space.decay_fraction.choice.0", "must be a number"),
    (["train.micro_batch=true"], "train.micro_batch", "must be a whole number"),
    (["train.micro_batch=4.5"], "train.micro_batch", "must be a whole number"),
    (["train.gradient_clipping=.inf"], "train.gradient_clipping", "must be a finite number"),
    (["train.optimizer.betas=[0.9]"], "train.optimizer.betas", "must have at least 2 entries"),
    (["train.optimizer.betas=[0.9, 1.0]"], "train.optimizer.betas.1", "must be less than 1"),
    (["train.optimizer.name=adam"], "train.optimizer.name", "must be one of 'adamw', 'adafactor', 'sgd' or 'adamw_8bit'"),
    (["train.optimizer.name=adafactor"], "train.optimizer.name", "nothing would be factored"),
    (["search.space.optimizer.name={choice: [adamw, adafactor]}"], "search.space.optimizer.name.choice.1", "adafactor needs zero_stage 0: at 2"),
    ([*ONE_GPU, "train.optimizer.name=adamw_8bit", "train.offload=optimizer"], "train.optimizer.name", "steps where the model is"),
    (["train.liger=true"], "train.liger", "needs GPUs"),
    (["train.offload=optimizer"], "train.offload", "needs GPUs"),
    ([*ONE_GPU, "train.offload=optimizer", "train.zero_stage=0"], "train.offload", "needs zero_stage 1 or 2 or 3"),
    ([*ONE_GPU, "train.offload=optimizer_and_parameters"], "train.offload", "needs zero_stage 3"),
    (["search.space.offload={choice: [none, optimizer]}"], "search.space.offload", "cannot be swept"),
    (["resources.gpus_per_worker=2"], "resources.gpus_per_worker", "must be at most 1"),
    (["resources.gpus_per_worker=0.7", "resources.workers_per_trial=1"], "resources.gpus_per_worker", "leaves the rest of the GPU to nobody"),
    (["resources.gpus_per_worker=0.5"], "resources.gpus_per_worker", "NCCL refuses two of its ranks on one GPU"),
    (["train.compile=true", "train.zero_stage=3"], "train.compile", "breaks what is compiled into pieces"),
    (["train=3"], "train", "must be a mapping of keys"),
    (["data.train={path: train.jsonl}"], "data.train", "must be a list"),
    (["name=a/b"], "name", "must be letters, digits"),
    (["model.path=nowhere"], "model.path", "there is no such folder"),
    (["model.path=train.jsonl"], "model.path", "must be a folder, not a file"),
    (["model.chat_template=t.jinja"], "model.chat_template", "there is no such file"),
    (["data.train.0.path=model"], "data.train.0.path", "must be a file, not a folder"),
    (["train.decay_fraction=0.95", "search.space.schedule={choice: [wsd]}"],
     "search.space.warmup", "must not add up to more than 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "key", "rule"), BROKEN, ids=lambda v: v if isinstance(v, str) else None
)
def test_refused(overrides: list[str], key: str, rule: str, problems: Problems) -> None:
    found = problems(*overrides)
    assert [problem.key for problem in found if rule in problem.rule] == [key], found
    assert all(problem.remedy and problem.where for problem in found)
    assert len(found) == 1, found


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["train.zero_stage=1", "train.precision=bf16"],
        ["train.zero_stage=0"],
        ["resources.gpus_per_worker=0", "train.precision=bf16"],
        ["data.validation.1={name: b, fraction: 0.1, weight: 0}"],
        ["data.test=[{name: t, path: test.jsonl}]"],
        ["train.budget.samples=16"],
        ["train.warmup={steps: 31}", "search.space.warmup=null"],
        ["search.space.warmup=null", "search.space.warmup.steps={int_uniform: [0, 31]}"],
        ["search.space.warmup={choice: [0.0, {steps: 3}]}"],
        ["search.space.optimizer.weight_decay={choice: [0.0, 0.1]}"],
        ["search.space.optimizer.betas={choice: [[0.9, 0.95], [0.9, 0.999]]}"],
        ["search.space.gradient_checkpointing={choice: [true, false]}"],
        ["search.space.optimizer.name={choice: [adamw, sgd]}", "search.space.optimizer.momentum={choice: [0.0, 0.9]}"],
        ["train.optimizer.name=adafactor", "train.zero_stage=0"],
        ["search.space.optimizer.name={choice: [adamw, adamw_8bit]}"],
        [*ONE_GPU, "train.liger=true", "train.compile=true"],
        [*ONE_GPU, "train.offload=optimizer"],
        [*ONE_GPU, "train.offload=optimizer_and_parameters", "train.zero_stage=3"],
        ["resources.gpus_per_worker=0.25", "resources.workers_per_trial=1"],
        ["search.start_with.0.learning_rate=1e-2"],
        ["search.start_with.1={schedule: cosine, warmup: 0}"],
        ["search.trials=null", "search.limit={gpu_hours: 1.5}"],
        ["search.trials=null", "search.sampler=grid", "search.space.learning_rate={choice: [1e-3]}"],
        ["search.sampler=cmaes"],
        ["search.limit.hours=1"],
        ["early_stop.rungs=[0.5]"],
        ["model.path=org/name", "data.train.0.path=org/rows", "data.validation.0.path=org/rows",
         "data.validation.0.split=validation"],
        ["train.decay_fraction=0.9", "search.space.schedule={choice: [wsd]}"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_accepted(overrides: list[str], problems: Problems) -> None:
    assert problems(*overrides) == []


def test_the_same_hub_rows_overlap(problems: Problems) -> None:
    (problem,) = problems("data.train.0.path=org/rows", "data.validation.0.path=org/rows")
    assert "must not overlap" in problem.rule


def test_an_empty_file(place: Path, problems: Problems) -> None:
    (place / "train.jsonl").write_text("")
    (problem,) = problems()
    assert (problem.key, problem.rule) == ("data.train.0.path", "the file is empty")


@pytest.mark.parametrize(
    ("remove", "add", "rule"),
    [
        ("config.json", {}, "no readable config.json"),
        ("config.json", {"config.json": "{"}, "no readable config.json"),
        ("tokenizer.json", {"vocab.json": "{}"}, "no tokenizer"),
        ("model.safetensors", {}, "no weights"),
        ("model.safetensors", {"pytorch_model.bin": "x"}, "weights as pickle files only (pytorch_model.bin)"),
        ("model.safetensors", {"model.safetensors.index.json": "{"}, "cannot be read"),
        (
            "model.safetensors",
            {"model.safetensors.index.json": '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}',
             "one.safetensors": "x"},
            "no two.safetensors, which model.safetensors.index.json names",
        ),
    ],
)  # fmt: skip
def test_incomplete_model_folders(
    remove: str, add: dict[str, str], rule: str, place: Path, problems: Problems
) -> None:
    (place / "model" / remove).unlink()
    for name, text in add.items():
        (place / "model" / name).write_text(text)
    (problem,) = problems()
    assert problem.key == "model.path"
    assert rule in problem.rule


@pytest.mark.parametrize(
    ("kept", "added"),
    [
        ("tokenizer.model", {"tokenizer.model": "x"}),
        ("vocab", {"vocab.json": "{}", "merges.txt": "x"}),
    ],
)
def test_other_tokenizers_will_do(kept: str, added: dict[str, str], place: Path, problems: Problems) -> None:
    (place / "model" / "tokenizer.json").unlink()
    for name, text in added.items():
        (place / "model" / name).write_text(text)
    assert problems() == [], kept


def test_a_budget_in_tokens_is_checked_once_it_is_known(loaded: Callable[..., SweepSpec]) -> None:
    spec = loaded("train.budget={tokens: 100}", "search.space.warmup={choice: [{steps: 5}]}")
    assert check_budget(spec, 96) == []
    (problem,) = check_budget(spec, 80)
    assert problem.key == "search.space.warmup.choice.0"
    assert {problem.key for problem in check_budget(spec, 10)} == {
        "search.start_with.0.batch_size",
        "search.space.batch_size.choice.1",
        "search.space.warmup.choice.0",
    }


def test_micro_batch_auto_asks_only_that_ranks_share_evenly(problems: Callable[..., list[Problem]]) -> None:
    auto = ("train.micro_batch=auto", "resources.workers_per_trial=4", *NO_START)
    assert problems(*auto, "search.space.batch_size.choice=[4, 12]") == []
    (problem,) = problems(*auto, "search.space.batch_size.choice=[4, 10]")
    assert problem.rule == "is not a multiple of workers_per_trial 4"
    assert problem.remedy.startswith("use 8 or 12")


def test_history_is_one_path_or_a_list_from_the_specs_folder(
    place: Path, loaded: Callable[..., SweepSpec]
) -> None:
    calibration = {"level": 0.05, "max_false_stop_rate": 0.1, "sweeps": 12}
    (place / "old.json").write_text(json.dumps(calibration))
    expected = (str(place / "old.json"),)
    assert loaded("early_stop.prior_sweeps=old.json").early_stop.prior_sweeps == expected
    assert loaded(f"early_stop.prior_sweeps=[{place / 'old.json'}]").early_stop.prior_sweeps == expected
    assert loaded("early_stop.prior_sweeps=null").early_stop.prior_sweeps == ()


def test_entries_of_history_that_do_not_fit_each_other_or_the_sweep_are_refused(
    place: Path, problems: Problems
) -> None:
    for name in ("a.json", "b.json"):
        (place / name).write_text(json.dumps({"level": 0.05, "max_false_stop_rate": 0.1, "sweeps": 12}))
    (second,) = problems("early_stop.prior_sweeps=[a.json, b.json]")
    assert (second.key, second.rule) == ("early_stop.prior_sweeps.1", "is a second calibration")
    (bound,) = problems("early_stop.prior_sweeps=a.json", "early_stop.max_false_stop_rate=0.05")
    assert "was calibrated for false_stop 0.1, here it is 0.05" in bound.rule
    (useless,) = problems("early_stop.prior_sweeps=a.json", "early_stop.rule=median")
    assert "rule median has no use for one" in useless.rule


def test_history_is_not_looked_for_once_a_sweep_has_begun(place: Path) -> None:
    spec = load(place / "valid.yaml", ("early_stop.prior_sweeps=gone",), check_prior_sweeps=False)
    assert spec.early_stop.prior_sweeps == (str(place / "gone"),)


def test_a_micro_batch_in_tokens_fits_any_batch_size(problems: Callable[..., list[Problem]]) -> None:
    packed = ("train.micro_batch={tokens: 4096}", "resources.workers_per_trial=4", *NO_START)
    assert problems(*packed, "search.space.batch_size.choice=[3, 10]") == []
    (problem,) = problems(*packed, "search.space.batch_size={int_uniform: [4, 32]}")
    assert problem.rule == "must be a choice"
    (problem,) = problems(*packed, "data.max_length=8192")
    assert problem.key == "train.micro_batch.tokens"
    assert problem.rule == "must hold the longest sample: data.max_length is 8192"


@pytest.mark.parametrize(
    ("micro_batch", "model_type", "said"),
    [
        (MicroTokens(tokens=64), "llama", None),
        (
            MicroTokens(tokens=64),
            "gemma2",
            "samples of a gemma2 model are padded in groups of similar length",
        ),
        (4, "gemma2", None),
        ("auto", "gemma2", None),
    ],
)
def test_a_family_that_cannot_be_packed_is_named(micro_batch: Any, model_type: str, said: str | None) -> None:
    train = Train(budget=Budget(samples=8), micro_batch=micro_batch)
    note = packing_note(train, model_type)
    assert (note is None) == (said is None)
    assert said is None or said in str(note)
