"""A copy in main memory of a trial's weights at its best evaluation, from which they are exported at its end.

One copy a slot: rank 0 holds all trained weights, which at ZeRO-0 to 2 every rank has, or at ZeRO-3 each rank its
shard. They are kept in the number format of the forward pass. Where main memory is short there is no copy, and the slot
trains the trial again up to that point.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from sweepft.training.deepspeed_engine import ZeroEngine


class KeptWeights:
    """The copy of one rank. Every method is called on all ranks of the slot at once."""

    def __init__(self) -> None:
        self._copies: list[torch.Tensor] = []
        self._samples: int | None = None

    def drop(self) -> None:
        """Free the copy: another trial begins."""
        self._copies, self._samples = [], None

    def keep(self, zero: ZeroEngine, samples: int) -> None:
        """Copy the trained weights as they are now, in place of an earlier copy.

        Args:
            zero: The engine in a trial.
            samples: How many the trial has seen.
        """
        self._samples = None
        live = zero.live_weights() if self._holds(zero) else []
        try:
            if [t.shape for t in live] != [t.shape for t in self._copies]:
                self._copies = [torch.empty(t.shape, dtype=t.dtype) for t in live]
            for copy, tensor in zip(self._copies, live, strict=True):
                copy.copy_(tensor.detach())
            complete = True
        except (MemoryError, RuntimeError):
            complete = False
        if _on_all_ranks(complete, zero.device):
            self._samples = samples
        else:
            self.drop()

    def load(self, zero: ZeroEngine, samples: int) -> bool:
        """Put the copy of this point into the engine, for an export; training cannot go on from there.

        Returns:
            Whether there is one.
        """
        if not _on_all_ranks(self._samples == samples, zero.device):
            return False
        zero.set_live_weights(self._copies if self._holds(zero) else None)
        return True

    @staticmethod
    def _holds(zero: ZeroEngine) -> bool:
        """Whether this rank has a copy. Up to ZeRO-2 all ranks have equal weights, and rank 0 exports them."""
        return zero.config.zero_stage == 3 or dist.get_rank() == 0


def _on_all_ranks(condition: bool, device: torch.device) -> bool:
    flag = torch.tensor(int(condition), device=device)
    dist.all_reduce(flag, op=dist.ReduceOp.MIN)
    return bool(flag.item())
