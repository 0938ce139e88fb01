"""A prefetched step equals the step made on demand, and an unused one is discarded."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from support.engine_material import write_rows
from sweepft.data import SampleOrder, TokenSet
from sweepft.training import batching
from sweepft.training.batching import BatchPrefetcher, Layout, collate_step


def test_prefetcher__makes_the_next_step_ahead():
    made = []
    second = threading.Event()

    def make(start, stop):
        made.append((start, stop))
        if start == 8:
            second.set()
        return (start, stop)

    prefetcher = BatchPrefetcher()
    assert prefetcher.take(make, "a", range(8), range(8, 16)) == (0, 8)
    assert second.wait(timeout=60), "made before it is asked for"
    assert prefetcher.take(make, "a", range(8, 16), range(16, 16)) == (8, 16)
    assert made == [(0, 8), (8, 16)], "and only once"


def test_prefetcher__counts_waiting_only(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(batching, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    prepared = threading.Event()

    def make(start, stop):
        if start == 8:
            assert taken.wait(timeout=60)
        clock.now += 5.0
        if start == 8:
            prepared.set()
        return start

    prefetcher, taken = BatchPrefetcher(), threading.Event()
    prefetcher.take(make, "a", range(8), range(8, 16))
    assert prefetcher.waited == 5.0
    taken.set()
    assert prepared.wait(timeout=60)
    prefetcher.take(make, "a", range(8, 16), range(16, 16))
    assert (clock.now, prefetcher.waited) == (10.0, 5.0)


@pytest.mark.parametrize(("key", "here"), [("b", range(8, 16)), ("a", range(8)), ("a", range(8, 20))])
def test_prefetcher__discards_a_step_of_another_key(key, here):
    prefetcher = BatchPrefetcher()
    prefetcher.take(lambda start, stop: ("old", start, stop), "a", range(8), range(8, 16))
    assert prefetcher.take(lambda *span: ("new", *span), key, here, range(0)) == (
        "new",
        here.start,
        here.stop,
    )


def test_prefetcher__raises_in_take():
    def make(start, stop):
        if start:
            raise OSError("stale file handle")
        return start

    prefetcher = BatchPrefetcher()
    prefetcher.take(make, "a", range(8), range(8, 16))
    with pytest.raises(OSError, match="stale file handle"):
        prefetcher.take(make, "a", range(8, 16), range(0))


@pytest.mark.parametrize("layout", [Layout("rows", 4, 0), Layout("packed", 60, 0), Layout("grouped", 60, 0)])
def test_collate_step__ranks_hold_every_sample_once(layout, tmp_path):
    rows = TokenSet(write_rows(tmp_path / "rows", 50, 1))
    order = SampleOrder(len(rows), 0, rows.digest)
    steps = [collate_step(rows, order, layout, 45, 64, rank, 3) for rank in range(3)]
    positions = np.concatenate([p for step in steps for p, _ in step.micro_batches])
    assert sorted(positions) == list(range(45, 64))
    scored = sum(len(b.targets) for step in steps for p, b in step.micro_batches if len(p))
    assert {step.tokens for step in steps} == {scored}
