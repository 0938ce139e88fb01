"""One rank as a Ray actor: forwards calls to ``sweepft.training``, which it imports inside the worker process only."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sweepft.evaluation import EvalTask, OwnTask
from sweepft.files import open_to_append
from sweepft.output import dropping_stream
from sweepft.spec import TrainConfig
from sweepft.training.config import EngineConfig
from sweepft.training.heartbeat import Heartbeat, new_file
from sweepft.training.rank_environment import device_index, set_rank_environment
from sweepft.training.rendezvous import open_listener
from sweepft.training.writable_home import use_writable_caches

STACKS_SIGNAL: Final = signal.SIGUSR1
"""At this signal a rank writes the stacks of all its threads to its standard error."""


class Rank:
    """Runs in its own process; every method is called on all ranks of the slot at once.

    Args:
        index: Rank within the slot.
        plan: What all trials share.
        log_file: Takes what libraries print in this process.
        env: Environment variables of the spec.
    """

    def __init__(
        self, index: int, plan: EngineConfig, log_file: str, env: Mapping[str, str] | None = None
    ) -> None:
        set_rank_environment(env or {})
        self._index = index
        self._plan = plan
        self._runner: Any = None
        self._listener: socket.socket | None = None
        self._met: Any = None
        self._beats = new_file() if index == 0 else None
        self._heartbeat = Heartbeat(self._beats)
        self._log_file = log_file
        _send_output_to(log_file)
        faulthandler.register(STACKS_SIGNAL, file=2, all_threads=True)

    def where(self) -> dict[str, Any]:
        """This process's node (address, host name, Ray's id, CPUs), pid, log file, the CPUs it may run on, Ray's ids of
        its GPUs, and the port of its listener.
        """
        import ray

        address = ray.util.get_node_ip_address()
        if self._listener is None:
            self._listener = open_listener(address)
        return {
            "address": address,
            "port": self._listener.getsockname()[1],
            "host": socket.gethostname(),
            "node": ray.get_runtime_context().get_node_id(),
            "gpus": [str(gpu) for gpu in _own_gpus()],
            "pid": os.getpid(),
            "log": self._log_file,
            "beats": str(self._beats) if self._beats else None,
            "usable_cpus": _usable_cpus(),
            "node_cpus": os.cpu_count() or 1,
        }

    def prepare(self, places: Sequence[Mapping[str, Any]], gpus: float) -> None:
        """Import the libraries, and meet the other ranks (see ``sweepft.training.distributed.prepare``).

        Args:
            places: What `where` has returned on each rank.
            gpus: This rank's share of a GPU.
        """
        use_writable_caches(Path(self._log_file).parent.parent / "home")
        from sweepft.training.distributed import check_reach, prepare

        own, first = places[self._index], places[0]
        firsts = {place["node"]: i for i, place in reversed(list(enumerate(places)))}
        if firsts[own["node"]] == self._index:
            others = [places[i] for node, i in firsts.items() if node != own["node"]]
            check_reach(own["host"], [(p["host"], p["address"], p["port"]) for p in others])
        self._met = prepare(
            self._index,
            len(places),
            first["address"],
            first["port"],
            self._plan.threads,
            gpus,
            self._listener if self._index == 0 else None,
            own_address=own["address"] if len(firsts) > 1 else None,
            device_index=device_index(_own_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")),
        )

    def connect(self) -> None:
        """Form the process group, try device and network, and open the data."""
        from sweepft.training.distributed import connect
        from sweepft.training.trainer import TrialRunner

        if self._listener is not None:
            self._listener.close()  # all nodes have been reached; rank 0's was taken over
            self._listener = None
        self._runner = TrialRunner(self._plan, connect(self._met), self._heartbeat)

    def fingerprint(self, train_config: TrainConfig) -> dict[str, str]:
        """What must be equal on all ranks (see ``sweepft.training.fingerprint``)."""
        from sweepft.training.fingerprint import fingerprint

        return fingerprint(self._plan, train_config)

    def start(self, train_config: TrainConfig) -> dict[str, Any]:
        """Begin a trial (see ``TrialRunner.start``)."""
        return self._only_first(self._runner.start(train_config))

    def run(self, until_samples: int) -> dict[str, Any]:
        """Train up to a number of samples (see ``TrialRunner.run``)."""
        return self._only_first(self._runner.run(until_samples))

    def evaluate(self) -> dict[str, Any]:
        """Validation losses (see ``TrialRunner.evaluate``)."""
        return self._only_first(self._runner.evaluate())

    def find_max_micro_batch(self) -> int:
        """Rows a rank can run at once (see ``TrialRunner.probe``)."""
        return int(self._runner.find_max_micro_batch())

    def set_micro_batch(self, rows: int) -> None:
        """Run that many rows at once from now on."""
        self._plan = replace(self._plan, micro_batch=rows)
        self._runner.set_micro_batch(rows)

    def keep_weights(self) -> dict[str, Any]:
        """Copy the weights to main memory (see ``TrialRunner.keep_weights``)."""
        return self._only_first(self._runner.keep_weights())

    def use_kept_weights(self, samples: int) -> dict[str, Any]:
        """Put the copy back (see ``TrialRunner.use_kept_weights``)."""
        return self._only_first(self._runner.use_kept_weights(samples))

    def save(self, folder: str) -> dict[str, Any]:
        """Begin to write a checkpoint (see ``TrialRunner.save``)."""
        return self._only_first(self._runner.save(folder))

    def settle_checkpoint(self, cancel: bool) -> dict[str, Any]:
        """Wait for the checkpoint that is being written, or give it up (see ``TrialRunner.settle_checkpoint``)."""
        return self._only_first(self._runner.settle_checkpoint(cancel))

    def estimate_checkpoint(self, folder: str) -> dict[str, float]:
        """What a checkpoint is likely to take (see ``TrialRunner.estimate_checkpoint``)."""
        return dict(self._runner.estimate_checkpoint(folder))

    def restore(self, folder: str) -> dict[str, Any]:
        """Restore a checkpoint (see ``TrialRunner.restore``)."""
        return self._only_first(self._runner.restore(folder))

    def export(self, folder: str, tokenizer: str) -> dict[str, Any]:
        """Write the weights as a plain folder (see ``sweepft.training.export``)."""
        return self._only_first(self._runner.export(folder, tokenizer))

    def load_weights(self, folder: str) -> dict[str, Any]:
        """Put an exported trial's weights into the trial just started (see ``sweepft.training.inference``)."""
        return self._only_first(self._runner.load_weights(folder))

    def set_loss(self, cache: str) -> dict[str, Any]:
        """Loss of a token set (see ``sweepft.training.validation.set_loss``)."""
        return self._only_first(self._runner.set_loss(cache))

    def score(self, task: EvalTask, tokenizer: str, items: str) -> dict[str, Any]:
        """Scores of the model as it stands on a task (see ``sweepft.evaluation.harness.score``).

        The results item by item go to the file ``items``, whose digest, ``file_digest``, takes their place.
        """
        from sweepft.evaluation.harness import score
        from sweepft.evaluation.tasks import write_items
        from sweepft.training.inference import gathered_weights, plain_model

        with gathered_weights(self._runner.zero) as whole, plain_model(self._runner.zero) as model:
            scores = score(
                model,
                tokenizer,
                task,
                sharded=not whole,
                length_class=self._runner.zero.length_class,
            )
        if self._index == 0:
            scores["file_digest"] = write_items(Path(items), scores.pop("samples"))
        return self._only_first(scores)

    def measure(self, task: EvalTask | OwnTask, metric: str, tokenizer: str) -> dict[str, Any]:
        """A metric of the model as it stands on a task (see `measure_engine`)."""
        return self._only_first(measure_engine(self._runner.zero, tokenizer, task, metric))

    def answer(self, chats: Sequence[Any], how: dict[str, Any]) -> list[str]:
        """The model's next turn in each chat (see ``sweepft.evaluation.generate.answer_chats``)."""
        from sweepft.evaluation.generate import answer_chats
        from sweepft.training.inference import gathered_weights, plain_model

        with gathered_weights(self._runner.zero) as whole, plain_model(self._runner.zero) as model:
            said = answer_chats(
                model,
                chats=chats,
                sharded=not whole,
                length_class=self._runner.zero.length_class,
                **how,
            )
        return said if self._index == 0 else []

    def _only_first(self, result: dict[str, Any]) -> dict[str, Any]:
        # All ranks hold the same numbers: send them through the object store once.
        return result if self._index == 0 else {}


def measure_engine(zero: Any, tokenizer: str, task: EvalTask | OwnTask, metric: str) -> dict[str, Any]:
    """A metric of the weights in a live engine, in the middle of a trial. Runs on every rank.

    Training is not affected: weights, gradients, modes and random states stay as they are.

    Args:
        zero: The ``sweepft.training.deepspeed_engine.ZeroEngine`` of this rank.
        tokenizer, task, metric: See ``sweepft.evaluation.objective.measure``.
    Returns:
        ``seconds``, and on rank 0 what ``sweepft.evaluation.objective.measured`` returns.
    """
    from sweepft.evaluation.objective import measure
    from sweepft.training.inference import gathered_weights, plain_model

    begin = time.perf_counter()
    with gathered_weights(zero) as whole, plain_model(zero) as model:
        found = measure(model, tokenizer, task, metric, sharded=not whole, length_class=zero.length_class)
    return found | {"seconds": time.perf_counter() - begin}


def _send_output_to(log_file: str) -> None:
    """Point this process's stdout and stderr at a file; where that cannot be written, Ray's own logs keep them."""
    with contextlib.suppress(OSError):
        Path(log_file).parent.mkdir(parents=True, exist_ok=True)
        descriptor = open_to_append(log_file)
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.close(descriptor)
    sys.stdout, sys.stderr = dropping_stream(1), dropping_stream(2)  # a full disk must not end what prints


def _own_gpus() -> list[str]:
    """Ray's ids of the GPUs that this process was given."""
    import ray

    return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))


def _usable_cpus() -> int:
    """CPUs that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
