"""A model scored inside the ranks that trained it scores as from its saved folder, and leaves no state behind."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from support.engine_material import changed, engine_config, train_config
from support.ranks import on_ranks
from support.tasks import task_folder
from support.tiny import tiny_tokenizer
from sweepft.errors import ExportMismatch
from sweepft.evaluation import EvalTask
from sweepft.spec import Lora

pytest.importorskip("lm_eval")

A = train_config(batch_size=16, learning_rate=3e-2, weight_decay=0.1)
B = train_config(learning_rate=1e-2, seed=3)


def scored(runner, tokenizer: Path, tasks):
    """Scores of the model as it stands in the engine."""
    from sweepft.evaluation.harness import score
    from sweepft.training.inference import gathered_weights, plain_model

    with gathered_weights(runner.zero) as whole, plain_model(runner.zero) as model:
        assert whole
        return {t.name: score(model, str(tokenizer), t, sharded=False) for t in tasks}


def scored_each_way(runner, tokenizer: Path, task, chats):
    """Items and answers at ZeRO-3 without and with gathered weights, where ranks share them, and in batches of what fits."""
    from deepspeed.runtime.zero.linear import zero3_linear_wrap
    from torch.nn import functional

    from sweepft.evaluation.generate import answer_chats
    from sweepft.evaluation.harness import score
    from sweepft.training.inference import gathered_weights, plain_model

    runner.start(A)
    runner.run(16)
    found = []
    for gather, batch_size in ((False, 2), (True, 2), (True, None), (False, None)):
        wanted = replace(task, batch_size=batch_size)
        block = gathered_weights(runner.zero) if gather else contextlib.nullcontext(False)
        with block as whole, plain_model(runner.zero) as model:
            assert whole == gather
            assert functional.linear is not zero3_linear_wrap, "torch's own is faster"
            scores = score(model, str(tokenizer), wanted, sharded=not whole)
            said = answer_chats(
                model, str(tokenizer), chats, temperature=0.0, max_new_tokens=12, seed=0, batch_size=batch_size,
                sharded=not whole,
            )  # fmt: skip
        assert functional.linear is zero3_linear_wrap, "as training needs it"
        found.append((scores, said))
    return found, runner.run(64)["history"]["loss"]


def trained_only(runner):
    runner.start(A)
    return runner.run(16)["history"]["loss"] + runner.run(64)["history"]["loss"]


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_gathered_weights__same_items_and_answers_as_sharded(tiny_model_dir, tmp_path):
    tasks = task_folder(tmp_path / "tasks")
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    task = EvalTask("tiny_words", (str(tasks),))
    plan = engine_config(tiny_model_dir, tmp_path, zero_stage=3)
    chats = [[{"role": "user", "content": f"What is {i} and {i}?"}] for i in range(5)]
    found, rest = on_ranks(scored_each_way, 2, plan, tmp_path / "tokenizer", task, chats)
    sharded, said_before = found[0]
    for scores, said in found[1:]:
        assert scores["metrics"] == sharded["metrics"]
        assert scores["samples"] == sharded["samples"], "item by item"
        assert said == said_before
    assert len(said_before) == 5
    assert on_ranks(trained_only, 2, plan)[-len(rest) :] == rest, (
        "training goes on as if nothing had been scored"
    )


def scored_after(runner, folder: Path, tasks, first, second):
    """Train, export, train another, score the first from its folder in the other's engine; then train once more."""
    tokenizer = folder / "tokenizer"
    runner.start(first)
    runner.run(64)
    here = scored(runner, tokenizer, tasks)
    runner.export(str(folder / "weights"), str(tokenizer))
    runner.start(second)
    expected = runner.run(64)["history"], runner.evaluate()["objective"]
    runner.start(first)
    base = scored(runner, tokenizer, tasks)
    runner.load_weights(str(folder / "weights"))
    there = scored(runner, tokenizer, tasks)
    validation = runner.set_loss(runner.config.validation[0].cache)
    runner.start(second)
    after = runner.run(32)["history"]
    scored(runner, tokenizer, tasks)  # in the middle of a trial
    rest = runner.run(64)["history"]
    history = {k: after[k] + rest[k] for k in after}
    return here, base, there, validation, expected, (history, runner.evaluate()["objective"])


def saved_folder_scores(folder: Path, task: EvalTask):
    """What the harness itself says of a saved model."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=str(folder), batch_size=task.batch_size, device="cpu", dtype="float32")
    with __import__("contextlib").chdir(task.include_path[0]):
        return simple_evaluate(
            lm, tasks=[task.name], limit=task.limit, apply_chat_template=task.chat_template,
            task_manager=TaskManager(include_path=task.include_path[0], include_defaults=False),
        )  # fmt: skip


def item_scores(samples, *metrics):
    return {(s["task"], s["doc_id"], s["filter"], m): s[m] for s in samples for m in metrics if m in s}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("stage", "world_size", "changes"),
    [
        (2, 1, {}),
        pytest.param(3, 2, {}, marks=pytest.mark.full),
        pytest.param(2, 2, {"packed": True, "micro_batch": 60}, marks=pytest.mark.full),
        pytest.param(0, 1, {}, marks=pytest.mark.full),
        pytest.param(1, 2, {"precision": "bf16"}, marks=pytest.mark.full),
    ],
)
def test_plain_model__scores_equal_the_saved_folder(tiny_dropout_model, tmp_path, stage, world_size, changes):
    tasks = task_folder(tmp_path / "tasks")
    plans = [EvalTask(n, (str(tasks),), batch_size=4) for n in ("tiny_choice", "tiny_words", "tiny_group")]
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    plan = engine_config(tiny_dropout_model, tmp_path, zero_stage=stage, **changes)
    here, base, there, validation, expected, after = on_ranks(
        scored_after, world_size, plan, tmp_path, plans, A, B
    )
    for name in ("loss", "grad_norm", "lr"):
        assert after[0][name] == expected[0][name], "scoring leaves training bit-identical"
    assert after[1] == expected[1]
    assert there == here, "loaded into another trial's engine it is the same model"
    assert base["tiny_choice"]["samples"] != here["tiny_choice"]["samples"]
    assert validation["samples"] == 10
    residuals = np.array(validation["residuals"])
    assert len(residuals) == 10
    assert residuals.sum() == pytest.approx(0.0, abs=1e-3)
    error = math.sqrt(10 / 9 * np.square(residuals).sum()) / validation["tokens"]
    assert error == pytest.approx(validation["stderr"], rel=1e-3)
    for task in plans:
        theirs = saved_folder_scores(tmp_path / "weights", task)
        ours = here[task.name]
        assert ours["items"] == (20 if task.name == "tiny_group" else 10)
        for part, metrics in (ours["parts"] or {task.name: ours["metrics"]}).items():
            for metric, score in metrics.items():
                key = (
                    metric
                    if "," in metric
                    else next(k for k in theirs["results"][part] if k.startswith(f"{metric},"))
                )
                name, _, rest = key.partition(",")
                assert score["value"] == pytest.approx(theirs["results"][part][key], abs=1e-9)
                assert score["stderr"] == pytest.approx(
                    theirs["results"][part][f"{name}_stderr,{rest}"], abs=1e-9
                )
        answers = {
            (t, s["doc_id"], s["filter"]): s["filtered_resps"]
            for t in theirs["samples"]
            for s in theirs["samples"][t]
        }
        if stage == 3 or world_size == 1:
            for s in ours["samples"]:
                if isinstance(s["response"][0], str):
                    assert s["response"] == answers[s["task"], s["doc_id"], s["filter"]]


def adapters(runner, folder: Path, tasks, first):
    tokenizer = folder / "tokenizer"
    runner.start(first)
    runner.run(64)
    here = scored(runner, tokenizer, tasks), runner.evaluate()["objective"]
    runner.export(str(folder / "weights"), str(tokenizer))
    runner.start(changed(first, lora=first.lora.model_copy(update={"alpha": 1.0})))
    runner.start(first)
    runner.load_weights(str(folder / "weights"))
    return here, (scored(runner, tokenizer, tasks), runner.evaluate()["objective"])


@pytest.mark.full
@pytest.mark.parametrize(("stage", "world_size"), [(2, 1), (3, 2)])
def test_load_weights__adapter_over_the_base(tiny_model_dir, tmp_path, stage, world_size):
    pytest.importorskip("peft")
    tasks = [EvalTask("tiny_choice", (str(task_folder(tmp_path / "tasks")),))]
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    lora = Lora(rank=4, alpha=64.0, dropout=0.1, target_modules="all-linear")
    plan = engine_config(tiny_model_dir, tmp_path, zero_stage=stage)
    here, there = on_ranks(adapters, world_size, plan, tmp_path, tasks, changed(A, lora=lora))
    assert there == here


def damaged(runner, folder: Path, first):
    runner.start(first)
    try:
        runner.load_weights(str(folder))
    except ExportMismatch as error:
        return str(error)
    return ""


def test_load_weights__refuses_another_model(tiny_model_dir, tmp_path):
    from support.tiny import tiny_model

    other = tiny_model(tmp_path / "other", hidden_size=32)
    said = on_ranks(damaged, 1, engine_config(tiny_model_dir, tmp_path), other, A)
    assert "model.embed_tokens.weight has the shape (384, 32); the model needs (384, 64)" in said
