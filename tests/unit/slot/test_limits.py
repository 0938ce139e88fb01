"""How long a slot waits for its ranks, and what it takes for a lack of memory. No Ray session."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from sweepft.errors import HostOutOfMemory, RankDied, RankFailed, RankHung, RankOutOfMemory
from sweepft.slot import group
from sweepft.slot.checkpoints import CheckpointPolicy
from sweepft.slot.group import BeatDeadline
from sweepft.slot.jobs import TrialJob
from sweepft.slot.state import SlotState
from sweepft.slot.trial_run import TrialRun
from sweepft.training.heartbeat import Heartbeat, HeartbeatReader, new_file


class Ranks:
    """Each sample takes a second of a clock of their own; a call that would take longer than its limit hangs."""

    def __init__(self) -> None:
        self.samples = 0
        self.calls: list[tuple[int, float]] = []

    def run(self, until: int, timeout: float, hang_seconds: float = 60.0) -> dict[str, Any]:
        seconds = float(until - self.samples)
        self.calls.append((until, timeout))
        if seconds > timeout:
            raise RankHung("run: rank 0 gave no answer")
        self.samples = until
        return {"history": {"step": [until], "seconds": [1.0]}, "seconds": seconds}


def test_trial_run__comes_back_part_by_part(tmp_path: Path) -> None:
    """A trial that trained for longer than the slot's patience, and has no checkpoint, trains again up to its place."""
    ranks = Ranks()
    engine = SimpleNamespace(budget_samples=200, rungs=(0.5,))
    config = SimpleNamespace(
        engine=engine, checkpoints=SimpleNamespace(folder=str(tmp_path)), patience=12.0, hang_seconds=5.0
    )
    clock = SimpleNamespace(spend=lambda phase, seconds: None)
    slot: Any = SimpleNamespace(
        config=config,
        group=ranks,
        clock=clock,
        start=lambda train_config: {"narrow": None, "plain_kernels": None},
    )
    job = TrialJob("t000", 0, {}, SimpleNamespace(batch_size=1), reported_samples=190)  # type: ignore[arg-type]
    run = TrialRun(slot, job)
    run._start()
    assert ranks.samples == 190
    assert run._started is not None
    assert run._started["from_step"] == 190
    assert ranks.calls[0] == (10, 12.0), "nothing is measured before the first part"
    assert all(timeout == 5.0 + 10 * 10 for _, timeout in ranks.calls[1:])


def test_heartbeat__is_read_by_another_process() -> None:
    file = new_file()
    heart = Heartbeat(file)
    reader = HeartbeatReader(str(file))
    assert not file.exists(), "only its memory is left"
    assert reader.read().count == 0
    heart.beat()
    heart.beat(step=True)
    assert (reader.read().count, reader.read().steps) == (2, 1)
    heart.start_trial()
    assert (reader.read().count, reader.read().steps, reader.read().slowest) == (2, 0, 0.0)
    assert HeartbeatReader("/missing/file").read().count == 0


def test_beat_deadline__follows_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model load and first step have the long limit; from then on ten times the longest silence so far."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    heart = Heartbeat(file := new_file())
    reader = HeartbeatReader(str(file))
    deadline = BeatDeadline(reader, 3600.0, 60.0)
    now[0] = 300.0
    heart.beat()
    assert deadline.left() == 3300.0, "a pass of the first step may wait for what is not compiled yet"
    now[0] = 400.0
    heart.start_trial()
    now[0] = 402.0
    heart.beat(step=True)
    assert deadline.left() == deadline.limit == 80.0
    now[0] = 452.0
    assert deadline.left() == 30.0
    heart.beat()
    assert deadline.limit == 80.0
    assert deadline.left() == deadline.limit == 60.0 + 500.0
    now[0] = 10_000.0
    assert deadline.left() == 0.0


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("NCCL error: unhandled cuda error, Cuda failure 2 'out of memory'"), RankOutOfMemory),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), RankOutOfMemory),
        (type("AcceleratorError", (RuntimeError,), {})("CUDA error: out of memory"), RankOutOfMemory),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2 GiB"), RankOutOfMemory),
        (MemoryError(), RankOutOfMemory),
        (ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory"), HostOutOfMemory),
        (ray.exceptions.ActorUnschedulableError("no node"), RankFailed),
        (ray.exceptions.RuntimeEnvSetupError("no env"), RankFailed),
        (ray.exceptions.LocalRayletDiedError(), RankFailed),
        (ray.exceptions.ActorDiedError(), RankDied),
        (ValueError("no"), RankFailed),
    ],
)  # fmt: skip
def test_failure__knows_every_lack_of_memory(
    error: Exception, kind: type[RankFailed], monkeypatch: pytest.MonkeyPatch
) -> None:
    raised = error
    if not isinstance(error, ray.exceptions.RayError):
        raised = ray.exceptions.RayTaskError("run", "a traceback", error)

    def get(future: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "get", get)
    assert type(group._failure("run", 1, object())) is kind


@pytest.mark.parametrize(
    ("found", "rungs"),
    [
        ({"stalled": 0.5, "written": 150.0}, [True, True, True]),  # 84 GB behind an 82-minute trial
        ({"stalled": 0.5, "written": 600.0}, [False, True, True]),
        ({"stalled": 150.0, "written": 150.0}, [False, False, False]),
        ({"stalled": 0.1, "written": 0.1}, [True, True, True]),
    ],
)
def test_checkpoint__first_one_is_estimated_not_tried(
    tmp_path: Path, found: dict[str, float], rungs: list[bool]
) -> None:
    asked: list[str] = []

    def estimate(folder: str, timeout: float) -> dict[str, float]:
        asked.append(folder)
        return found

    state: Any = object.__new__(SlotState)
    state.config = SimpleNamespace(patience=60.0)
    state.checkpoint_seconds, state._group = None, SimpleNamespace(estimate_checkpoint=estimate)
    policy = CheckpointPolicy(str(tmp_path), "auto")
    due = [policy.due(4900 * rung, **state.expected_checkpoint_seconds("t000")) for rung in (0.1, 0.25, 0.5)]
    assert due == rungs
    assert not policy.due(59.0, **state.expected_checkpoint_seconds("t000")), "short trials write none"
    assert asked == ["t000"], "once a slot"
