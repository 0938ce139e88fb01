"""Ranks called together, with real Ray actors in place of ranks: answers, causes of failures, time-outs."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from support.errors import raises
from support.ray_session import local_ray
from sweepft.errors import (
    PackingMismatch,
    RankCannotWrite,
    RankDied,
    RankEnvironment,
    RankFailed,
    RankHung,
    RankMismatch,
    RankOutOfMemory,
)
from sweepft.slot import group
from sweepft.slot.group import WorkerGroup, before_settings, call_all

pytestmark = pytest.mark.ray


class Actor:
    """Does to each rank what the test asks for."""

    def __init__(self, index: int) -> None:
        self.index = index

    def act(self, what: dict[int, str]) -> int:
        match what.get(self.index):
            case "die":
                os._exit(1)
            case "hang":
                time.sleep(60)
            case "raise":
                raise ValueError("a reason\nand details")
            case "late":
                time.sleep(0.5)
                raise RuntimeError("the collective broke")
            case "full":
                raise OSError(errno.ENOSPC, "No space left on device")
            case "stale":
                raise OSError(errno.ESTALE, "Stale file handle", "/nfs/data")
            case "missing":
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/weights")
            case "package":
                raise ModuleNotFoundError("No module named 'peft'")
            case "gpu":
                raise RuntimeError("CUDA error: an illegal instruction was encountered")
            case "memory":
                raise type("OutOfMemoryError", (RuntimeError,), {})("no memory")
            case "packing":
                raise PackingMismatch("other losses")
        return self.index

    def connect(self) -> None:
        if self.index == 1:
            time.sleep(60)

    def fingerprint(self, train_config: Any) -> dict[str, str]:
        return {"data": "a", "sweep settings": f"{self.index}"}


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with local_ray():
        yield


@pytest.fixture
def ranks() -> Iterator[list[Any]]:
    ray.cloudpickle.register_pickle_by_value(
        __import__("sys").modules[__name__]
    )  # workers cannot import tests
    made = [ray.remote(Actor).options(num_cpus=0).remote(i) for i in range(3)]
    yield made
    for actor in made:
        ray.kill(actor)


def test_call_all__answers_in_the_order_of_ranks(ranks: list[Any]) -> None:
    assert call_all(ranks, "act", 60, {}) == [0, 1, 2]


@pytest.mark.parametrize(
    ("what", "error", "key", "named"),
    [
        ({1: "raise"}, RankFailed, "rank.failed", "rank 1 raised ValueError: a reason"),
        ({2: "die"}, RankDied, "rank.died", "rank 2 died"),
        ({0: "late", 2: "die", 1: "late"}, RankDied, "rank.died", "rank 2 died"),
        ({0: "raise", 1: "full"}, RankCannotWrite, "rank.cannot_write", "rank 1 raised"),
        ({0: "stale"}, RankCannotWrite, "rank.cannot_write", "Stale file handle: '/nfs/data'"),
        ({0: "raise", 1: "missing"}, RankEnvironment, "rank.environment", "make the file readable"),
        ({0: "package"}, RankEnvironment, "rank.environment", "install the package"),
        ({0: "gpu"}, RankEnvironment, "rank.environment", "nvidia-smi"),
        ({0: "memory"}, RankOutOfMemory, "rank.out_of_memory", "rank 0 raised OutOfMemoryError"),
        ({0: "raise", 1: "packing"}, PackingMismatch, "rank.packing_mismatch", "rank 1 raised"),
    ],
)
def test_call_all__names_the_cause(
    ranks: list[Any],
    what: dict[int, str],
    error: type[Exception],
    key: str,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        group, "_AFTERMATH", 60.0
    )  # on busy cores Ray notices a death late; all ranks come to an end
    with raises(error, key) as caught:
        call_all(ranks, "act", 60, what)
    assert named in str(caught.value)


def test_call_all__names_silent_ranks(ranks: list[Any]) -> None:
    call_all(ranks, "act", 60, {})
    with raises(RankHung, "rank.hung") as caught:
        call_all(ranks, "act", 2, {0: "hang", 2: "hang"})
    assert "rank 0, 2 gave no answer" in str(caught.value)


def test_worker_group__first_collective_has_a_limit_of_its_own(
    ranks: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A network that passes nothing costs minutes, not the hour that a model may take to load."""
    monkeypatch.setattr(group, "CONNECT_SECONDS", 2.0)
    log = tmp_path / "slot-rank1.log"
    log.write_text("n2:1:1 [0] NCCL WARN socketStartConnect: Connect to 10.0.0.3<4711> failed\n")
    call_all(ranks, "act", 60, {})
    broken = WorkerGroup.__new__(WorkerGroup)
    broken._ranks = ranks
    broken.places = [
        {
            "host": f"n{i}",
            "address": f"10.0.0.{i}",
            "node": "",
            "gpus": [],
            "pid": os.getpid() * 10**6,
            "log": str(log),
        }
        for i in (1, 2, 3)
    ]
    monkeypatch.setattr(group, "dump_stacks", lambda places: "no stacks")
    with raises(RankHung, "rank.hung") as caught:
        broken._connect()
    assert "rank 1 gave no answer in 2 s" in str(caught.value)
    assert "3 ranks on n1 (10.0.0.1), n2 (10.0.0.2), n3 (10.0.0.3)" in str(caught.value)
    assert "Connect to 10.0.0.3<4711> failed" in str(caught.value)
    assert before_settings(caught.value)


def test_worker_group__refuses_ranks_that_differ(ranks: list[Any]) -> None:
    differing = WorkerGroup.__new__(WorkerGroup)  # around these actors, not around engines
    differing._ranks, differing.places = ranks, []
    with raises(RankMismatch, "rank.mismatch") as caught:
        differing.start(None, 60)  # type: ignore[arg-type]
    assert "rank 1 disagrees with rank 0 on sweep settings" in str(caught.value)
