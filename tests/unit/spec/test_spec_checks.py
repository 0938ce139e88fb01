# one case a line
"""Rules in and between sections and on files: for each, a spec that breaks it and one that just does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweepft.errors import Problem
from sweepft.spec import Budget, MicroTokens, SweepSpec, Train, check_budget, load, packing_note
from sweepft.spec.sweep import evaluation_points

Problems = Callable[..., list[Problem]]

FIX_LR = ("search.space.learning_rate=null",)
ONE_GPU = ("resources.gpus_per_worker=1",)
NO_START = ("search.start_with=null",)

BROKEN = [
    # overrides, key
    (["train.zero_stage=0", "train.precision=bf16"], "train.zero_stage"),
    (["data.validation.0.weight=0"], "data.validation"),
    (["data.validation=[{name: a, fraction: 0.5}, {name: b, fraction: 0.5}]"], "data.validation"),
    (["data.validation.1={name: own, fraction: 0.1}"], "data.validation.1.name"),
    (["data.test=[{name: own, path: test.jsonl}]"], "data.test.0.name"),
    (["data.validation.0={name: a, fraction: 0.1, split: x}"], "data.validation.0.split"),
    (["data.validation.0.fraction=0.1"], "data.validation.0"),
    (["data.validation=[]"], "data.validation"),
    (["data.test=[{name: t, path: train.jsonl}]"], "data.test.0.path"),
    (["search.subject_to={other: {at_most: 1}}"], "search.subject_to.other"),
    (["search.subject_to={t: {at_most: 1}}", "data.test=[{name: t, path: test.jsonl}]"], "search.subject_to.t"),
    (["search.subject_to={own: {at_most: -0.1, above: base}}"], "search.subject_to.own"),
    (["search.subject_to={own: {at_most: 0}}"], "search.subject_to.own"),
    (["search.subject_to={own: {above: base}}"], "search.subject_to.own"),
    (["search.subject_to={own: {at_most: 1, above: baseline}}"], "search.subject_to.own.above"),
    (["search.subject_to={own: {at_most: 1}}", "search.sampler=cmaes"], "search.sampler"),
    (["keep.pareto=3"], "keep.pareto"),
    (["objective.at=last"], "objective.at"),
    (["early_stop.patience=1"], "early_stop.patience"),
    (["objective.at=best", "early_stop.patience=0"], "early_stop.patience"),
    (["objective.at=best", "early_stop.patience=3", "train.budget={epochs: 1}"], "early_stop.patience"),
    (["objective.at=best", "early_stop.patience=5", "train.budget={epochs: 4}"], "early_stop.patience"),
    (["search.space.warmup.at_batch=8"], "search.space.warmup.at_batch"),
    (["search.space.learning_rate.scaling=sqrt"], "search.space.learning_rate"),
    (["search.space.learning_rate.at_batch=8", "search.start_with=[{learning_rate: 1e-3}]"],
     "search.start_with.0.learning_rate"),
    (["search.space.learning_rate.at_batch=16", "search.start_with=[{learning_rate: 1e-2, batch_size: 8}]"],
     "search.start_with.0.learning_rate"),
    (["search.space.lora.alpha={times: 2, of: lora.rank}"], "search.space.lora.alpha"),
    (["search.tied={lora.alfa: {times: 2, of: lora.rank}}", "train.lora={}"], "search.tied.lora.alfa"),
    (["search.tied={lora.alpha: {times: 2, of: lora.rang}}", "train.lora={}"], "search.tied.lora.alpha.of"),
    (["search.tied={lora.alpha: {times: 2, of: lora.rank}}"], "search.tied.lora.alpha.of"),
    (["search.tied={lora.alpha: {times: 2, of: schedule}}", "train.lora={}"], "search.tied.lora.alpha.of"),
    (["search.tied={lora.alpha: {times: 2, of: lora.rank}}", "train.lora={alpha: 3}"], "search.tied.lora.alpha"),
    (["search.tied={lora.rank: {times: 0.5, of: lora.alpha}}", "train.lora={alpha: 3}"], "search.tied.lora.rank"),
    (["search.tied={lora.alpha: {times: 0, of: lora.rank}}", "train.lora={}"], "search.tied.lora.alpha.times"),
    (["search.tied={learning_rate: {times: 1e-5, of: batch_size}}"], "search.tied.learning_rate"),
    (["search.tied={warmup: {times: 1, of: min_lr_ratio}}"], "search.tied.warmup"),
    (["search.tied={lora.alpha: {times: 2, of: lora.rank}}", "train.lora={}",
      "search.start_with=[{lora.alpha: 32}]"], "search.start_with.0.lora.alpha"),
    (["search.enough={gain: 0}"], "search.enough.gain"),
    (["search.enough={gain: -0.1}"], "search.enough.gain"),
    (["search.enough={min_trials: 5}"], "search.enough.gain"),
    (["search.enough={gain: 0.01, min_trials: 0}"], "search.enough.min_trials"),
    (["search.enough={gain: 0.01, min_trials: 10}", "search.trials=10"], "search.enough.min_trials"),
    (["search.enough={gain: 0.01}", "search.trials=12"], "search.enough.min_trials"),
    (["search.enough={gain: 0.01}", "search.sampler=grid", "search.space={batch_size: {choice: [8, 16]}}",
      "train.learning_rate=1e-3", "search.start_with=null"], "search.enough"),
    (["search.space.learning_rate.prior=1.0"], "search.space.learning_rate"),
    (["search.space.learning_rate.width=3"], "search.space.learning_rate"),
    (["search.space.learning_rate={log_uniform: [1e-4, 1e-2], prior: 1e-3, width: 1}"], "search.space.learning_rate"),
    (["search.space.learning_rate={log_uniform: [1e-4, 1e-2], prior: 1e-3, width: 0}"],
     "search.space.learning_rate.width"),
    (["search.space.seed={int_uniform: [0, 9], prior: 10}"], "search.space.seed"),
    (["search.space.batch_size={choice: [8, 16], prior: 8}"], "search.space.batch_size"),
    (["search.space.learning_rate={log_uniform: [1e-4, 1e-2], prior: 1e-3}", "search.sampler=cmaes"],
     "search.space.learning_rate.prior"),
    (["search.learn_from=absent"], "search.learn_from"),
    (["search.learn_from=[model]"], "search.learn_from.0"),
    (["search.learn_from=5"], "search.learn_from"),
    (["train.optimizer={betas: [0.9, 0.99], beta2_half_life: 1e6}"], "train.optimizer.beta2_half_life"),
    (["train.optimizer.beta2_half_life=0"], "train.optimizer.beta2_half_life"),
    (["train.optimizer={name: sgd, beta2_half_life: 1e6}"], "train.optimizer.beta2_half_life"),
    (["search.space.optimizer.beta2_half_life={log_uniform: [1e6, 1e8]}", "train.optimizer={betas: [0.9, 0.99]}"],
     "search.space.optimizer.beta2_half_life"),
    (["search.space.optimizer.betas={choice: [[0.9, 0.99], [0.9, 0.95]]}", "train.optimizer={beta2_half_life: 1e6}"],
     "train.optimizer.beta2_half_life"),
    (["train.budget={}"], "train.budget"),
    (["train.budget.tokens=5"], "train.budget"),
    (["train.budget.samples=0"], "train.budget.samples"),
    (["train.budget.samples=15", *NO_START], "search.space.batch_size.choice.1"),
    (["train.warmup={}", "search.space.warmup=null"], "train.warmup.steps"),
    (["train.warmup={steps: 32}", "search.space.warmup=null"], "train.warmup"),
    (["search.space.warmup={choice: [{steps: 40}]}"], "search.space.warmup.choice.0"),
    (["search.space.warmup=null", "search.space.warmup.steps={int_uniform: [0, 99]}"],
     "search.space.warmup.steps.int_uniform.1"),
    (["search.space.warmup.steps={choice: [1]}"], "search.space.warmup.steps"),
    (["train.learning_rate=1e-3"], "search.space.learning_rate"),
    (FIX_LR, "train.learning_rate"),
    (["search.space.lr={choice: [1]}"], "search.space.lr"),
    (["search.space.weight_decay={choice: [0.1]}"], "search.space.weight_decay"),
    (["search.space.micro_batch={choice: [1]}"], "search.space.micro_batch"),
    (["search.space.budget.samples={choice: [1]}"], "search.space.budget.samples"),
    (["search.space.batch_size={int_uniform: [8, 64]}", *NO_START], "search.space.batch_size"),
    (["search.space.batch_size={choice: [8.0]}", *NO_START], "search.space.batch_size.choice.0"),
    (["search.space.batch_size={choice: []}", *NO_START], "search.space.batch_size"),
    (["search.space.batch_size={}", *NO_START], "search.space.batch_size"),
    (["search.space.seed={choice: [1, 1]}"], "search.space.seed"),
    (["search.space.seed={choice: [1, 1.0]}"], "search.space.seed"),
    (["search.space.seed={uniform: [1, 2]}"], "search.space.seed.uniform.0"),
    (["search.space.min_lr_ratio={uniform: [0.5, 0.5]}"], "search.space.min_lr_ratio"),
    (["search.space.min_lr_ratio={uniform: [0.5, 1.5]}"], "search.space.min_lr_ratio.uniform.1"),
    (["search.space.min_lr_ratio={uniform: [0.5]}"], "search.space.min_lr_ratio.uniform"),
    (["search.space.schedule={uniform: [0, 1]}"], "search.space.schedule.uniform.0"),
    (["search.space.learning_rate={choice: [.nan]}"], "search.space.learning_rate.choice.0"),
    (["search.start_with.0.batch_size=24"], "search.start_with.0.batch_size"),
    (["search.start_with.0.learning_rate=1.0"], "search.start_with.0.learning_rate"),
    (["search.start_with.0.seed=1"], "search.start_with.0.seed"),
    (["search.trials=null"], "search.trials"),
    (["search.limit={}"], "search.limit"),
    (["search.sampler=grid"], "search.space.learning_rate"),
    (["search.sampler=grid", "search.space.seed={choice: [" + ", ".join(map(str, range(600))) + "]}",
      "search.space.power={choice: [" + ", ".join(map(str, range(1, 600))) + "]}",
      "search.space.learning_rate={choice: [1e-3]}"], "search.space"),
    (["train.micro_batch=1000000000000", "search.space.batch_size=null", "train.batch_size=9", *NO_START],
     "train.batch_size"),
    (["search.sampler=bayes"], "search.sampler"),
    (["early_stop.rungs=[0.5, 0.2]"], "early_stop.rungs"),
    (["early_stop.rungs=[0.5, 1.0]"], "early_stop.rungs.1"),
    (["early_stop.rungs=[]"], "early_stop.rungs"),
    (["early_stop.prior_sweeps=absent"], "early_stop.prior_sweeps"),
    (["early_stop.prior_sweeps=[model]"], "early_stop.prior_sweeps.0"),
    (["early_stop.prior_sweeps=model/config.json"], "early_stop.prior_sweeps"),
    (["early_stop.prior_sweeps=5"], "early_stop.prior_sweeps"),
    (["train.zero_stage=4"], "train.zero_stage"),
    (["train.seed=4294967296"], "train.seed"),
    (["search.space.decay_fraction={choice: [a, 0.5]}", "search.space.schedule={choice: [wsd]}"], "search.space.decay_fraction.choice.0"),
    (["train.micro_batch=true"], "train.micro_batch"),
    (["train.micro_batch=4.5"], "train.micro_batch"),
    (["train.gradient_clipping=.inf"], "train.gradient_clipping"),
    (["train.optimizer.betas=[0.9]"], "train.optimizer.betas"),
    (["train.optimizer.betas=[0.9, 1.0]"], "train.optimizer.betas.1"),
    (["train.optimizer.name=adam"], "train.optimizer.name"),
    (["train.optimizer.name=adafactor"], "train.optimizer.name"),
    (["search.space.optimizer.name={choice: [adamw, adafactor]}"], "search.space.optimizer.name.choice.1"),
    ([*ONE_GPU, "train.optimizer.name=adamw_8bit", "train.offload=optimizer"], "train.optimizer.name"),
    (["train.liger=true"], "train.liger"),
    (["train.offload=optimizer"], "train.offload"),
    ([*ONE_GPU, "train.offload=optimizer", "train.zero_stage=0"], "train.offload"),
    ([*ONE_GPU, "train.offload=optimizer_and_parameters"], "train.offload"),
    (["search.space.offload={choice: [none, optimizer]}"], "search.space.offload"),
    (["resources.gpus_per_worker=2"], "resources.gpus_per_worker"),
    (["resources.gpus_per_worker=0.7", "resources.workers_per_trial=1"], "resources.gpus_per_worker"),
    (["resources.gpus_per_worker=0.5"], "resources.gpus_per_worker"),
    (["train.compile=true", "train.zero_stage=3"], "train.compile"),
    (["train.lora={quantize: nf4}", "train.zero_stage=3"], "train.lora.quantize"),
    (["train.lora={quantize: int8}"], "train.lora.quantize"),
    (["train.quantize=nf4"], "train.quantize"),
    (["train.lora={modules_to_save: [lm_head]}", "train.zero_stage=3"], "train.lora.modules_to_save"),
    (["search.space.lora.quantize={choice: [nf4]}"], "search.space.lora.quantize"),
    (["search.space.lora={choice: [{rank: 8}, {rank: 8, quantize: nf4}]}"], "search.space.lora.choice.1.quantize"),
    (["train=3"], "train"),
    (["data.train={path: train.jsonl}"], "data.train"),
    (["name=a/b"], "name"),
    (["model.path=nowhere"], "model.path"),
    (["model.path=train.jsonl"], "model.path"),
    (["model.chat_template=t.jinja"], "model.chat_template"),
    (["data.train.0.path=model"], "data.train.0.path"),
    (["data.train.0.path=none*.jsonl"], "data.train.0.path"),
    (["data.train.0.train_on=first"], "data.train.0.train_on"),
    (["data.train.0.train_on=[tool]"], "data.train.0.train_on"),
    (["data.train.0.columns={x: y}"], "data.train.0.columns"),
    (["data.train.0.columns={prompt: a, completion: a}"], "data.train.0.columns"),
    (["data.train.0.roles={agent: helper}"], "data.train.0.roles"),
    (["data.validation=[{name: h, fraction: 0.1, columns: {prompt: a}}]"], "data.validation.0.columns"),
    (["train.decay_fraction=0.95", "search.space.schedule={choice: [wsd]}"],
     "search.space.warmup"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "key"), BROKEN, ids=lambda v: v if isinstance(v, str) else " ".join(v)[:80]
)
def test_load__refuses_at_one_key(overrides: list[str], key: str, problems: Problems) -> None:
    found = problems(*overrides)
    assert [problem.key for problem in found] == [key], found
    assert all(problem.rule and problem.remedy and problem.where for problem in found)


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
        ["search.subject_to={own: {at_most: 0.1, above: base}}", "keep.pareto=3"],
        ["search.tied={lora.alpha: {times: 2, of: lora.rank}}", "train.lora={}"],
        ["search.tied={lora.rank: {times: 0.5, of: lora.alpha}}", "train.lora={alpha: 32}"],
        ["search.space.learning_rate.at_batch=8", "search.start_with=[{learning_rate: 1.4e-2, batch_size: 16}]"],
        ["search.start_with.1={schedule: cosine, warmup: 0}"],
        ["search.space.learning_rate={log_uniform: [1e-4, 1e-2], prior: 1e-3, width: 3}"],
        ["search.space.learning_rate.prior=1e-2", "search.space.learning_rate.at_batch=8"],
        ["search.enough={gain: 0.01, min_trials: 3}"],
        ["search.enough={gain: 0.01}", "search.trials=null", "search.limit={hours: 1}"],
        ["train.optimizer={beta2_half_life: 10_000_000}"],
        ["search.space.optimizer.beta2_half_life={log_uniform: [1e6, 1e8]}"],
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
def test_load__accepts(overrides: list[str], problems: Problems) -> None:
    assert problems(*overrides) == []


def test_check_files__same_hub_rows_overlap(problems: Problems) -> None:
    (problem,) = problems("data.train.0.path=org/rows", "data.validation.0.path=org/rows")
    assert problem.key == "data.validation.0.path"


def test_check_files__refuses_empty_file(place: Path, problems: Problems) -> None:
    (place / "train.jsonl").write_text("")
    (problem,) = problems()
    assert problem.key == "data.train.0.path"


@pytest.mark.parametrize(
    ("remove", "add", "named"),
    [
        ("config.json", {}, "config.json"),
        ("config.json", {"config.json": "{"}, "config.json"),
        ("tokenizer.json", {"vocab.json": "{}"}, "tokenizer.json"),
        ("model.safetensors", {}, "*.safetensors"),
        ("model.safetensors", {"pytorch_model.bin": "x"}, "pytorch_model.bin"),
        ("model.safetensors", {"model.safetensors.index.json": "{"}, "model.safetensors.index.json"),
        (
            "model.safetensors",
            {"model.safetensors.index.json": '{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}',
             "one.safetensors": "x"},
            "two.safetensors",
        ),
    ],
)  # fmt: skip
def test_check_files__names_what_a_model_folder_lacks(
    remove: str, add: dict[str, str], named: str, place: Path, problems: Problems
) -> None:
    (place / "model" / remove).unlink()
    for name, text in add.items():
        (place / "model" / name).write_text(text)
    (problem,) = problems()
    assert problem.key == "model.path"
    assert named in problem.rule


@pytest.mark.parametrize(
    ("kept", "added"),
    [
        ("tokenizer.model", {"tokenizer.model": "x"}),
        ("vocab", {"vocab.json": "{}", "merges.txt": "x"}),
    ],
)
def test_check_files__accepts_other_tokenizers(
    kept: str, added: dict[str, str], place: Path, problems: Problems
) -> None:
    (place / "model" / "tokenizer.json").unlink()
    for name, text in added.items():
        (place / "model" / name).write_text(text)
    assert problems() == [], kept


def test_check_budget__checks_once_samples_are_known(loaded: Callable[..., SweepSpec]) -> None:
    spec = loaded("train.budget={tokens: 100}", "search.space.warmup={choice: [{steps: 5}]}")
    assert check_budget(spec, 96) == []
    (problem,) = check_budget(spec, 80)
    assert problem.key == "search.space.warmup.choice.0"
    assert {problem.key for problem in check_budget(spec, 10)} == {
        "search.start_with.0.batch_size",
        "search.space.batch_size.choice.1",
        "search.space.warmup.choice.0",
    }


BEST: tuple[str, ...] = (*NO_START, "objective.at=best", "early_stop.rungs=[0.25, 0.5]")


def test_check_budget__a_best_evaluation_needs_one_before_the_end(loaded: Callable[..., SweepSpec]) -> None:
    spec = loaded(*BEST, "search.space.batch_size.choice=[8, 64]")
    assert check_budget(spec, 256, rows=256) == []
    (problem,) = check_budget(spec, 64, rows=64)
    assert problem.key == "objective.at"
    assert "batch size 64" in problem.rule
    assert problem.remedy.startswith("lower search.space.batch_size"), "no rung lies within a single step"
    assert check_budget(spec, 128, rows=32) == [], "the ends of its epochs are evaluated"


@pytest.mark.parametrize(("rows", "patience", "refused"), [(256, 1, False), (256, 2, True), (64, 2, False)])
def test_check_budget__patience_needs_evaluations(
    loaded: Callable[..., SweepSpec], rows: int, patience: int, refused: bool
) -> None:
    spec = loaded(*BEST, f"early_stop.patience={patience}", "search.space.batch_size.choice=[8, 16]")
    keys = [problem.key for problem in check_budget(spec, 256, rows=rows)]
    assert keys == (["early_stop.patience"] if refused else [])


@pytest.mark.parametrize(
    ("rungs", "epochs", "points"),
    [
        ((0.1, 0.5), 0.9, (0.1, 0.5)),
        ((0.1, 0.5), 1.0, (0.1, 0.5)),
        ((0.1, 0.5), 4.0, (0.1, 0.25, 0.5, 0.75)),
        ((0.1,), 2.5, (0.1, 0.4, 0.8)),
        ((0.5,), 3.0000001, (1 / 3.0000001, 0.5, 2 / 3.0000001)),  # a budget in samples, a rounded epoch
    ],
)
def test_evaluation_points__are_rungs_and_ends_of_epochs(
    rungs: tuple[float, ...], epochs: float, points: tuple[float, ...]
) -> None:
    assert evaluation_points(rungs, epochs) == points


def test_evaluation_points__are_few_for_many_epochs() -> None:
    points = evaluation_points((0.5,), 1000.0)
    assert len(points) <= 21
    assert points[0] == pytest.approx(0.05)


def test_batch_size__auto_micro_batch_needs_equal_shares_per_rank(
    problems: Callable[..., list[Problem]],
) -> None:
    auto = ("train.micro_batch=auto", "resources.workers_per_trial=4", *NO_START)
    assert problems(*auto, "search.space.batch_size.choice=[4, 12]") == []
    (problem,) = problems(*auto, "search.space.batch_size.choice=[4, 10]")
    assert problem.key == "search.space.batch_size.choice.1"
    assert "8 or 12" in problem.remedy


def test_prior_sweeps__is_a_path_or_a_list_relative_to_the_spec(
    place: Path, loaded: Callable[..., SweepSpec]
) -> None:
    calibration = {"level": 0.05, "max_false_stop_rate": 0.1, "sweeps": 12}
    (place / "old.json").write_text(json.dumps(calibration))
    expected = (str(place / "old.json"),)
    assert loaded("early_stop.prior_sweeps=old.json").early_stop.prior_sweeps == expected
    assert loaded(f"early_stop.prior_sweeps=[{place / 'old.json'}]").early_stop.prior_sweeps == expected
    assert loaded("early_stop.prior_sweeps=null").early_stop.prior_sweeps == ()


def test_prior_sweeps__refuses_entries_that_do_not_fit(place: Path, problems: Problems) -> None:
    for name in ("a.json", "b.json"):
        (place / name).write_text(json.dumps({"level": 0.05, "max_false_stop_rate": 0.1, "sweeps": 12}))
    (second,) = problems("early_stop.prior_sweeps=[a.json, b.json]")
    assert second.key == "early_stop.prior_sweeps.1"
    (bound,) = problems("early_stop.prior_sweeps=a.json", "early_stop.max_false_stop_rate=0.05")
    assert bound.key == "early_stop.prior_sweeps"
    (useless,) = problems("early_stop.prior_sweeps=a.json", "early_stop.rule=median")
    assert useless.key == "early_stop.prior_sweeps"


def test_prior_sweeps__not_read_on_resume(place: Path) -> None:
    spec = load(place / "valid.yaml", ("early_stop.prior_sweeps=gone",), recorded=True)
    assert spec.early_stop.prior_sweeps == (str(place / "gone"),)


def test_micro_batch__in_tokens_fits_any_batch_size(problems: Callable[..., list[Problem]]) -> None:
    packed = ("train.micro_batch={tokens: 4096}", "resources.workers_per_trial=4", *NO_START)
    assert problems(*packed, "search.space.batch_size.choice=[3, 10]") == []
    (problem,) = problems(*packed, "search.space.batch_size={int_uniform: [4, 32]}")
    assert problem.key == "search.space.batch_size"
    (problem,) = problems(*packed, "data.max_length=8192")
    assert problem.key == "train.micro_batch.tokens"


@pytest.mark.parametrize(
    ("micro_batch", "model_type", "noted"),
    [
        (MicroTokens(tokens=64), "llama", False),
        (MicroTokens(tokens=64), "gemma2", True),
        (4, "gemma2", False),
        ("auto", "gemma2", False),
    ],
)
def test_packing_note__names_families_that_are_padded(micro_batch: Any, model_type: str, noted: bool) -> None:
    train = Train(budget=Budget(samples=8), micro_batch=micro_batch)
    note = packing_note(train, model_type)
    assert (note is not None) == noted
    assert not noted or model_type in str(note)
