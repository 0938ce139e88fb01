"""Rotary embeddings that depend on the longest row of a batch: losses and scores do not depend on batches all the same."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from support.engine_material import VOCAB, engine_config, train_config
from support.ranks import on_ranks
from support.tasks import task_folder
from support.tiny import tiny_config, tiny_tokenizer
from sweepft.data import SampleOrder, TokenSet
from sweepft.training.batching import Layout
from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.length_classes import LengthClasses, forget_earlier_lengths, length_classes
from sweepft.training.lr_schedules import lr_at

ORIGINAL = 12
"""Rows of the material have 4 to 23 tokens."""
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": ORIGINAL,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], "long_factor": [2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0],
}  # fmt: skip
ROPES = {
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": ORIGINAL},
    "longrope": LONGROPE,
    "proportional": {},
}  # fmt: skip
classes = st.builds(
    LengthClasses,
    st.lists(st.integers(1, 500), max_size=2, unique=True).map(lambda limits: tuple(sorted(limits))),
    st.none() | st.integers(100, 500),
)


@pytest.mark.parametrize("kind", ["rows", "packed", "grouped"])
@given(
    lengths=st.lists(st.integers(2, 500), min_size=1, max_size=80),
    world=st.integers(1, 5),
    size=st.integers(1, 3000),
    rule=classes,
)
@settings(deadline=None, max_examples=150)
def test_layout__no_micro_batch_mixes_length_classes(kind, lengths, world, size, rule):
    size = size if kind != "rows" else 1 + size % 9
    sizes = np.asarray(lengths)
    ranks = Layout(kind, size, 0, rule).split_micro_batches(sizes, world)
    micros = [m.rows for rank in ranks for m in rank]
    assert sorted(int(i) for rows in micros for i in rows) == list(range(len(lengths)))
    assert len({len(rank) for rank in ranks}) == 1, "ranks must make the same number of forward passes"
    for rows in (rows for rows in micros if len(rows)):
        held = sizes[rows]
        assert len(set(rule.of(held))) == 1
        for limit in rule.limits:
            assert held.max() <= limit or held.min() > limit
        if rule.every_length_above is not None and held.max() > rule.every_length_above:
            assert held.min() == held.max()
        if len(rows) > 1:
            tokens = {"rows": len(rows), "packed": held.sum(), "grouped": held.max() * len(rows)}[kind]
            assert tokens <= max(size, *lengths)


@pytest.mark.parametrize("kind", ["rows", "packed", "grouped"])
def test_layout__one_class_is_split_as_without_classes(kind):
    lengths = np.random.default_rng(0).integers(2, 200, 60)
    plain = Layout(kind, 8 if kind == "rows" else 500, 0)
    for rule in (LengthClasses((200,)), LengthClasses((1,)), LengthClasses((), 200)):
        split = dataclasses.replace(plain, classes=rule).split_micro_batches(lengths, 2)
        for ours, theirs in zip(split, plain.split_micro_batches(lengths, 2), strict=True):
            assert [m.rows.tolist() for m in ours] == [m.rows.tolist() for m in theirs]


def test_layout__classes_keep_ranks_balanced():
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 256).astype(np.int64) + 2
    for layout in (Layout("rows", 8, 0), Layout("packed", 4096, 0), Layout("grouped", 4096, 0)):
        ranks = dataclasses.replace(layout, classes=LengthClasses((150,))).split_micro_batches(lengths, 4)
        tokens = [sum(lengths[m.rows].sum() for m in rank) for rank in ranks]
        assert max(tokens) / min(tokens) < 1.35


def test_ropes__every_type_of_transformers_is_in_the_table():
    assert set(ROPES) == set(ROPE_INIT_FUNCTIONS) - {"default"}


@pytest.mark.parametrize("rope", ["default", *ROPES])
def test_length_classes__name_the_ropes_that_depend_on_the_longest_row(rope):
    """What the classes say of a model is what its logits do."""
    torch.manual_seed(0)
    parameters = {"rope_type": rope, "rope_theta": 1e4, **ROPES.get(rope, {})}
    config = tiny_config(
        "llama", VOCAB, rope_parameters=parameters, max_position_embeddings=ORIGINAL, initializer_range=0.3
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    rule = length_classes(model)
    forget_earlier_lengths(model)
    ids = torch.randint(4, VOCAB, (2, 20))
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    with torch.no_grad():
        beside = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, :9]
        alone = model(input_ids=ids[:1, :9], use_cache=False).logits[0]
    depends = bool((beside - alone).abs().max() > 1e-3)
    assert depends is (rule.at(9) != rule.at(20))
    assert depends is (rope in ("dynamic", "longrope"))
    assert rule.at(9) == rule.at(ORIGINAL)


def phi3(folder, original=ORIGINAL):
    import transformers

    config = transformers.Phi3Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=VOCAB, max_position_embeddings=64, original_max_position_embeddings=original,
        pad_token_id=0, bos_token_id=3, eos_token_id=3,
        rope_parameters=LONGROPE | {"original_max_position_embeddings": original}, initializer_range=0.2,
    )  # fmt: skip
    return saved(config, folder)


def llama(folder, rope="longrope", positions=64):
    rope_parameters = {"rope_type": rope, "rope_theta": 1e4, **ROPES[rope]}
    config = tiny_config(
        "llama",
        VOCAB,
        rope_parameters=rope_parameters,
        max_position_embeddings=positions,
        initializer_range=0.1,
    )
    return saved(config, folder)


def dynamic_llama(folder):
    return llama(folder, "dynamic", ORIGINAL)


def saved(config, folder):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny_tokenizer(VOCAB).save_pretrained(folder)
    return folder


def test_load_tokenizer__dynamic_rope_has_no_longest_row(tmp_path):
    from sweepft.data.tokenizer import load_tokenizer
    from sweepft.spec import Model

    for model, positions in ((phi3, 64), (dynamic_llama, None)):
        path = str(model(tmp_path / model.__name__))
        assert load_tokenizer(Model(path=path), chats=False).max_positions == positions


def row_loss(model, ids, mask):
    # A copy: transformers' dynamic frequencies are those of the longest row that the model has seen.
    rotary = copy.deepcopy(model.model.rotary_emb)
    tokens, wanted = torch.from_numpy(ids)[None], torch.from_numpy(mask)[1:]
    logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
    model.model.rotary_emb = rotary
    return F.cross_entropy(logits[wanted], tokens[0, 1:][wanted], reduction="sum")


def plain_losses(config, trial, steps):
    """One row at a time in plain transformers: the losses of some steps, and the validation loss after them."""
    model = AutoModelForCausalLM.from_pretrained(config.model_path, dtype=torch.float32).train()
    rows = TokenSet(config.train_cache)
    order = SampleOrder(len(rows), trial.seed, rows.digest)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=1.0, betas=trial.optimizer.betas, eps=trial.optimizer.eps, weight_decay=0.0
    )
    losses = []
    for step in range(steps):
        chosen = [
            rows.row(int(i)) for i in order.indices(step * trial.batch_size, (step + 1) * trial.batch_size)
        ]
        sizes = {len(ids) > ORIGINAL for ids, _ in chosen}
        assert sizes == {True, False}, "every batch has rows on both sides"
        tokens = sum(int(mask[1:].sum()) for _, mask in chosen)
        parts = [row_loss(model, *row) / tokens for row in chosen]
        sum(parts).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), trial.gradient_clipping)
        for group in optimizer.param_groups:
            group["lr"] = lr_at(step, trial)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(sum(parts).item())
    held = TokenSet(config.validation[0].cache)
    with torch.no_grad():
        total = sum(row_loss(model, *held.row(i)).item() for i in range(len(held)))
    return losses, total / int(held.targets.sum())


def trained(runner, plans, trial):
    results = []
    for plan in plans:
        runner.config, runner.zero, runner._checked = plan, ZeroEngine(plan, runner.device), False
        runner.start(trial)
        kind = runner.zero.layout.kind
        losses = runner.run(plan.budget_samples)["history"]["loss"]
        results.append((kind, losses, runner.evaluate()["objective"]))
        runner.zero.close()
    return results


@pytest.mark.parametrize(
    ("model", "kind", "world_size"),
    [
        (phi3, "grouped", 1),
        (dynamic_llama, "packed", 1),
        pytest.param(llama, "packed", 2, marks=pytest.mark.full),
        pytest.param(phi3, "grouped", 2, marks=pytest.mark.full),
    ],
)
def test_trial__length_dependent_rope_equals_a_plain_loop(tmp_path, model, kind, world_size):
    trial = train_config(batch_size=16, budget_samples=48, seed=1)
    rows = engine_config(model(tmp_path / "model"), tmp_path, budget_samples=48)
    expected, objective = plain_losses(rows, trial, 3)
    plans = [dataclasses.replace(rows, micro_batch=n) for n in (1, 16)]
    plans.append(dataclasses.replace(rows, packed=True, micro_batch=4000))
    results = on_ranks(trained, world_size, rows, [*plans, plans[1]], trial)
    assert [got[0] for got in results] == ["rows", "rows", kind, "rows"]
    for _, losses, validation in results:
        assert losses == pytest.approx(expected, abs=1e-6)
        assert validation == pytest.approx(objective, abs=1e-6)
    assert results[1] == results[-1], "bitwise the same each time"


def scored(runner, tokenizer, tasks, trial):
    """Answers to items and chats: one at a time, in batches of eight, and in batches of eight of any lengths."""
    from sweepft.evaluation.generate import answer_chats
    from sweepft.evaluation.harness import score
    from sweepft.training.inference import plain_model

    runner.start(trial)
    chats = [[{"role": "user", "content": "word " * n}] for n in (1, 5, 2, 12, 3, 34)]
    how = {"temperature": 0.0, "max_new_tokens": 8, "seed": 0}
    found = []
    with plain_model(runner.zero) as model:
        for size, length_class in ((1, None), (8, runner.zero.length_class), (8, None)):
            shared = {"sharded": False, "length_class": length_class}
            plans = [dataclasses.replace(task, batch_size=size) for task in tasks]
            samples = [s for task in plans for s in score(model, tokenizer, task, **shared)["samples"]]
            said = answer_chats(model, tokenizer, chats, batch_size=size, **how, **shared)
            words = [s["response"] for s in samples if isinstance(s["response"][0], str)]
            numbers = [float(r[0]) for s in samples for r in s["response"] if not isinstance(r, str)]
            found.append((said, words, numbers))
    return found


@pytest.mark.filterwarnings("ignore")
def test_scores__do_not_depend_on_the_batch_size(tmp_path):
    """Items of 37 to 51 tokens, answers of chats of 19 to 52, around an original length of 45."""
    pytest.importorskip("lm_eval")
    from sweepft.evaluation import EvalTask

    tasks = [
        EvalTask(name, (str(task_folder(tmp_path / "tasks")),)) for name in ("tiny_choice", "tiny_words")
    ]
    path = phi3(tmp_path / "model", original=45)
    plan = engine_config(path, tmp_path)
    one, eight, mixed = on_ranks(scored, 1, plan, str(path), tasks, train_config())
    assert eight[:2] == one[:2]
    assert eight[2] == pytest.approx(one[2], abs=1e-5)
    assert mixed[2] != pytest.approx(one[2], abs=1e-3), "a batch of any lengths would be seen"
