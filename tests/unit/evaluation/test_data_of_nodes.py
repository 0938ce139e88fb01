"""One rank of each node asks for a task's data; the others read them from that node's caches."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import pytest

from sweepft.errors import EvaluateError
from sweepft.evaluation.tasks import EvalTask

pytest.importorskip("lm_eval")


def rank_of(rank: int, hosts: list[str], folder: Path, how: str, queue: Any) -> None:
    """A rank on a host of this name; what it loads is noted as ``(rank, asks the hub, begin, end)``."""
    import socket

    import datasets
    import torch.distributed as dist

    from sweepft.evaluation import harness

    def load(task: EvalTask) -> dict[str, Any]:
        begin, online = time.monotonic(), not datasets.config.HF_HUB_OFFLINE
        queue.put(("load", rank, online, begin))
        if how == "missing" or (how == "not cached" and not online):
            raise EvaluateError("there is no such data set", key="evaluate.tasks.data")
        time.sleep(0.2 if online else 0.0)
        queue.put(("loaded", rank, online, time.monotonic()))
        return {"tasks": {}, "rank": rank}

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=len(hosts))
    socket.gethostname, harness.load_tasks = (lambda: hosts[rank]), load
    try:
        found: Any = harness.load_on_nodes(EvalTask("a task"))["rank"]
    except EvaluateError as error:
        found = error.key
    queue.put(("end", rank, found, datasets.config.HF_HUB_OFFLINE))
    dist.destroy_process_group()


def loads(hosts: list[str], folder: Path, how: str) -> list[tuple[Any, ...]]:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    ranks = [context.Process(target=rank_of, args=(i, hosts, folder, how, queue)) for i in range(len(hosts))]
    for process in ranks:
        process.start()
    notes: list[tuple[Any, ...]] = []
    while sum(note[0] == "end" for note in notes) < len(hosts):
        notes.append(queue.get(timeout=120))
    for process in ranks:
        process.join(timeout=60)
    return notes


@pytest.mark.full
def test_load_on_nodes__one_rank_of_a_node_asks(tmp_path: Path) -> None:
    notes = loads(["a", "a", "b"], tmp_path, "cached")
    assert {rank: online for kind, rank, online, _ in notes if kind == "load"} == {0: True, 1: False, 2: True}
    loaded = {rank: when for kind, rank, _, when in notes if kind == "loaded"}
    begun = {rank: when for kind, rank, _, when in notes if kind == "load"}
    assert begun[1] >= max(loaded[0], loaded[2]), "the others wait"
    assert {note[1]: note[2] for note in notes if note[0] == "end"} == {0: 0, 1: 1, 2: 2}
    assert not any(note[3] for note in notes if note[0] == "end"), "the switch is set back"


@pytest.mark.full
@pytest.mark.parametrize("how", ["missing", "not cached"])
def test_load_on_nodes__without_a_cache(tmp_path: Path, how: str) -> None:
    notes = loads(["a", "a"], tmp_path, how)
    expected = {"missing": {0: "evaluate.tasks.data", 1: "evaluate.tasks.data"}, "not cached": {0: 0, 1: 1}}[
        how
    ]
    assert {note[1]: note[2] for note in notes if note[0] == "end"} == expected
    asked = [(rank, online) for kind, rank, online, _ in notes if kind == "load"]
    assert sorted(asked) == ([(0, True)] if how == "missing" else [(0, True), (1, False), (1, True)])
