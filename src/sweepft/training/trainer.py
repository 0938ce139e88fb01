"""One rank's part of a trial: optimizer steps over the sample order, recorded step by step.

All ranks of a slot make the same calls in the same order; every number returned is of the *global* batch.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from sweepft.data.cache import TokenSet
from sweepft.data.order import BlockLosses, sample_order
from sweepft.spec import TrainConfig
from sweepft.training.batching import BatchPrefetcher, Row, Step, collate_step
from sweepft.training.checkpoint import estimate_seconds, restore
from sweepft.training.checkpoint_writer import CheckpointWriter
from sweepft.training.config import EngineConfig
from sweepft.training.deepspeed_engine import ZeroEngine
from sweepft.training.export import export
from sweepft.training.forward import sample_losses
from sweepft.training.heartbeat import Heartbeat
from sweepft.training.inference import load_weights
from sweepft.training.kept_weights import KeptWeights
from sweepft.training.lr_schedules import lr_at
from sweepft.training.memory import CPU_TOKENS, device_memory, largest_micro_batch
from sweepft.training.transfer import lay_out, send
from sweepft.training.validation import evaluate, set_loss

_COLUMNS = ("step", "samples_seen", "tokens_seen", "loss", "grad_norm", "lr", "seconds")


class TrialRunner:
    """Runs trial after trial on one rank.

    Args:
        config: What all trials of the sweep share.
        device: Device of this rank; ``torch.distributed`` must be initialised.
        heartbeat: Takes a sign of life with each pass and step.
    """

    def __init__(
        self, config: EngineConfig, device: torch.device, heartbeat: Heartbeat | None = None
    ) -> None:
        self._heartbeat = heartbeat or Heartbeat()
        self.config = config
        self.device = device
        self.zero = ZeroEngine(config, device)
        self.train_set = TokenSet(config.train_cache)
        self.validation = {s.name: TokenSet(s.cache) for s in config.validation}
        self._train_config: TrainConfig | None = None
        self._checked = False
        self._prefetcher = BatchPrefetcher()
        self._checkpoints = CheckpointWriter()
        self._kept = KeptWeights()

    def start(self, train_config: TrainConfig) -> dict[str, Any]:
        """Begin a trial from the base weights.

        Returns:
            ``warm``, ``seconds``, ``data_order`` (the sample order's digest), ``phase_starts``, and ``plain_kernels``:
            why this process has just given Liger's kernels up, or None.
        """
        begin = time.perf_counter()
        self._kept.drop()
        warm = self.zero.start(train_config)
        plain_kernels = None
        if not self._checked:
            self.zero.check_packing(self._some_rows())
            if not self.zero.check_liger(self._some_rows()):
                self.zero.close()
                self.zero.start(train_config)
            self._checked = True
            plain_kernels = self.zero.liger.given_up
        self._train_config = train_config
        self._heartbeat.start_trial()
        self._step = self._samples = self._tokens = 0
        self._order, self._prefetch_order = (  # the prefetcher's thread has its own
            sample_order(self.train_set, train_config.seed, train_config.data, self.config.budget_samples)
            for _ in range(2)
        )
        self._blocks = BlockLosses(self.config.budget_samples)
        self._open_block = np.zeros(0)
        return {
            "warm": warm,
            "seconds": time.perf_counter() - begin,
            "data_order": self._order.digest,
            "phase_starts": list(self._order.phase_starts),
            "plain_kernels": plain_kernels,
        }

    def run(self, until_samples: int) -> dict[str, Any]:
        """Take optimizer steps until the trial has seen at least ``until_samples`` samples.

        Stops at the first gradient that is not finite: the weights are useless from then on.

        Returns:
            ``history`` (columns with one entry per step), ``blocks`` (training loss of the blocks of the sample
            order that were completed), ``diverged`` (a reason, or None), ``seconds``, and ``waited``: the part of them
            spent waiting for batches.
        """
        begin, waited = time.perf_counter(), self._prefetcher.waited
        self._heartbeat.resume()
        train_config = self._running()
        goal = min(until_samples, self.config.budget_samples)
        first = self._samples
        history: dict[str, list[float]] = {name: [] for name in _COLUMNS}
        parts: list[tuple[NDArray[np.int64], torch.Tensor]] = []
        diverged: str | None = None
        while self._samples < goal and diverged is None:
            step_begin = time.perf_counter()
            stop = min(self._samples + train_config.batch_size, self.config.budget_samples)
            tokens = self._accumulate(self._samples, stop, parts)
            lr = lr_at(self._step, train_config)
            norm = self.zero.step(lr)
            self._heartbeat.beat(step=True)
            self._step, self._samples, self._tokens = self._step + 1, stop, self._tokens + tokens
            seconds = time.perf_counter() - step_begin
            row = (self._step, stop, self._tokens, math.nan, norm, lr, seconds)
            for name, value in zip(_COLUMNS, row, strict=True):
                history[name].append(value)
            if not math.isfinite(norm):
                diverged = f"the gradient norm is {norm} at step {self._step}"
        blocks = self._record(first, parts, history)
        return {
            "history": history,
            "blocks": blocks,
            "diverged": diverged,
            "seconds": time.perf_counter() - begin,
            "waited": self._prefetcher.waited - waited,
        }

    def find_max_micro_batch(self) -> int:
        """The largest micro-batch in rows. Changes the current trial's state: start the trial again afterwards.

        Takes optimizer steps at rate 0 on copies of the longest row, so that gradients, optimizer state and
        communication buffers are all allocated when the peak is read.
        """
        most = -(-self.config.largest_batch // dist.get_world_size())
        longest = int(np.argmax(self.train_set.lengths))
        if self.device.type == "cpu":
            return max(1, min(most, CPU_TOKENS // int(self.train_set.lengths[longest])))
        peaks = []
        for rows in (1, 1, 2):  # the first allocates what stays
            batch = self.zero.layout.collate([self.train_set.row(longest)] * rows)
            losses = sample_losses(self.zero.logits(batch), batch)
            self.zero.backward(losses.sum() / int(self.train_set.targets[longest]), last=True)
            self.zero.step(0.0)
            peak, total = device_memory(self.device)
            peaks.append(peak)
        found = torch.tensor(largest_micro_batch((peaks[1], peaks[2]), total, most), device=self.device)
        dist.all_reduce(found, op=dist.ReduceOp.MIN)
        return int(found)

    def set_micro_batch(self, rows: int) -> None:
        """Use micro-batches of this many rows from now on."""
        self.config = self.zero.config = replace(self.config, micro_batch=rows)

    def evaluate(self) -> dict[str, Any]:
        """Validation losses now (see ``sweepft.training.validation.evaluate``)."""
        return evaluate(self.zero, self.config, self.validation)

    def load_weights(self, folder: str) -> dict[str, Any]:
        """Load an exported trial's weights for scoring, after :meth:`start`; returns ``seconds``."""
        begin = time.perf_counter()
        load_weights(self.zero, Path(folder))
        return {"seconds": time.perf_counter() - begin}

    def set_loss(self, cache: str) -> dict[str, Any]:
        """Loss of any token set (see ``sweepft.training.validation.set_loss``)."""
        return set_loss(self.zero, TokenSet(cache))

    def keep_weights(self) -> dict[str, Any]:
        """Copy the trained weights as they are now to main memory, in place of an earlier copy; returns ``seconds``."""
        begin = time.perf_counter()
        self._kept.keep(self.zero, self._samples)
        return {"seconds": time.perf_counter() - begin}

    def use_kept_weights(self, samples: int) -> dict[str, Any]:
        """Put the copy made at this number of samples into the engine, after which only an export may follow.

        Returns:
            ``seconds``, and ``found``: whether there is such a copy.
        """
        begin = time.perf_counter()
        found = self._kept.load(self.zero, samples)
        return {"found": found, "seconds": time.perf_counter() - begin}

    def save(self, folder: str) -> dict[str, Any]:
        """Begin to write a checkpoint (see ``CheckpointWriter.save``); adds ``seconds``, which training waited for it,
        to its result.
        """
        begin = time.perf_counter()
        facts = {"trial": self._facts(), "step": self._step, "samples": self._samples, "tokens": self._tokens}
        extra = {"open_block": torch.from_numpy(self._open_block)}
        done = self._checkpoints.save(self.zero, Path(folder), facts, extra)
        return done | {"seconds": time.perf_counter() - begin}

    def settle_checkpoint(self, cancel: bool = False) -> dict[str, Any]:
        """Wait for the checkpoint that is being written, or give it up (see ``CheckpointWriter.settle``)."""
        return self._checkpoints.settle(self.device, cancel)

    def estimate_checkpoint(self, folder: str) -> dict[str, float]:
        """What a checkpoint is likely to take (see ``sweepft.training.checkpoint.estimate_seconds``)."""
        return estimate_seconds(self.zero, Path(folder))

    def restore(self, folder: str) -> dict[str, Any]:
        """Continue the trial just started from a checkpoint.

        Returns:
            ``step``, ``samples`` and ``seconds``.
        Raises:
            ValueError: If the checkpoint is damaged or of another trial.
        """
        begin = time.perf_counter()
        facts, extra = restore(self.zero, Path(folder))
        if facts["trial"] != self._facts():
            raise ValueError(f"{folder}: is a checkpoint of another trial: {facts['trial']}")
        self._step, self._samples, self._tokens = facts["step"], facts["samples"], facts["tokens"]
        self._open_block = extra["open_block"].numpy()
        first = self._samples - len(self._open_block)
        self._blocks = BlockLosses(self.config.budget_samples, start=first)
        weights = self.train_set.weights[self._order.indices(first, self._samples)]
        self._blocks.add(np.arange(first, self._samples), self._open_block, weights)
        return {"step": self._step, "samples": self._samples, "seconds": time.perf_counter() - begin}

    def export(self, folder: str, tokenizer: str) -> dict[str, Any]:
        """Write the trial's weights as a plain folder (see ``sweepft.training.export``); returns ``seconds``."""
        begin = time.perf_counter()
        export(self.zero, Path(folder), Path(tokenizer))
        return {"seconds": time.perf_counter() - begin}

    def close(self) -> None:
        """Free the engine."""
        self.zero.close()

    def _some_rows(self) -> list[Row]:
        """A median, the longest and the shortest training sample, and those on both sides of a limit between lengths
        that may not share a batch.
        """
        by_length = np.argsort(self.train_set.lengths, kind="stable")
        sizes = np.asarray(self.train_set.lengths)[by_length]
        chosen = [len(by_length) // 2, len(by_length) - 1, 0]
        for limit in self.zero.length_classes.limits:
            longer = int(np.searchsorted(sizes, limit, side="right"))
            if 0 < longer < len(by_length):
                chosen += [longer - 1, longer]
        return [self.train_set.row(int(by_length[i])) for i in dict.fromkeys(chosen)]

    def _running(self) -> TrainConfig:
        if self._train_config is None:
            raise RuntimeError("no trial has been started on this rank")
        return self._train_config

    def _facts(self) -> dict[str, Any]:
        """What a checkpoint must agree on; micro-batch and activation checkpointing do not change results."""
        trial = self._running().model_dump(mode="json", exclude={"micro_batch", "gradient_checkpointing"})
        shared = {
            "model": self.config.model_path,
            "precision": self.config.precision,
            "zero": self.config.zero_stage,
        }
        facts = {
            "trial": trial,
            "sweep": shared,
            "order": self._order.digest,
            "budget": self.config.budget_samples,
        }
        return dict(json.loads(json.dumps(facts)))

    def _accumulate(self, start: int, stop: int, parts: list[tuple[NDArray[np.int64], torch.Tensor]]) -> int:
        """Forward and backward over positions [start, stop); appends (positions, row losses) of this rank.

        Returns:
            Target tokens of the whole global batch.
        """
        step = self._next_step(start, stop)
        for i, (positions, collated) in enumerate(step.micro_batches):
            batch = send(collated, self.device)
            losses = sample_losses(self.zero.logits(batch), batch)
            if len(positions):
                parts.append((positions, losses.detach()))
            else:
                losses = losses * 0.0
            self.zero.backward(losses.sum() / step.weight, last=i == len(step.micro_batches) - 1)
            self._heartbeat.beat()
        return step.tokens

    def _next_step(self, start: int, stop: int) -> Step:
        """This rank's share of the positions [start, stop); prefetches the next step."""
        layout, order = self.zero.layout, self._prefetch_order
        rank, world = dist.get_rank(), dist.get_world_size()
        then = range(stop, min(stop + self._running().batch_size, self.config.budget_samples))

        def make(begin: int, end: int) -> Step:
            finish = {"finish": partial(lay_out, pin=True)} if self.device.type == "cuda" else {}
            return collate_step(self.train_set, order, layout, begin, end, rank, world, **finish)

        return self._prefetcher.take(make, (order.digest, layout), range(start, stop), then)

    def _record(
        self, first: int, parts: list[tuple[NDArray[np.int64], torch.Tensor]], history: dict[str, list[float]]
    ) -> dict[str, list[int] | list[float]]:
        """Reduce the ranks' sample losses once, for the losses of steps and of blocks."""
        sums = torch.zeros(self._samples - first, dtype=torch.float64, device=self.device)
        if parts:
            places = np.concatenate([positions for positions, _ in parts]) - first
            sums[torch.from_numpy(places).to(self.device)] = torch.cat([found for _, found in parts]).double()
        dist.all_reduce(sums)
        loss_sums = sums.cpu().numpy()
        positions = np.arange(first, self._samples)
        weights = self.train_set.weights[self._order.indices(first, self._samples)]
        begin = 0
        for i, seen in enumerate(history["samples_seen"]):
            end = int(seen) - first
            history["loss"][i] = float(loss_sums[begin:end].sum() / weights[begin:end].sum())
            begin = end
        self._blocks.add(positions, loss_sums, weights)
        # Samples of the block that is not complete yet belong into a checkpoint.
        open_samples = self._samples % self._blocks.size if self._samples < self.config.budget_samples else 0
        self._open_block = np.concatenate([self._open_block, loss_sums])[
            len(self._open_block) + len(loss_sums) - open_samples :
        ]
        return self._blocks.drain()
