"""A GPU that is given up is held by an actor, whichever GPUs of its node are free; real Ray, whose GPUs are counted only."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray

from sweepft.driver.gpu_holder import GpuHolder, Placeholder
from sweepft.slot.room import Gpu

pytestmark = [
    pytest.mark.ray,
    pytest.mark.full,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]


@pytest.fixture
def three_gpus() -> Iterator[str]:
    """Ray with three GPUs; yields its node."""
    if ray.is_initialized():
        pytest.skip("needs a Ray of its own")
    quiet = {"include_dashboard": False, "log_to_driver": False, "configure_logging": False}
    ray.init(address="local", num_cpus=2, num_gpus=3, **quiet)
    yield ray.nodes()[0]["NodeID"]
    ray.shutdown()


def slot(share: float = 1.0) -> tuple[Any, str]:
    """An actor on a GPU, and which one it is."""
    actor = ray.remote(Placeholder).options(num_cpus=0, num_gpus=share).remote()
    (gpu,) = ray.get(actor.gpus.remote())
    return actor, gpu


def until(holder: GpuHolder, reached: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, holder.held
        holder.on_step_end(0, [])
        time.sleep(0.05)


def free() -> float:
    return ray.available_resources().get("GPU", 0.0)


def test_gpu_holder__finds_the_wanted_gpu_among_free_ones(three_gpus: str) -> None:
    healthy, sick = slot(), slot()
    wanted = Gpu(three_gpus, sick[1])
    holder = GpuHolder(share=1.0)
    holder.want(frozenset({wanted}))
    until(holder, lambda: bool(holder._searches[three_gpus].others))  # the third GPU was free
    ray.kill(sick[0])
    until(holder, lambda: not holder._searches)
    assert set(holder.held) == {wanted}
    until(holder, lambda: free() == 1.0)
    new = slot()
    assert new[1] not in (healthy[1], sick[1])
    holder.close()
    until(holder, lambda: free() == 1.0)
    assert slot()[1] == sick[1], "a resume uses it again"


def test_gpu_holder__holds_each_share_of_a_shared_gpu(three_gpus: str) -> None:
    whole = [slot() for _ in range(2)]
    halves = [slot(0.5) for _ in range(2)]
    (sick,) = {gpu for _, gpu in halves}
    holder = GpuHolder(share=0.5)
    holder.want(frozenset({Gpu(three_gpus, sick)}))
    for i, (actor, _) in enumerate(halves):
        ray.kill(actor)
        until(holder, lambda i=i: [len(held) for held in holder.held.values()] == [i + 1])
    until(holder, lambda: not holder._searches)
    assert free() == 0.0
    ray.kill(whole[0][0])
    assert slot(0.5)[1] == whole[0][1]
    holder.close()


def test_gpu_holder__lets_go_of_others_while_a_slot_has_the_wanted_one(three_gpus: str) -> None:
    now = [0.0]
    sick = slot()
    holder = GpuHolder(share=1.0, clock=lambda: now[0])
    holder.want(frozenset({Gpu(three_gpus, sick[1])}))
    until(holder, lambda: len(holder._searches[three_gpus].others) == 2)
    now[0] = 30.0
    until(holder, lambda: free() == 2.0)
    ray.kill(sick[0])
    until(holder, lambda: free() == 3.0)
    now[0] = 100.0
    until(holder, lambda: set(holder.held) == {Gpu(three_gpus, sick[1])})
    until(holder, lambda: free() == 2.0)
    holder.close()
