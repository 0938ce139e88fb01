"""Stack traces of ranks that do not answer, written by the ranks themselves into their logs.

A signal reaches a rank that hangs in a collective, a loop or a lock, where a call would wait. The coordinator signals
the ranks of its own node; a task without resources signals those of other nodes.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SIGNAL: Final = signal.SIGUSR1
_REMOTE_SECONDS: Final = 10.0
_WRITE_SECONDS: Final = 2.0


def answer_with_stacks() -> None:
    """Have this process write the stacks of all its threads to its standard error at each signal."""
    faulthandler.register(_SIGNAL, file=2, all_threads=True)


def dump_stacks(places: Sequence[Mapping[str, Any]]) -> str:
    """Ask all ranks of a slot for their stacks. Returns a sentence with the log files that hold them.

    Args:
        places: Of each rank its ``pid``, ``node`` (Ray's id) and ``log`` file.
    """
    before = [_size(place["log"]) for place in places]
    here = ray.get_runtime_context().get_node_id()
    away: dict[str, list[int]] = {}
    for place in places:
        if place["node"] == here:
            _ask([place["pid"]])
        else:
            away.setdefault(place["node"], []).append(place["pid"])
    asked = []
    for node, pids in away.items():
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        asked.append(ray.remote(_ask).options(num_cpus=0, scheduling_strategy=there).remote(pids))
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=_REMOTE_SECONDS)
    deadline = time.monotonic() + _WRITE_SECONDS
    while True:
        wrote = [_size(place["log"]) > size for place, size in zip(places, before, strict=True)]
        if all(wrote) or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    time.sleep(0.1)  # a stack may still be under way
    logs = [str(place["log"]) for place, did in zip(places, wrote, strict=True) if did]
    silent = [str(i) for i, did in enumerate(wrote) if not did]
    words = f"stacks: {', '.join(logs)}" if logs else "no stacks"
    return words + (f" (rank {', '.join(silent)} wrote none)" if silent else "")


def _ask(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):  # it is gone
            os.kill(pid, _SIGNAL)


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0
