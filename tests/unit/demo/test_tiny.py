"""``run --tiny``: sizes shrink, everything that selects code paths stays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from support import specs
from sweepft.data import check
from sweepft.demo.tiny import (
    architecture_of,
    make_tiny,
    tiny_evaluate,
    tiny_objective,
    tiny_spec,
    write_rows,
    write_tasks,
)
from sweepft.evaluation import EvalTask
from sweepft.evaluation.tasks import check_tasks
from sweepft.spec import Evaluate, Objective, OwnMetric, SweepSpec, check_budget, load
from sweepft.spec.space import Tied

SWEEPS = sorted((Path(__file__).parents[3] / "sweeps").glob("*.yaml"))


@pytest.fixture
def shrink(tmp_path: Path):
    """``tiny_spec`` with files that exist, as far as a spec checks them."""
    (tmp_path / "model").mkdir()
    (tmp_path / "tasks").mkdir()
    for name in ("model/config.json", "model/tokenizer.json", "train.jsonl", "other.jsonl"):
        (tmp_path / name).write_text("{}")
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "model/model.safetensors")
    return lambda spec: tiny_spec(spec, tmp_path / "model", tmp_path)


def kept(spec: SweepSpec) -> dict:
    everything = spec.to_dict()
    train = {k: v for k, v in everything["train"].items() if k not in ("budget", "micro_batch", "batch_size")}
    space = {k: v for k, v in everything["search"]["space"].items() if k not in ("batch_size", "warmup")}
    rest = (
        everything["search"]["sampler"],
        everything["early_stop"]["rule"],
        everything["early_stop"]["rungs"],
    )
    return {"train": train, "space": space, "rest": rest, "keep": everything["keep"]}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_tiny_spec__every_shipped_sweep_shrinks(path: Path, shrink) -> None:
    spec = load(path, check_files=False)
    small = shrink(spec)
    assert kept(small) == kept(spec)
    assert len(small.search.start_with) == len(spec.search.start_with)
    assert small.resources.gpus_per_worker == 0
    assert small.resources.workers_per_trial <= 2
    sizes = small.search.space["batch_size"].choices
    assert len(sizes) == len(spec.search.space["batch_size"].choices)
    assert small.train.budget.samples is not None
    steps = [
        small.train_config(
            {"batch_size": size, "learning_rate": 1e-3}, small.train.budget.samples
        ).planned_steps
        for size in sizes
    ]
    assert min(steps) == 12
    assert max(steps) <= 12 * len(sizes)


def test_tiny_spec__fits_the_end_of_the_search_and_leaves_earlier_sweeps_out(shrink) -> None:
    search = {
        "trials": 40,
        "enough": {"gain": 0.01},
        "learn_from": ["absent"],
        "space": {"learning_rate": {"log_uniform": [1e-5, 1e-3], "prior": 1e-4, "width": 2.0}},
    }
    small = shrink(specs.spec(train={"budget": {"samples": 512}, "micro_batch": 4}, search=search)).search
    assert small.enough is not None
    assert (small.enough.gain, small.enough.min_trials, small.learn_from) == (0.01, small.trials - 1, ())
    assert small.space["learning_rate"].prior == 1e-4


@pytest.mark.parametrize(
    ("rungs", "patience"), [([0.25, 0.5, 0.75], 2), ([0.25, 0.5], 1), ([0.01, 0.02], None)]
)
def test_tiny_spec__patience_fits_its_few_evaluations(
    shrink, rungs: list[float], patience: int | None
) -> None:
    spec = specs.spec(
        train={"budget": {"epochs": 4}, "micro_batch": 4},
        objective={"at": "best"},
        early_stop={"rungs": rungs, "patience": 2},
    )
    small = shrink(spec)
    assert (small.objective.at, small.early_stop.patience) == ("best", patience)
    assert small.train.budget.samples is not None
    assert check_budget(small, small.train.budget.samples, rows=400) == []


def test_tiny_spec__keeps_bounds_ties_and_rates_at_one_batch_size(shrink) -> None:
    rate = {"log_uniform": [1e-5, 1e-3], "at_batch": 128}
    search = {
        "baseline": {"batch_size": 8, "learning_rate": 2.5e-4},  # 1e-3 at batch size 128
        "subject_to": {"own": {"at_most": 0.1, "above": "base"}},
        "space": {
            "batch_size": {"choice": [8, 128]},
            "learning_rate": rate,
            "lora.rank": {"choice": [8, 16]},
        },
        "tied": {"lora.alpha": {"times": 2.0, "of": "lora.rank"}},
    }
    small = shrink(
        specs.spec(train={"budget": {"samples": 512}, "micro_batch": 4, "lora": {}}, search=search)
    )
    assert small.search.baseline == {"batch_size": 2, "learning_rate": 1e-3}
    assert (small.search.tied, list(small.search.subject_to)) == (
        {"lora.alpha": Tied(times=2.0, of="lora.rank")},
        ["own"],
    )


def test_tiny_spec__shrinks_sizes_and_drops_gpu_options(shrink, tmp_path: Path) -> None:
    spec = specs.spec(
        model={"path": "org/model", "chat_template": "./mine.jinja"},
        data={
            "validation": [{"name": "own", "path": "org/held"}],
            "test": [{"name": "one", "path": "org/one"}, {"name": "two", "path": "org/two"}],
        },
        train={
            "budget": {"epochs": 2},
            "batch_size": 4096,
            "micro_batch": 8,
            "zero_stage": 1,
            "offload": "optimizer",
            "liger": True,
            "optimizer": {"name": "sgd"},
        },
        search={
            "trials": None,
            "limit": {"hours": 8},
            "space": {
                "learning_rate": {"log_uniform": [1e-6, 1e-4]},
                "warmup.steps": {"int_uniform": [0, 100]},
            },
        },
        resources={"workers_per_trial": 8, "gpus_per_worker": 1},
        mirror={"uri": "s3://bucket/other"},
        evaluate={
            "tasks": [{"name": "mmlu", "limit": 99, "num_fewshot": 5, "chat_template": False}, "gsm8k"],
            "rank_by": {"two.loss": 1.0, "gsm8k.exact_match,strict": 1.0, "mt_bench.score": 0.1},
            "mt_bench": {"questions": "q.jsonl", "judge": "one"},
            "replicates": {"seeds": 5},
        },
    )
    small = shrink(spec)
    assert (small.train.batch_size, small.train.budget.samples) == (4, 48)
    assert small.search.space["warmup.steps"].bounds == (0, 3)
    assert (small.search.limit, small.search.trials) == (None, 6)
    assert small.model.chat_template is None
    assert (small.train.offload, small.train.liger, small.train.optimizer.name) == ("none", False, "sgd")
    assert [test.name for test in small.data.test] == ["one", "two"]
    assert small.mirror is None
    assert small.evaluate.replicates.seeds == 2
    tasks = [(task.name, task.limit, task.chat_template) for task in small.evaluate.each_task()]
    assert tasks == [("mmlu", 4, False), ("gsm8k", 4, True)]
    assert small.evaluate.weights == {"two.loss": 1.0, "gsm8k.exact_match": 1.0}
    assert small.evaluate.mt_bench is None


def test_write_tasks__tasks_have_the_metrics_of_rank_by(tmp_path: Path) -> None:
    evaluate = Evaluate(
        tasks=("mmlu", "leaderboard_ifeval", "gsm8k"),
        rank_by={
            "mmlu.acc": 1.0,
            "leaderboard_ifeval.prompt_level_strict_acc": 1.0,
            "gsm8k.exact_match,x": 1.0,
        },
    )
    task = {"task": "gsm8k", "metric": "f1", "limit": 100}
    write_tasks(specs.spec(evaluate=evaluate.model_dump(mode="json"), objective={"maximize": task}), tmp_path)
    small = Evaluate(**tiny_evaluate(evaluate, tmp_path, tests=0))
    tasks = [EvalTask(task.name, small.include_path, limit=task.limit) for task in small.each_task()]
    found = check_tasks(tasks)
    assert found == {
        name: {"items": 4, "documents": 8, "metrics": metrics, "higher": metrics}
        for name, metrics in {
            "mmlu": ["acc"],
            "leaderboard_ifeval": ["prompt_level_strict_acc"],
            "gsm8k": ["exact_match", "f1"],
        }.items()
    }


def test_tiny_evaluate__mt_bench_alone_leaves_nothing(tmp_path: Path) -> None:
    evaluate = Evaluate(mt_bench={"questions": "q.jsonl", "judge": "one"}, rank_by="mt_bench")
    assert tiny_evaluate(evaluate, tmp_path, tests=0) is None
    small = Evaluate(**tiny_evaluate(evaluate, tmp_path, tests=1))
    assert small.rank_by == {"objective": 1.0}


def test_write_rows__domains_of_phases_and_weights(tmp_path: Path, shrink) -> None:
    spec = specs.spec(
        data={
            "train": [
                {"path": "org/a", "domain": "known"},
                {"path": "org/b", "domains": ["x_*"], "domain": "new"},
            ],
            "validation": [{"name": "own", "fraction": 0.1, "domains": ["new"]}],
            "phases": [{"domains": ["known"]}, {"domains": ["new"]}],
        },
        train={"budget": {"epochs": 2}, "micro_batch": 8},
        search={
            "space": {"batch_size": {"choice": [64]}, "data.strategy": {"choice": ["stacked", "phased"]}}
        },
    )
    small = shrink(spec)
    assert small.data.curriculum == spec.data.curriculum
    write_rows(spec, tmp_path / "train.jsonl")
    assert check(small).train_rows > 300
    held = {"phases": [], "mixture": {"known": 2.0}}
    write_rows(spec.model_copy(update={"data": spec.data.model_copy(update=held)}), tmp_path / "train.jsonl")
    domains = {json.loads(line)["domain"] for line in (tmp_path / "train.jsonl").read_text().splitlines()}
    assert domains == {"known", "other"}


@pytest.mark.parametrize(
    ("path", "architecture"),
    [
        ("ibm-granite/granite-3.3-2b-base", "granite"),
        ("ibm-granite/granite-7b-base", "llama"),
        ("ibm-granite/granite-3b-code-base-2k", "llama"),
        ("meta-llama/Llama-3.2-3B", "llama"),
        ("mistralai/Mistral-7B-v0.3", "mistral"),
        ("org/novel-5b", "llama"),
    ],
)
def test_architecture_of__by_name(path: str, architecture: str) -> None:
    assert architecture_of(path) == architecture


def test_architecture_of__by_config(tmp_path: Path) -> None:
    folder = tmp_path / "mistral-by-name"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "granite"}')
    assert architecture_of(str(folder)) == "granite"


def test_make_tiny__relative_folder_works_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = make_tiny(
        load(SWEEPS[0].parent / "secret-recipe-mistral-7b.yaml", check_files=False), Path("run/material")
    ).to_dict()
    paths = [small["model"]["path"], *small["evaluate"]["include_path"]]
    paths += [
        source["path"]
        for key in ("train", "validation", "test")
        for source in small["data"][key]
        if "path" in source
    ]
    assert all(Path(path).is_absolute() for path in paths), paths


def test_tiny_objective__keeps_functions_of_your_own_and_further_tasks(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "Say {i}."}}\n' for i in range(3)))
    own = {"data": str(tmp_path / "prompts.jsonl"), "metric": "my:score", "max_tokens": 200}
    gsm = {"task": "gsm8k", "metric": "exact_match,strict-match", "limit": 100, "lower_is_better": True}
    asked = specs.spec(objective={"maximize": own | {"include_path": str(tmp_path)}, "measure": [gsm]})
    write_tasks(asked, tmp_path)
    assert (tmp_path / "tasks" / "gsm8k.yaml").is_file()
    found = Objective.model_validate(tiny_objective(asked.objective, tmp_path))
    assert isinstance(found.maximize, OwnMetric)
    assert (found.maximize.limit, found.maximize.max_tokens) == (3, 16), "as many rows as the file has"
    (further,) = found.measure
    assert (further.names, further.limit, further.lower_is_better) == (("gsm8k", "exact_match"), 4, True)
