"""A global batch is the same batch for every micro-batch size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.training.batching import Layout, pad, split_micro_batches


@given(
    lengths=st.lists(st.integers(2, 500), min_size=1, max_size=80),
    world=st.integers(1, 5),
    micro=st.integers(1, 9),
)
@settings(deadline=None, max_examples=200)
def test_split_micro_batches__every_row_once(lengths, world, micro):
    ranks = split_micro_batches(np.asarray(lengths), world, micro)
    rows = [int(r) for rank in ranks for m in rank for r in m.rows]
    assert sorted(rows) == list(range(len(lengths)))
    assert len({len(rank) for rank in ranks}) == 1, "ranks must make the same number of forward passes"
    assert all(len(m.rows) <= micro for rank in ranks for m in rank)
    sizes = [sum(len(m.rows) for m in rank) for rank in ranks]
    assert max(sizes) <= -(-len(lengths) // world)


@pytest.mark.parametrize("kind", ["packed", "grouped"])
@given(
    lengths=st.lists(st.integers(2, 500), min_size=1, max_size=80),
    world=st.integers(1, 5),
    tokens=st.integers(1, 3000),
)
@settings(deadline=None, max_examples=200)
def test_layout__token_limit_holds_for_every_micro_batch(kind, lengths, world, tokens):
    sizes = np.asarray(lengths)
    ranks = Layout(kind, tokens, 0).split_micro_batches(sizes, world)
    rows = [int(r) for rank in ranks for m in rank for r in m.rows]
    assert sorted(rows) == list(range(len(lengths)))
    assert len({len(rank) for rank in ranks}) == 1, "ranks must make the same number of forward passes"
    for micro in (m.rows for rank in ranks for m in rank if len(m.rows) > 1):
        held = sizes[micro].sum() if kind == "packed" else sizes[micro].max() * len(micro)
        assert held <= max(tokens, *lengths), "only a sample that is longer by itself may exceed the budget"


def test_split_micro_batches__balances_tokens():
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 256).astype(np.int64) + 2
    for world in (2, 4, 8):
        for layout in (Layout("rows", 8, 0), Layout("packed", 4096, 0), Layout("grouped", 4096, 0)):
            tokens = [
                sum(lengths[m.rows].sum() for m in rank)
                for rank in layout.split_micro_batches(lengths, world)
            ]
            assert max(tokens) / min(tokens) < 1.05


def test_layout__packing_takes_few_forward_passes():
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 256).astype(np.int64) + 2
    for tokens in (4096, 16384):
        (micros,) = Layout("packed", tokens, 0).split_micro_batches(lengths, 1)
        assert len(micros) <= -(-lengths.sum() // tokens) + 1


ROWS = [(np.array([5, 6, 7]), np.array([True, False, True])), (np.array([8, 9]), np.array([False, True]))]


def test_pad__masks_padding_and_the_first_token():
    ids, attention, labels = pad(ROWS, pad_id=0)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert attention.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert labels.tolist() == [[-100, -100, 7], [-100, 9, -100]]


@pytest.mark.parametrize(
    ("kind", "ids", "positions"),
    [("rows", [[5, 6, 7], [8, 9, 0]], [1, 3]), ("packed", [[5, 6, 7, 8, 9]], [1, 3])],
)
def test_collate__positions_of_targets(kind, ids, positions):
    batch = Layout(kind, 9, 0).collate(ROWS)
    assert batch.input_ids.tolist() == ids
    assert batch.positions.tolist() == positions
    assert batch.targets.tolist() == [7, 9]
    assert batch.samples.tolist() == [0, 1]
    assert batch.count == 2
