"""One DeepSpeed engine, built once and reset in place for trial after trial.

A reset restores base weights, zeroes optimizer state, and sets the next trial's hyperparameters and counters. It uses
private names of DeepSpeed, so ``pyproject.toml`` keeps its range narrow, and
``tests/unit/training/test_warm_equals_cold.py`` compares every number bit for bit with a fresh process.
(A little over 400 lines: one engine, with methods that share its fields.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist

from sweepft.spec import Lora, TrainConfig
from sweepft.training import output_layer
from sweepft.training.attention import DOCUMENTS
from sweepft.training.base_weights import share_frozen, shared_copy
from sweepft.training.batching import Batch, Layout, Row
from sweepft.training.config import EngineConfig, deepspeed_offload, overlaps_reduction
from sweepft.training.forward import attend_by_documents, compare_with_padding, scored_logits, token_losses
from sweepft.training.length_classes import LengthClasses, forget_earlier_lengths, length_classes
from sweepft.training.liger import Liger
from sweepft.training.lora import attach_adapter, detach_adapter, set_in_place
from sweepft.training.memory import release_engine_memory
from sweepft.training.model import compile_blocks, load_model, parameter_groups
from sweepft.training.optimizers import (
    ZEROED_IS_FRESH,
    make_optimizer,
    set_constants,
    state_from_tensors,
    state_to_tensors,
    zero_state,
)
from sweepft.training.transfer import DeviceBatch

# (ZeRO stage, precision) whose reset in place is proved equal, bit for bit, to a fresh process by the tests, for
# the optimizers of ZEROED_IS_FRESH. Everything else rebuilds the engine inside the living process.
RESET_IN_PLACE: frozenset[tuple[int, str]] = frozenset(
    {(0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")}
)


class ZeroEngine:
    """A DeepSpeed engine that is reused from trial to trial.

    Args:
        config: What all trials of the sweep share.
        device: Device of this rank.
        reset_in_place: Whether later trials reset the engine in place; None: as ``RESET_IN_PLACE`` has it.

    Attributes:
        liger: Whether Liger's kernels are in the model.
    """

    def __init__(
        self, config: EngineConfig, device: torch.device, reset_in_place: bool | None = None
    ) -> None:
        self.config = config
        self.device = device
        self._in_place = (
            (config.zero_stage, config.precision) in RESET_IN_PLACE
            if reset_in_place is None
            else reset_in_place
        )
        self._fused = device.type == "cuda"
        self._engine: Any = None
        self._base: list[torch.Tensor] = []
        self.padded_attention: str | None = None
        self.length_classes = LengthClasses()
        self.liger = Liger("auto" if config.liger == "auto" and not config.compiled else config.liger is True)
        self._lora: Lora | None = None
        self._optimizer = ""

    def start(self, train_config: TrainConfig) -> bool:
        """Start a trial from the base weights. Returns True if the engine was reset (warm), False if it was built."""
        warm = (
            self._engine is not None
            and self._in_place
            and _shape(train_config.lora) == _shape(self._lora)
            and train_config.optimizer.name == self._optimizer
            and train_config.optimizer.name in ZEROED_IS_FRESH
        )
        if warm:
            self._reset(train_config)
        else:
            base = self._base_model_to_keep(train_config)
            self.close()
            self._build(train_config, base)
        self._lora, self._optimizer = train_config.lora, train_config.optimizer.name
        checkpointing = _checkpoints_activations(self.module)
        if train_config.gradient_checkpointing and not checkpointing:
            self.module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif checkpointing and not train_config.gradient_checkpointing:
            self.module.gradient_checkpointing_disable()
        self._engine.train()
        torch.manual_seed(train_config.seed * 1_000_003 + dist.get_rank())
        return warm

    @property
    def module(self) -> Any:
        """The transformers model inside the engine."""
        return self._engine.module

    @property
    def lora(self) -> Lora | None:
        """Adapter settings of the current trial."""
        return self._lora

    @property
    def engine(self) -> Any:
        """The DeepSpeed engine itself (for checkpoints and export)."""
        return self._engine

    @property
    def length_class(self) -> Callable[[int], int] | None:
        """The class of a length in tokens; None where samples of all lengths may share a batch."""
        return self.length_classes.at if self.length_classes else None

    @property
    def layout(self) -> Layout:
        """How this engine splits samples into micro-batches and collates them."""
        kind: Literal["rows", "packed", "grouped"] = "rows"
        if self.config.packed:
            kind = "packed" if self.padded_attention else "grouped"
        return Layout(kind, self.config.micro_batch, self.config.pad_id, self.length_classes)

    def logits(self, batch: Batch | DeviceBatch) -> torch.Tensor:
        """Next-token logits at the batch's target positions, shape (targets, vocabulary)."""
        return scored_logits(self._engine, batch, self.device)

    @torch.no_grad()
    def check_packing(self, rows: list[Row]) -> None:
        """Run samples packed, and each in a forward pass of its own; compare their losses. Draws no random number.

        Raises:
            PackingMismatch: If their losses differ. A model that does not pack is not checked.
        """
        if self.layout.kind != "packed":
            return
        lengths = np.asarray([len(ids) for ids, _ in rows])
        together = replace(self.layout, size=int(lengths.sum()))
        micros = [micro.rows for micro in together.split_micro_batches(lengths, 1)[0]]
        packed = [together.collate([rows[i] for i in chosen]) for chosen in micros]
        alone = [Layout("rows", 1, self.config.pad_id).collate([rows[i]]) for i in np.concatenate(micros)]
        self.eval()
        packed_losses = torch.cat([token_losses(self.logits(batch), batch) for batch in packed])
        self.module.set_attn_implementation(self.padded_attention)
        try:
            single_losses = torch.cat([token_losses(self.logits(batch), batch) for batch in alone])
        finally:
            self.module.set_attn_implementation(DOCUMENTS)
            self.train()
        compare_with_padding(packed_losses, single_losses, next(self.module.parameters()).dtype)

    def check_liger(self, rows: list[Row]) -> bool:
        """Compare losses with and without Liger's kernels (see ``Liger.agrees``). Draws no random number."""
        batches = [self.layout.collate([row]) for row in rows]

        def losses() -> torch.Tensor:
            return torch.cat([token_losses(self.logits(batch), batch) for batch in batches])

        self.eval()
        try:
            return self.liger.agrees(losses, next(self.module.parameters()).dtype)
        finally:
            self.train()

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Accumulate the gradient of one micro-batch.

        Args:
            loss: This rank's summed target-token losses divided by the target tokens of the *global* batch, so
                that the sum over ranks and micro-batches is the token mean. DeepSpeed averages over ranks; the
                factor world size undoes that.
            last: Whether this micro-batch ends the optimizer step.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Take the optimizer step at this rate; returns the gradient norm before clipping (may be inf or nan)."""
        for group in self._inner.param_groups:
            group["lr"] = learning_rate
        if self.config.zero_stage == 0:
            grads = [p.grad for p in self.module.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(grads).item()
            if not math.isfinite(norm):
                self._engine.zero_grad()
                return norm
            self._engine.step()
            return norm
        self._engine.step()
        norm = self._engine.get_global_grad_norm()
        return float(norm) if norm is not None else math.nan

    def train(self) -> None:
        """Set training mode."""
        self._engine.train()

    def eval(self) -> None:
        """Set evaluation mode (no dropout)."""
        self._engine.eval()

    def close(self) -> None:
        """Free the engine; the process can build another one."""
        if self._engine is None:
            return
        self._engine.destroy()
        if self.config.zero_stage == 3:
            release_engine_memory(self._engine)
        self._engine = None
        self._base = []
        import gc

        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def state(self) -> dict[str, torch.Tensor]:
        """This rank's master weights and optimizer state, by name: everything a trial changes."""
        tensors = {f"master{i}": master for i, master in enumerate(self._master_tensors())}
        for i, state in enumerate(self._optimizer_states()):
            tensors |= {f"state{i}.{name}": tensor for name, tensor in state_to_tensors(state).items()}
        return tensors

    def live_weights(self) -> list[torch.Tensor]:
        """The trained weights as forward passes use them: at ZeRO-3 this rank's shards, else all of them."""
        return self._live()

    @torch.no_grad()
    def set_live_weights(self, weights: Sequence[torch.Tensor] | None) -> None:
        """Load what :meth:`live_weights` returned, for an export or an evaluation. The optimizer's masters stay as they
        are, so that training cannot go on.

        Args:
            weights: None below ZeRO-3 on all ranks but the first, which get its weights.
        """
        if self.config.zero_stage == 3:
            self._engine.optimizer._partition_all_parameters()
        for live, saved in zip(self._live(), weights, strict=True) if weights is not None else ():
            live.copy_(saved)
        for live in self._live() if self.config.zero_stage < 3 else ():
            dist.broadcast(live.view(-1).view(torch.uint8), 0)
        self.gather_persistent()

    @torch.no_grad()
    def load_state(
        self,
        names: Collection[str],
        mine: Callable[[str], torch.Tensor],
        all_ranks: Sequence[Callable[[str], torch.Tensor]],
    ) -> None:
        """Load what :meth:`state` returned; the engine must have been started for the same trial.

        Args:
            names: Names of the tensors that this rank saved.
            mine: Reads this rank's saved tensor of a name.
            all_ranks: The same for every rank, in order.
        """
        for i, master in enumerate(self._master_tensors()):
            master.copy_(mine(f"master{i}"))
        for i, (parameter, state) in enumerate(zip(self._trained(), self._optimizer_states(), strict=True)):
            prefix = f"state{i}."
            saved = {name.removeprefix(prefix): mine(name) for name in names if name.startswith(prefix)}
            for name, value in state_from_tensors(saved, parameter).items():
                if isinstance(state.get(name), torch.Tensor):
                    state[name].copy_(value)
                else:  # no step has been taken in this process yet
                    state[name] = value
        if self.config.zero_stage == 3:
            self._engine.optimizer._partition_all_parameters()
        for i, live in enumerate(self._live()):
            if self.config.zero_stage in (1, 2):
                # Every rank holds all weights but only a shard of the masters: read the other shards from their files.
                flat, begin = live.view(-1), 0
                for read in all_ranks:  # one share at a time in main memory, not the whole model
                    share = read(f"master{i}").reshape(-1)
                    flat.narrow(0, begin, share.numel()).copy_(share)
                    begin += share.numel()
            else:
                live.copy_(mine(f"master{i}").view_as(live))
        self.gather_persistent()

    # Building

    @property
    def _inner(self) -> torch.optim.Optimizer:
        optimizer = self._engine.optimizer
        inner: torch.optim.Optimizer = optimizer if self.config.zero_stage == 0 else optimizer.optimizer
        return inner

    def _base_model_to_keep(self, train_config: TrainConfig) -> Any:
        """The frozen base model, where the next trial needs another adapter on it; else None.

        At ZeRO-3 DeepSpeed has partitioned the model, and it is loaded again.
        """
        keep = (
            self._in_place
            and self._engine is not None
            and train_config.lora is not None
            and self._lora is not None
        )
        return detach_adapter(self.module) if keep and self.config.zero_stage < 3 else None

    def _load(self, ds_config: dict[str, Any]) -> Any:
        self.liger.remove()  # of the model before, also from transformers' own code
        keep = self._partition_while_loading(ds_config)
        model = load_model(self.config, self.device)
        del keep
        self.liger.put_into(model, self.device)
        if output_layer.pads_vocabulary(self.device):
            output_layer.pad_output_layer(model)
        usual = model.config._attn_implementation
        self.padded_attention = usual if self.config.packed and attend_by_documents(model) else None
        self.length_classes = length_classes(model)
        forget_earlier_lengths(model)
        return model

    def _build(self, train_config: TrainConfig, base: Any) -> None:
        import deepspeed

        ds_config = self._deepspeed_config(train_config)
        model = self._load(ds_config) if base is None else base
        if train_config.lora is not None:
            model = attach_adapter(model, train_config.lora, self.config.model_path, self.config.new_tokens)
        # By default ZeRO allocates a bucket of 5e8 elements, however few gradients there are.
        every = self.config.zero_stage == 3  # which gathers frozen weights in buckets, too
        size = sum(getattr(p, "ds_numel", p.numel()) for p in model.parameters() if every or p.requires_grad)
        for name in ("reduce_bucket_size", "allgather_bucket_size"):
            ds_config["zero_optimization"][name] = min(500_000_000, max(65_536, size))
        optimizer = make_optimizer(
            parameter_groups(model, train_config.optimizer.weight_decay), train_config.optimizer, self._fused
        )
        if self.config.zero_stage == 0:
            model.to(self.device)
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=ds_config)
        if train_config.lora is not None and self.device.type == "cpu":
            share_frozen(self.config, self.module, known=base is not None)
        if self.config.compiled:
            compile_blocks(self.module)
        if self._in_place:
            live = enumerate(self._live())
            # Adapters are small and differ by shape; only full models are shared through files.
            self._base = [
                t.detach().clone() if train_config.lora else shared_copy(self.config, str(i), t)
                for i, t in live
            ]

    def _deepspeed_config(self, train_config: TrainConfig) -> dict[str, Any]:
        summed = {}
        if (
            self.config.precision == "bf16" and self.config.zero_stage >= 2
        ):  # stage 1 would take another optimizer class
            summed = {"data_types": {"grad_accum_dtype": "fp32"}}
        zero = {"stage": self.config.zero_stage, **deepspeed_offload(self.config.offload)}
        overlap = overlaps_reduction(
            self.config.zero_stage, self.config.offload, self.device.type, dist.get_world_size()
        )
        if overlap is not None:
            zero["overlap_comm"] = overlap
        return {
            **summed,
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,  # backward() sets the boundary itself
            "gradient_clipping": train_config.gradient_clipping,
            "bf16": {"enabled": self.config.precision == "bf16"},
            "zero_optimization": zero,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # torch's optimizers on the CPU too: nothing to compile
            "steps_per_print": 10**9,
        }

    def _partition_while_loading(self, ds_config: dict[str, Any]) -> Any:
        """For ZeRO-3 on GPUs, have transformers partition each weight on loading: a full copy may not fit."""
        if self.config.zero_stage < 3 or self.device.type == "cpu":
            return None
        from transformers.integrations import HfDeepSpeedConfig

        return HfDeepSpeedConfig(ds_config)

    # Resetting

    def _live(self) -> list[torch.Tensor]:
        """The flat tensors of the weights used in forward passes."""
        optimizer = self._engine.optimizer
        if self.config.zero_stage == 0:
            return [p.data for p in self.module.parameters() if p.requires_grad]
        if self.config.zero_stage == 3:
            return list(optimizer.fp16_partitioned_groups_flat)
        return list(optimizer.bit16_groups_flat)

    def _masters(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pairs (master tensor of the optimizer, the base weights it starts from)."""
        optimizer = self._engine.optimizer
        if self.config.zero_stage == 3:
            yield from zip(optimizer.fp32_partitioned_groups_flat, self._base, strict=True)
        elif self.config.zero_stage in (1, 2):
            for i, (master, base) in enumerate(
                zip(optimizer.single_partition_of_fp32_groups, self._base, strict=True)
            ):
                rank = dist.get_rank(group=optimizer.real_dp_process_group[i])
                yield master, base.narrow(0, rank * master.numel(), master.numel())

    def _master_tensors(self) -> list[torch.Tensor]:
        optimizer = self._engine.optimizer
        if self.config.zero_stage == 3:
            return list(optimizer.fp32_partitioned_groups_flat)
        return (
            self._live() if self.config.zero_stage == 0 else list(optimizer.single_partition_of_fp32_groups)
        )

    def _trained(self) -> list[torch.Tensor]:
        """The tensors that the inner optimizer steps. ZeRO-3 passes them one by one, so they are not in its groups."""
        if self.config.zero_stage > 0:
            return self._master_tensors()
        return [p for group in self._inner.param_groups for p in group["params"]]

    def _optimizer_states(self) -> list[dict[str, Any]]:
        return [self._inner.state[p] for p in self._trained()]

    def gather_persistent(self) -> None:
        """Gather the parameters that ZeRO-3 keeps whole from their shards."""
        optimizer = self._engine.optimizer
        if self.config.zero_stage == 3 and optimizer.persistent_parameters:
            optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)

    @torch.no_grad()
    def _reset(self, train_config: TrainConfig) -> None:
        engine, optimizer = self._engine, self._engine.optimizer
        stage = self.config.zero_stage
        if stage == 3:
            # Parameters still gathered would keep the old trial's values.
            optimizer._partition_all_parameters()
        for live, base in zip(self._live(), self._base, strict=True):
            live.copy_(base.view_as(live))
        for master, base in self._masters():
            master.copy_(base)
        zero_state(self._inner.state.values())
        engine.zero_grad() if stage == 0 else optimizer.zero_grad()
        self.gather_persistent()
        if train_config.lora is not None:
            set_in_place(self.module, train_config.lora)
        self._hyperparameters(train_config)
        engine.global_steps = engine.global_samples = engine.micro_steps = engine.skipped_steps = 0
        engine._global_grad_norm = None
        if stage > 0:
            optimizer._global_grad_norm = 0.0
            optimizer.micro_step_id = -1 if stage < 3 else 0

    def _hyperparameters(self, train_config: TrainConfig) -> None:
        set_constants(self._inner, train_config.optimizer)
        self._engine._config.gradient_clipping = train_config.gradient_clipping
        if self.config.zero_stage > 0:
            self._engine.optimizer.clip_grad = train_config.gradient_clipping


def _shape(lora: Lora | None) -> object:
    return None if lora is None else (lora.rank, lora.target_modules, lora.modules_to_save)


def _checkpoints_activations(module: Any) -> bool:
    # transformers 5.2x renamed the property; the old name warns.
    name = (
        "is_activation_checkpointing"
        if hasattr(module, "is_activation_checkpointing")
        else "is_gradient_checkpointing"
    )
    return bool(getattr(module, name))
