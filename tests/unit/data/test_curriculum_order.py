"""Properties of weighted and phased orders: budget, proportions and passes are as requested."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepft.data import SampleOrder, sample_order
from sweepft.data.order import CurriculumOrder, phase_shares, phased_rows
from sweepft.spec import Curriculum

LAW = settings(deadline=None, max_examples=80)


@dataclasses.dataclass
class Tokens:
    """What an order needs of a token set: the domain of each row."""

    domains: np.ndarray
    digest: str = "d"

    @property
    def rows_by_domain(self) -> dict[str, int]:
        return {f"d{i}": int(n) for i, n in enumerate(np.bincount(self.domains))}

    def __len__(self) -> int:
        return len(self.domains)


def tokens(*counts: int) -> Tokens:
    """Rows of domains d0, d1, ..., mixed up."""
    domains = np.repeat(np.arange(len(counts)), counts)
    return Tokens(np.random.default_rng(0).permutation(domains))


def curriculum(**fields: Any) -> Curriculum:
    return Curriculum.model_validate(fields)


TWO_PHASES = [{"domains": ["d0"]}, {"domains": ["d1", "d2"]}]
PHASED = curriculum(strategy="phased", phases=TWO_PHASES)

counts = st.lists(st.integers(1, 30), min_size=3, max_size=3)
weights = st.dictionaries(st.sampled_from(["d0", "d1", "d2"]), st.floats(0.1, 8), max_size=3)
asked = st.builds(
    lambda strategy, share, replay, mixture: curriculum(
        strategy=strategy, phases=[{"domains": ["d0"], "share": share}, TWO_PHASES[1]], replay=replay, mixture=mixture
    ),
    st.sampled_from(["stacked", "phased"]),
    st.none() | st.floats(0.05, 0.95),
    st.floats(0, 0.9),
    weights,
)  # fmt: skip


def taken(wanted: Curriculum, rows: Tokens, budget: int, seed: int = 0) -> np.ndarray:
    return sample_order(rows, seed, wanted, budget).indices(0, budget)


@LAW
@given(counts=counts, wanted=asked, budget=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_sample_order__takes_the_budget_and_repeats(counts, wanted, budget, seed) -> None:
    rows = tokens(*counts)
    one, again = (sample_order(rows, seed, wanted, budget) for _ in range(2))
    found = one.indices(0, budget)
    assert found.shape == (budget,)
    assert ((found >= 0) & (found < len(rows))).all()
    assert (again.indices(0, budget) == found).all()
    assert one.digest == again.digest
    cut = budget // 2
    assert (np.concatenate([one.indices(0, cut), one.indices(cut, budget)]) == found).all()


@LAW
@given(counts=counts, weight=st.floats(0.1, 9), budget=st.integers(1, 200), seed=st.integers(0, 99))
def test_sample_order__stacked_equal_weights_is_plain_bitwise(counts, weight, budget, seed) -> None:
    """Of trials of one sweep, those that are stacked and unweighted still compare sample by sample."""
    rows = tokens(*counts)
    plain = SampleOrder(len(rows), seed, rows.digest)
    equal = dict.fromkeys(rows.rows_by_domain, weight)
    for wanted in (None, curriculum(), curriculum(mixture=equal), curriculum(phases=TWO_PHASES, replay=0.5)):
        order = sample_order(rows, seed, wanted, budget)
        assert order.digest == plain.digest
        assert (order.indices(0, budget) == plain.indices(0, budget)).all()


@LAW
@given(counts=counts, share=st.floats(0.05, 0.95), replay=st.floats(0, 0.9), budget=st.integers(1, 300))
def test_sample_order__phases_take_their_domains_and_replay(counts, share, replay, budget) -> None:
    rows = tokens(*counts)
    phases = [
        {"domains": ["d0"], "share": share},
        {"domains": ["d1"], "share": (1 - share) / 2},
        {"domains": ["d2"]},
    ]
    found = rows.domains[taken(curriculum(strategy="phased", phases=phases, replay=replay), rows, budget)]
    first = round(share * budget + 1e-9)
    cuts = [0, first, int(np.floor((share + (1 - share) / 2) * budget + 0.5)), budget]
    for i in range(3):
        part = found[cuts[i] : cuts[i + 1]]
        assert set(part) <= set(range(i + 1)), "never what is to come"
        again = int((part < i).sum())
        expected = replay * len(part) if i else 0
        assert abs(again - expected) < i + 1


@LAW
@given(counts=counts)
def test_sample_order__phases_without_shares_weigh_rows_equally(counts) -> None:
    """Two passes over all rows: each row twice, whichever the strategy; only the order differs."""
    rows = tokens(*counts)
    stacked, phased = (taken(wanted, rows, 2 * len(rows)) for wanted in (curriculum(), PHASED))
    assert Counter(stacked.tolist()) == Counter(phased.tolist()) == dict.fromkeys(range(len(rows)), 2)


@LAW
@given(counts=counts, mixture=weights, budget=st.integers(1, 400))
def test_sample_order__keeps_weights_throughout(counts, mixture, budget) -> None:
    rows = tokens(*counts)
    mass = np.array([mixture.get(f"d{i}", 1.0) * n for i, n in enumerate(counts)])
    found = rows.domains[taken(curriculum(mixture=mixture), rows, budget)]
    share = mass / mass.sum()
    if len({mixture.get(f"d{i}", 1.0) for i in range(3)}) == 1:
        return  # the plain order, whose proportions are random
    for at in {budget // 3, budget // 2, budget}:
        seen = np.bincount(found[:at], minlength=3)
        assert (abs(seen - share * at) <= (1 if at == budget else 4)).all()


@LAW
@given(counts=counts, mixture=weights, budget=st.integers(1, 400), replay=st.floats(0, 0.5))
def test_sample_order__repeats_a_row_only_after_its_domain(counts, mixture, budget, replay) -> None:
    """Every pass over a domain holds each of its rows once, across phases and replay too, and is shuffled again."""
    rows = tokens(*counts)
    for wanted in (
        curriculum(mixture=mixture),
        PHASED.model_copy(update={"replay": replay, "mixture": mixture}),
    ):
        found = taken(wanted, rows, budget)
        for domain, n in enumerate(counts):
            stream = found[rows.domains[found] == domain]
            for start in range(0, len(stream), n):
                assert len(set(stream[start : start + n])) == len(stream[start : start + n])


def test_sample_order__passes_over_a_small_domain_differ() -> None:
    rows = tokens(8, 200, 1)
    found = taken(curriculum(mixture={"d0": 10.0}), rows, 280)
    stream = found[rows.domains[found] == 0]
    assert len(stream) >= 64
    assert len({tuple(stream[i : i + 8]) for i in range(0, 64, 8)}) == 8


def test_sample_order__digest_depends_on_every_setting() -> None:
    rows = tokens(10, 10, 10)
    turned = PHASED.model_copy(update={"phases": tuple(reversed(PHASED.phases))})
    orders = [
        *(sample_order(rows, seed, curriculum(), 60) for seed in (0, 1)),
        *(sample_order(rows, seed, PHASED, 60) for seed in (0, 1)),
        *(sample_order(rows, 0, PHASED.model_copy(update={"replay": r}), 60) for r in (0.1, 0.2)),
        sample_order(rows, 0, turned, 60),
        *(sample_order(rows, 0, curriculum(mixture={"d0": w}), 60) for w in (0.0, 2.0, 3.0)),
        sample_order(dataclasses.replace(rows, digest="other"), 0, PHASED, 60),
    ]
    assert len({order.digest for order in orders}) == len(orders)


def test_sample_order__sequence_is_fixed() -> None:
    """These numbers are in people's ledgers, by digest: a change of them is a change of the version."""
    rows = Tokens(np.array([0, 1, 0, 1, 0]))
    wanted = curriculum(strategy="phased", phases=[{"domains": ["d0"]}, {"domains": ["d1"]}], replay=0.25)
    order = sample_order(rows, 3, wanted, 10)
    assert order.indices(0, 10).tolist() == [0, 4, 2, 4, 0, 2, 3, 1, 4, 3]
    assert order.digest == "8358237b99f911e2cfa771c773d9478973ea8a37de265c6dd35d40a2929bd9ea"


OVERLAPPING = [
    {"domains": ["d0"], "share": 0.5},
    {"domains": ["d0", "d1"], "share": 0.3},
    {"domains": ["d2"]},
]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (curriculum(mixture={"d1": 0.0}), [(1.0, {0: 0.25, 2: 0.75})]),
        (PHASED, [(1 / 6, {0: 1.0}), (5 / 6, {1: 0.4, 2: 0.6})]),
        (PHASED.model_copy(update={"replay": 0.1}), [(1 / 6, {0: 1.0}), (5 / 6, {0: 0.1, 1: 0.36, 2: 0.54})]),
        (PHASED.model_copy(update={"mixture": {"d0": 2.0}}), [(2 / 7, {0: 1.0}), (5 / 7, {1: 0.4, 2: 0.6})]),
        (curriculum(strategy="phased", replay=0.5, phases=OVERLAPPING),
         [(0.5, {0: 1.0}), (0.3, {0: 1 / 3, 1: 2 / 3}), (0.2, {2: 0.5, 0: 1 / 6, 1: 1 / 3})]),
    ],
    ids=["weight 0", "by rows", "replay", "weighted", "a domain in two phases is not replayed in its own"],
)  # fmt: skip
def test_phase_shares__values(wanted: Curriculum, expected: list[tuple[float, dict[int, float]]]) -> None:
    found = phase_shares(wanted, {"d0": 10, "d1": 20, "d2": 30})
    assert [share for share, _ in found] == pytest.approx([share for share, _ in expected])
    for (_, parts), (_, wanted_parts) in zip(found, expected, strict=True):
        assert parts == pytest.approx(wanted_parts)


def test_curriculum_order__refuses_positions_beyond_the_budget() -> None:
    order = CurriculumOrder(phased_rows(np.zeros(3, int), [(1.0, {0: 1.0})], 5, 0))
    assert len(order.indices(5, 5)) == 0
    with pytest.raises(ValueError, match=r"must lie in \[0, 5\]"):
        order.indices(0, 6)


def test_phase_shares__refuses_a_phase_without_rows() -> None:
    with pytest.raises(ValueError, match="a phase needs rows of its domains"):
        phase_shares(PHASED, {"d0": 3})
