"""All ranks of a slot as one object: called together, ended together, and the failed one named at once.

A rank that hangs writes the stacks of its threads into its log on a signal, which reaches it in a collective, a loop or
a lock. The coordinator signals the ranks of its own node; a task without resources signals those of other nodes.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import ray
from ray.util.placement_group import PlacementGroup, placement_group_table
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from sweepft.errors import (
    ExportMismatch,
    HostOutOfMemory,
    LigerMismatch,
    PackingMismatch,
    RankCannotMeasure,
    RankCannotWrite,
    RankDied,
    RankEnvironment,
    RankFailed,
    RankHung,
    RankMismatch,
    RankOutOfMemory,
    TrialError,
    environment_remedy,
    is_out_of_memory,
    is_storage_error,
)
from sweepft.evaluation import EvalTask, OwnTask
from sweepft.slot.rank import STACKS_SIGNAL, Rank
from sweepft.slot.room import Gpu
from sweepft.spec import TrainConfig
from sweepft.training.config import EngineConfig
from sweepft.training.heartbeat import HeartbeatReader

_KINDS: dict[str, type[RankFailed]] = {
    "PackingMismatch": PackingMismatch,
    "LigerMismatch": LigerMismatch,
    "ExportMismatch": ExportMismatch,
    "OwnMetricError": RankCannotMeasure,
}
"""What a rank may raise that has an error class of its own here, by the exception's name."""

CONNECT_SECONDS: Final = 120.0
"""For the ranks' first collective. It takes seconds where network and GPUs are in order."""

_AFTERMATH = 2.0
"""Seconds in which the other ranks fail as a consequence, which are then not taken for its cause."""


@dataclass(frozen=True)
class WorkerShape:
    """Ranks of a slot and what each of them takes.

    Attributes:
        workers: Ranks (the world size).
        cpus: Logical CPUs of each.
        gpus: GPUs of each; 0 trains on the CPU.
        env: Environment variables of each.
    """

    workers: int
    cpus: float
    gpus: float
    env: Mapping[str, str] = field(default_factory=dict)


class WorkerGroup:
    """The ranks of one slot.

    Args:
        plan: What all trials share.
        shape: How many ranks, and their size.
        placement: Placement group whose bundle i is rank i's.
        log_prefix: Path prefix of the ranks' log files.
        start_timeout: Seconds for processes and imports.

    Attributes:
        places: What ``Rank.where`` has returned on each rank.
        nodes: Ray's id of each rank's node.
    """

    nodes: tuple[str, ...] = ()

    def __init__(
        self,
        plan: EngineConfig,
        shape: WorkerShape,
        placement: PlacementGroup,
        log_prefix: str,
        start_timeout: float = 600.0,
    ) -> None:
        actor = ray.remote(Rank)
        self._ranks = [
            actor.options(
                num_cpus=shape.cpus,
                num_gpus=shape.gpus,
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement, placement_group_bundle_index=i
                ),
            ).remote(i, plan, f"{log_prefix}-rank{i}.log", dict(shape.env))
            for i in range(shape.workers)
        ]
        self.places: list[dict[str, Any]] = []
        self.nodes = nodes_of(placement)
        self._beats = HeartbeatReader(None)
        self._cpus = shape.cpus
        try:
            self.places = self._call("where", start_timeout)
            self._beats = HeartbeatReader(self.places[0]["beats"])
            self._call("prepare", start_timeout, self.places, shape.gpus)
            self._connect()
        except BaseException:
            self.close()
            raise

    def _connect(self) -> None:
        """Form the process group and try it, under a limit of its own: a broken network or GPU hangs here."""
        try:
            self._call("connect", CONNECT_SECONDS)
        except TrialError as error:
            error.args = (f"{error}{network_words(self.places)}",)
            raise

    @property
    def narrow(self) -> str | None:
        """Why the ranks have fewer CPUs than they hold, as a sentence, or None."""
        return narrow_affinity(self.places, self._cpus)

    def start(self, train_config: TrainConfig, timeout: float) -> dict[str, Any]:
        """Check that ranks agree, then begin the trial on all of them.

        Raises:
            RankMismatch: If ranks differ in settings, data, weights or package versions.
        """
        _same(self._call("fingerprint", timeout, train_config), self.nodes)
        return dict(self._call("start", timeout, train_config)[0])

    def run(self, until_samples: int, timeout: float, hang_seconds: float = 60.0) -> dict[str, Any]:
        """Train on all ranks up to a number of samples; the result of the whole group.

        Args:
            until_samples: Of the trial.
            timeout: Seconds until its first optimizer step is done; for all of it where rank 0 shows no sign of life.
            hang_seconds: From then on, seconds of silence beyond ten times the longest one so far.
        """
        deadline = BeatDeadline(self._beats, timeout, hang_seconds)
        return dict(self._call("run", timeout, until_samples, deadline=deadline)[0])

    def evaluate(self, timeout: float) -> dict[str, Any]:
        """Validation losses, computed by all ranks together."""
        return dict(self._call("evaluate", timeout)[0])

    def find_max_micro_batch(self, timeout: float) -> int:
        """The rows a rank can run at once, found by trying and set on all ranks. Start the trial again afterwards."""
        rows = min(self._call("find_max_micro_batch", timeout))
        self._call("set_micro_batch", timeout, rows)
        return int(rows)

    def keep_weights(self, timeout: float) -> dict[str, Any]:
        """Copy the trial's weights as they are now to the ranks' main memory; ``seconds``."""
        return dict(self._call("keep_weights", timeout)[0])

    def use_kept_weights(self, samples: int, timeout: float) -> dict[str, Any]:
        """Put the copy made at this number of samples back, before an export; ``found`` and ``seconds``."""
        return dict(self._call("use_kept_weights", timeout, samples)[0])

    def save(self, folder: str, timeout: float) -> dict[str, Any]:
        """Begin to write a checkpoint; ``seconds`` that training waited, ``bytes``, ``former`` (as of
        `settle_checkpoint`) and, where it will not be written, ``skipped``.
        """
        return dict(self._call("save", timeout, folder)[0])

    def settle_checkpoint(self, timeout: float, *, cancel: bool = False) -> dict[str, Any]:
        """Wait for the checkpoint that is being written, or give it up; ``seconds`` of the write, or ``skipped``."""
        return dict(self._call("settle_checkpoint", timeout, cancel)[0])

    def estimate_checkpoint(self, folder: str, timeout: float) -> dict[str, float]:
        """Seconds that training is likely to wait for a checkpoint, ``stalled``, and that the write behind it takes,
        ``written``: from its bytes, and a short copy and write on every rank.
        """
        found = self._call("estimate_checkpoint", timeout, folder)
        return {name: max(rank[name] for rank in found) for name in ("stalled", "written")}

    def restore(self, folder: str, timeout: float) -> dict[str, Any]:
        """Restore a checkpoint on all ranks; ``step``, ``samples`` and ``seconds``."""
        return dict(self._call("restore", timeout, folder)[0])

    def export(self, folder: str, tokenizer: str, timeout: float) -> dict[str, Any]:
        """Write the trial's weights as a plain folder; ``seconds``."""
        return dict(self._call("export", timeout, folder, tokenizer)[0])

    def load_weights(self, folder: str, timeout: float) -> dict[str, Any]:
        """Put an exported trial's weights into the trial just started; ``seconds``."""
        return dict(self._call("load_weights", timeout, folder)[0])

    def set_loss(self, cache: str, timeout: float) -> dict[str, Any]:
        """Loss of a token set: ``loss``, ``stderr``, ``tokens``, ``samples``."""
        return dict(self._call("set_loss", timeout, cache)[0])

    def score(self, task: EvalTask, tokenizer: str, items: str, timeout: float) -> dict[str, Any]:
        """Scores on a task of the harness (see ``Rank.score``)."""
        return dict(self._call("score", timeout, task, tokenizer, items)[0])

    def measure(
        self, task: EvalTask | OwnTask, metric: str, tokenizer: str, timeout: float
    ) -> dict[str, Any]:
        """A metric of the weights as they stand (see ``Rank.measure``)."""
        return dict(self._call("measure", timeout, task, metric, tokenizer)[0])

    def answer(self, chats: Sequence[Any], timeout: float, **how: Any) -> list[str]:
        """The model's next turn in each chat (see ``sweepft.evaluation.generate``)."""
        return list(self._call("answer", timeout, chats, how)[0])

    def close(self) -> None:
        """End all ranks at once. They hold nothing that must be saved."""
        for rank in self._ranks:
            ray.kill(rank, no_restart=True)
        self._ranks = []

    def _call(self, method: str, timeout: float, *args: Any, deadline: Deadline | None = None) -> list[Any]:
        try:
            return call_all(self._ranks, method, timeout, *args, places=self.places, deadline=deadline)
        except TrialError as error:
            error.nodes, error.gpus = failed_nodes(error, self.nodes), failed_gpus(error, self.places)
            raise


def nodes_of(placement: PlacementGroup) -> tuple[str, ...]:
    """Ray's id of the node of each bundle."""
    found = placement_group_table(placement)["bundles_to_node_id"]
    return tuple(str(found[bundle]) for bundle in sorted(found))


def failed_nodes(error: TrialError, nodes: Sequence[str]) -> tuple[str, ...]:
    """The nodes of the ranks that failed.

    All nodes of the slot where it is unknown which rank did, and where ranks that cannot meet complain of each other.

    Args:
        error: Of a call of all ranks.
        nodes: Of each rank.
    """
    return tuple(dict.fromkeys(nodes[rank] for rank in _failed_ranks(error, len(nodes))))


def failed_gpus(error: TrialError, places: Sequence[Mapping[str, Any]]) -> tuple[Gpu, ...]:
    """The GPUs of the ranks that failed, as `failed_nodes`; none where ranks have no GPUs.

    Args:
        error: Of a call of all ranks.
        places: What ``Rank.where`` has returned on each rank; empty where it has not.
    """
    ranks = _failed_ranks(error, len(places))
    return tuple(dict.fromkeys(gpu for rank in ranks for gpu in gpus_of(places[rank])))


def gpus_of(place: Mapping[str, Any]) -> list[Gpu]:
    """The GPUs of a rank."""
    return [Gpu(place["node"], gpu) for gpu in place["gpus"]]


def _failed_ranks(error: TrialError, count: int) -> Sequence[int]:
    """The ranks that may be the cause of an error, of so many."""
    of_one_rank = isinstance(error, RankDied | RankEnvironment | RankCannotWrite | RankOutOfMemory)
    between_ranks = error.method in ("prepare", "connect") and not of_one_rank
    if between_ranks or not error.ranks:
        return range(count)
    return error.ranks if count else ()


def network_words(places: Sequence[Mapping[str, Any]]) -> str:
    """Between which nodes the first collective failed, and what NCCL says of it in the ranks' logs."""
    hosts = [f"{place['host']} ({place['address']})" for place in places]
    words = f"\n  in the first all_reduce of {len(places)} ranks on {', '.join(dict.fromkeys(hosts))}"
    for place in places:
        warnings = [line for line in _tail(place["log"]).splitlines() if "NCCL WARN" in line]
        if warnings:
            words += f"\n  {place['host']}: {warnings[-1].strip()[:300]}"
    if len(set(hosts)) > 1:
        words += (
            "\n  name the network's interface in resources.env (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME), or keep "
            "trials on one node (resources.placement: node)"
        )
    return words


def _tail(file: str) -> str:
    """The end of a log; a rank of another node may write where this one cannot read."""
    try:
        with Path(file).open("rb") as log:
            log.seek(max(0, _size(file) - 65_536))
            return log.read().decode(errors="replace")
    except OSError:
        return ""


def narrow_affinity(places: Sequence[Mapping[str, Any]], cpus: float) -> str | None:
    """Why ranks may run on fewer CPUs than they hold together, or None.

    A batch system that binds what it starts to one core makes ranks many times slower, without any error.

    Args:
        places: Of each rank ``host``, ``node``, ``usable_cpus`` and ``node_cpus``, as ``Rank.where`` returns them.
        cpus: Logical CPUs that each rank holds.
    """
    for node in dict.fromkeys(place["node"] for place in places):
        here = [place for place in places if place["node"] == node]
        usable, there = min(place["usable_cpus"] for place in here), here[0]["node_cpus"]
        if usable < min(len(here) * cpus, there):
            return (
                f"the {len(here)} rank(s) on {here[0]['host']} hold {len(here) * cpus:g} CPUs and may run on {usable} "
                f"of its {there}: start Ray with all of them (on Slurm: export SRUN_CPUS_PER_TASK)"
            )
    return None


_BEFORE_SETTINGS: Final = ("where", "prepare", "connect", "fingerprint")
"""What ranks are asked for before they see a trial's settings."""


def before_settings(error: TrialError) -> bool:
    """Whether ranks failed before a trial's settings could be the cause."""
    return error.method in _BEFORE_SETTINGS or isinstance(error, RankMismatch)


class Deadline:
    """A moment by which all ranks must have answered.

    Args:
        seconds: From now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.limit = seconds

    def left(self) -> float:
        """Seconds until then; 0 when it has passed."""
        return max(0.0, self._end - time.monotonic())


class BeatDeadline(Deadline):
    """A moment that each sign of life of rank 0 puts off, once the trial has taken a step.

    Args:
        beats: Of rank 0.
        seconds: From now, until the first step is done.
        hang_seconds: See `WorkerGroup.run`.
    """

    def __init__(self, beats: HeartbeatReader, seconds: float, hang_seconds: float) -> None:
        super().__init__(seconds)
        self._beats = beats
        self._hang_seconds = hang_seconds
        self._count = beats.read().count

    def left(self) -> float:
        """Seconds until then; 0 when it has passed."""
        beat = self._beats.read()
        if beat.count != self._count:
            self._count = beat.count
            if beat.steps:
                self.limit = self._hang_seconds + 10.0 * beat.slowest
                self._end = time.monotonic() + self.limit
        return super().left()


_LOOK_EVERY: Final = 1.0


def call_all(
    ranks: Sequence[Any],
    method: str,
    timeout: float,
    *args: Any,
    places: Sequence[Mapping[str, Any]] = (),
    deadline: Deadline | None = None,
) -> list[Any]:
    """Call a method on all ranks at once, and wait for all answers.

    Args:
        ranks: Actor handles, in the order of their ranks.
        method: Its name.
        timeout: Seconds for all of them together.
        args: Of the call, the same for each rank.
        places: Where the ranks run, as ``Rank.where`` returns it; with it, ranks that hang dump their stacks.
        deadline: By when they must have answered; by default after ``timeout``.
    Returns:
        The answers, in the order of the ranks.
    Raises:
        RankFailed: A subclass that names the cause: the rank that died or raised first, not those that failed with it.
        RankHung: If a rank gives no answer in time.
    """
    futures = {getattr(rank, method).remote(*args): i for i, rank in enumerate(ranks)}
    results: list[Any] = [None] * len(futures)
    pending = list(futures)
    deadline = deadline or Deadline(timeout)
    while pending:
        # One at a time: a failed rank is seen while the others still wait for it in a collective.
        left = deadline.left()
        done, pending = ray.wait(pending, num_returns=1, timeout=min(left, _LOOK_EVERY))
        if not done and left > 0:
            continue
        if not done:
            silent = ", ".join(str(futures[f]) for f in sorted(pending, key=futures.__getitem__))
            message = f"{method}: rank {silent} gave no answer in {deadline.limit:.0f} s"
            hung = RankHung(f"{message}; {dump_stacks(places)}" if places else message)
            hung.method, hung.ranks = method, tuple(sorted(futures[f] for f in pending))
            raise hung
        try:
            results[futures[done[0]]] = ray.get(done[0])
        except ray.exceptions.RayError:
            # When a rank dies, collectives break in the others: give them a moment, then name the cause.
            late: list[Any] = []
            if pending:
                late, _ = ray.wait(pending, num_returns=len(pending), timeout=_AFTERMATH)
            failures = {d: _failure(method, futures[d], d) for d in (*done, *late)}
            known = {d: failure for d, failure in failures.items() if failure is not None}
            cause = min(known, key=lambda d: _by_cause(known[d]))
            known[cause].method, known[cause].ranks = method, (futures[cause],)
            raise known[cause] from None
    return results


def _failure(method: str, index: int, future: Any) -> RankFailed | None:
    """What went wrong on a rank, or None."""
    try:
        ray.get(future)
    except ray.exceptions.RayActorError as error:
        if is_out_of_memory(error):  # an actor that Ray's monitor has ended
            return HostOutOfMemory(
                f"{method}: rank {index} was ended, main memory ran out: {_first_line(error)}"
            )
        return RankDied(f"{method}: rank {index} died: {_first_line(error)}")
    except ray.exceptions.RayTaskError as error:
        cause = error.cause or error
        message = f"{method}: rank {index} raised {_first_line(cause)}"
        if is_storage_error(cause):
            return RankCannotWrite(message)
        kind, remedy = _KINDS.get(type(cause).__name__, RankFailed), environment_remedy(cause)
        if is_out_of_memory(cause):
            return RankOutOfMemory(message)
        if kind is RankFailed and remedy is not None:
            return RankEnvironment(f"{message}\n  {remedy}")
        return kind(message)
    except (
        ray.exceptions.OutOfMemoryError
    ) as error:  # Ray's monitor ends a process before the machine's memory is full
        return HostOutOfMemory(f"{method}: rank {index} was ended, main memory ran out: {_first_line(error)}")
    except ray.exceptions.ActorUnschedulableError as error:
        return RankFailed(f"{method}: rank {index} could not be placed: {_first_line(error)}")
    except ray.exceptions.RayError as error:
        return RankFailed(f"{method}: rank {index} failed: {_first_line(error)}")
    return None


def _by_cause(failure: RankFailed) -> int:
    """A rank that died comes first, then a known cause, then what ranks raise when another one is gone."""
    causes: tuple[type[RankFailed], ...] = (
        *(RankDied, RankCannotWrite),
        RankOutOfMemory,
        *_KINDS.values(),
        *(RankEnvironment, RankFailed),
    )
    return next(i for i, kind in enumerate(causes) if isinstance(failure, kind))


def _same(fingerprints: list[dict[str, str]], nodes: Sequence[str]) -> None:
    first = fingerprints[0]
    for rank, other in enumerate(fingerprints[1:], start=1):
        for name, value in first.items():
            if other.get(name) != value:
                mismatch = RankMismatch(
                    f"rank {rank} disagrees with rank 0 on {name}: {other.get(name)} against {value}\n"
                    "  make model, data and packages the same on every node, then resume"
                )
                mismatch.nodes = tuple(dict.fromkeys(nodes))  # either may be the odd one
                raise mismatch


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:500]


_REMOTE_SECONDS: Final = 10.0
_WRITE_SECONDS: Final = 2.0


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
            os.kill(pid, STACKS_SIGNAL)


def _size(file: str) -> int:
    try:
        return Path(file).stat().st_size
    except OSError:
        return 0
