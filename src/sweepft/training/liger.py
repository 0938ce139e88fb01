"""Liger's kernels in a model: put in, taken out, and compared with the model's own.

Liger replaces functions of a model's instances and names in its module of transformers. Each replacement is kept, so
that the model's own kernels can run again. Liger's loss is not used: sweepft computes logits at target positions only.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Literal

import torch
import torch.distributed as dist

from sweepft.errors import LigerMismatch
from sweepft.extras import import_error
from sweepft.training.forward import losses_agree

_ABSENT: Final = object()


@dataclass(frozen=True)
class _Change:
    """A name that Liger has set in an instance or a module, and what it was before."""

    holder: dict[str, Any]
    name: str
    before: Any
    after: Any


class LigerKernels:
    """Liger's norms, rotary embeddings and feed-forward parts in one model, where Liger has them for its family.

    Args:
        model: A transformers model without adapters; changed in place.

    Raises:
        RuntimeError: Without a CUDA device; the package itself would fail later.
        ImportError: If the package is not installed.
    """

    def __init__(self, model: Any) -> None:
        if not sees_gpu():
            raise RuntimeError(
                "train.liger: Liger's kernels run on GPUs only, and torch sees none; set liger: false"
            )
        try:
            from liger_kernel.transformers.monkey_patch import _apply_liger_kernel_to_instance
        except ImportError as error:
            raise import_error("liger_kernel", "train.liger") from error
        parts = list(model.modules())
        modules = dict.fromkeys(type(part).__module__ for part in parts)
        holders = [vars(sys.modules[name]) for name in modules if name in sys.modules]
        holders += [part.__dict__ for part in parts]
        before = [dict(holder) for holder in holders]
        self._changes: list[_Change] = []
        try:
            _apply_liger_kernel_to_instance(
                model=model, cross_entropy=False, fused_linear_cross_entropy=False
            )
        finally:
            for holder, were in zip(holders, before, strict=True):
                self._changes += [
                    _Change(holder, name, were.get(name, _ABSENT), value)
                    for name, value in holder.items()
                    if were.get(name, _ABSENT) is not value
                ]
            if sys.exc_info()[0] is not None:
                self.remove()

    @property
    def changed(self) -> bool:
        """Whether anything was replaced: Liger knows some families only."""
        return bool(self._changes)

    def remove(self) -> None:
        """Run the model's own kernels from now on."""
        for change in self._changes:
            if change.before is _ABSENT:
                change.holder.pop(change.name, None)
            else:
                change.holder[change.name] = change.before

    @contextlib.contextmanager
    def removed(self) -> Iterator[None]:
        """Run the model's own kernels within the block."""
        self.remove()
        try:
            yield
        finally:
            for change in self._changes:
                change.holder[change.name] = change.after


def can_run_liger() -> bool:
    """Whether Liger's kernels are likely to run here: a GPU, the package, and the C compiler that Triton calls."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    return sees_gpu() and find_spec("liger_kernel") is not None and bool(compiler)


def sees_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    return torch.cuda.is_available()


class Liger:
    """Whether the models of a rank run with Liger's kernels, and why not.

    Args:
        wanted: Of the config. With ``auto``, kernels that fail or give other losses are given up.

    Attributes:
        wanted: As given.
        given_up: Why they were given up; None if they were not.
    """

    def __init__(self, wanted: bool | Literal["auto"]) -> None:
        self.wanted = wanted
        self._kernels: LigerKernels | None = None
        self.given_up: str | None = None

    def put_into(self, model: Any, device: torch.device) -> None:
        """Put the kernels into a loaded model where they are wanted; with ``auto``, where all ranks can run them.

        Raises:
            RuntimeError: If they must run and torch sees no GPU.
            ImportError: If they must run and the package is not installed.
        """
        if not self.wanted:
            return
        if self.wanted == "auto" and (self.given_up is not None or not _on_all(can_run_liger(), device)):
            return
        try:
            self._kernels = LigerKernels(model)
        except Exception as error:  # a version for another transformers, or a model class of the user's own
            if self.wanted is True:
                raise
            self._give_up(f"Liger raises {type(error).__name__}: {error}")

    def remove(self) -> None:
        """Run models with transformers' own kernels."""
        if self._kernels is not None:
            self._kernels.remove()
            self._kernels = None

    @torch.no_grad()
    def agrees(self, losses: Callable[[], torch.Tensor], precision: torch.dtype) -> bool:
        """Compare losses with these kernels and with the model's own.

        Args:
            losses: Computes the losses of some target tokens, the same on every rank.
            precision: Of the weights.

        Returns:
            Whether the model can train as it stands. False after the kernels were given up: the engine must be built
            again, since a pass that failed may have left it in the middle of one.

        Raises:
            LigerMismatch: If the losses differ and the kernels must run.
        """
        if self._kernels is None or not self._kernels.changed:
            return True
        with self._kernels.removed():
            own = losses()
        problem = None
        try:
            difference = float((losses() - own).abs().mean())
        except Exception as error:  # Triton compiles the kernels now
            if self.wanted is True:
                raise
            problem, difference = f"Liger's kernels raise {type(error).__name__}: {error}", math.inf
        difference = _largest(difference, own.device)  # all ranks decide alike
        if losses_agree(difference, precision):
            return True
        problem = problem or (
            f"losses with Liger's kernels and with the model's own differ by {difference:.2g} nats per token, more "
            "than rounding"
        )
        if self.wanted is True:
            raise LigerMismatch(f"{problem}; set train.liger: false")
        self._give_up(problem)
        return False

    def _give_up(self, why: str) -> None:
        self.remove()
        self.given_up = f"{why[:300]}; training goes on with the model's own kernels (train.liger: false)"


def _on_all(here: bool, device: torch.device) -> bool:
    """Whether something holds on every rank."""
    return _largest(0.0 if here else 1.0, device) == 0.0


def _largest(value: float, device: torch.device) -> float:
    """The largest value of all ranks."""
    found = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(found, op=dist.ReduceOp.MAX)
    return float(found)
