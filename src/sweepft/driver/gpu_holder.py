"""Keeps GPUs that are given up from Ray: an actor that does nothing holds each of them.

Ray gives out any free GPU of a node, so an actor may get another GPU than the wanted one. It keeps that one until the
wanted one is found, and another actor asks. The first request is made while the failed slot still holds its GPU: Ray's
daemon of the node then hands the GPU over before the cluster can place a new slot on it.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray import tune
from ray.exceptions import GetTimeoutError, RayError
from ray.tune.experiment import Trial
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweepft.driver.control import DriverOnly
from sweepft.slot.room import Gpu

_log = logging.getLogger(__name__)

_PATIENCE: Final = 20.0
"""Seconds for which GPUs that are not wanted are kept while the next actor waits: a slot then has the wanted one, and
gives it back when it fails."""

_PAUSE: Final = 60.0
"""Seconds until the next try."""


class Placeholder:
    """Holds a GPU."""

    def gpus(self) -> list[str]:
        """Ray's ids of the GPUs it holds."""
        return [str(gpu) for gpu in ray.get_runtime_context().get_accelerator_ids().get("GPU", [])]


@dataclass
class _Search:
    """The search for the wanted GPUs of one node.

    Attributes:
        asked: An actor that has no GPU yet, and what it will answer.
        since: When it was asked for.
        others: Actors that got a GPU which is not wanted.
        pause_until: When the next actor is asked for.
    """

    asked: tuple[Any, Any] | None = None
    since: float = 0.0
    others: tuple[Any, ...] = ()
    pause_until: float = 0.0


class GpuHolder(DriverOnly, tune.Callback):
    """Holds the GPUs that are given up, until the session ends or they are used again.

    Args:
        share: Of a GPU that a rank takes. Where it is less than one, an actor holds each share.
        clock: Seconds that never run backwards.

    Attributes:
        held: The GPUs that it holds, with their actors; of shared ones maybe not all shares yet.
    """

    def __init__(self, share: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.held: dict[Gpu, list[Any]] = {}
        self._share = min(1.0, share)
        self._shares = int(1 / self._share + 1e-6) if share else 1
        self._clock = clock
        self._wanted: frozenset[Gpu] = frozenset()
        self._searches: dict[str, _Search] = {}

    def want(self, gpus: frozenset[Gpu]) -> None:
        """Hold these GPUs from now on, and no others."""
        self._wanted = gpus
        for gpu in [gpu for gpu in self.held if gpu not in gpus]:
            for actor in self.held.pop(gpu):
                _end(actor)
        self.look()

    def on_step_end(self, iteration: int, trials: Sequence[Trial], **info: object) -> None:
        """Tune's loop turns."""
        if self._searches or self._missing():
            self.look()

    def look(self) -> None:
        """Take what Ray has given, and ask for what is missing; returns at once."""
        for node in {gpu.node for gpu in self._missing()} | set(self._searches):
            if not self._advance(node, self._searches.setdefault(node, _Search())):
                del self._searches[node]

    def close(self) -> None:
        """Let all GPUs go."""
        self.want(frozenset())

    def _advance(self, node: str, search: _Search) -> bool:
        """One step of a search; whether it goes on."""
        while not self._found(node) and self._answered(node, search):
            pass
        if self._found(node):
            self._stop(search)
            return False
        if search.others and self._clock() - search.since > _PATIENCE:
            self._stop(search)
            search.pause_until = self._clock() + _PAUSE
        return True

    def _answered(self, node: str, search: _Search) -> bool:
        """Whether an actor has got a GPU; the next one is asked for."""
        if search.asked is None:
            if self._clock() >= search.pause_until:
                search.asked, search.since = _ask(node, self._share), self._clock()
            return False
        actor, answer = search.asked
        try:
            ids = ray.get(answer, timeout=0)
        except GetTimeoutError:
            return False
        except RayError:  # its node is gone, or it could not start
            _log.warning("no actor holds a GPU of node %s", node, exc_info=True)
            self._stop(search)
            search.pause_until = self._clock() + _PAUSE
            return False
        wanted = [gpu for gpu in (Gpu(node, one) for one in ids) if gpu in self._missing()]
        if wanted:
            self.held.setdefault(wanted[0], []).append(actor)
        else:
            search.others = (*search.others, actor)
        search.asked = None
        return True

    def _missing(self) -> set[Gpu]:
        """Wanted GPUs of which not all shares are held."""
        return {gpu for gpu in self._wanted if len(self.held.get(gpu, ())) < self._shares}

    def _found(self, node: str) -> bool:
        return not any(gpu.node == node for gpu in self._missing())

    def _stop(self, search: _Search) -> None:
        """Let go of all that is not wanted."""
        for actor in (*search.others, *([search.asked[0]] if search.asked else [])):
            _end(actor)
        search.asked, search.others = None, ()


def _ask(node: str, share: float) -> tuple[Any, Any]:
    """An actor that waits for a GPU of a node, and its answer."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    actor = ray.remote(Placeholder).options(num_cpus=0, num_gpus=share, scheduling_strategy=there).remote()
    return actor, actor.gpus.remote()


def _end(actor: Any) -> None:
    if ray.is_initialized():  # else the actor is gone with it
        with contextlib.suppress(RayError):
            ray.kill(actor, no_restart=True)
