"""However a global batch is cut, it stays the same batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.engine.batches import cut, pad


@given(
    lengths=st.lists(st.integers(2, 500), min_size=1, max_size=80),
    world=st.integers(1, 5),
    micro=st.integers(1, 9),
)
@settings(deadline=None, max_examples=200)
def test_every_row_goes_to_one_rank_once(lengths, world, micro):
    ranks = cut(np.asarray(lengths), world, micro)
    rows = [int(r) for rank in ranks for m in rank for r in m.rows]
    assert sorted(rows) == list(range(len(lengths)))
    assert len({len(rank) for rank in ranks}) == 1, "ranks must make the same number of forward passes"
    assert all(len(m.rows) <= micro for rank in ranks for m in rank)
    sizes = [sum(len(m.rows) for m in rank) for rank in ranks]
    assert max(sizes) <= -(-len(lengths) // world)


def test_ranks_get_balanced_token_counts():
    lengths = np.random.default_rng(0).lognormal(5, 0.8, 256).astype(np.int64) + 2
    for world in (2, 4, 8):
        tokens = [sum(lengths[m.rows].sum() for m in rank) for rank in cut(lengths, world, 8)]
        assert max(tokens) / min(tokens) < 1.05


def test_padding_masks_labels_and_the_first_token():
    rows = [(np.array([5, 6, 7]), np.array([True, False, True])), (np.array([8, 9]), np.array([False, True]))]
    ids, attention, labels = pad(rows, pad_id=0)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert attention.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert labels.tolist() == [[-100, -100, 7], [-100, 9, -100]]
