"""The sections of a spec: what may be written, of which type, with which default.

One idea: a section says what is true of itself alone. What must hold between sections stands in
:mod:`sweepft.spec.checks`, and whether files are there in :mod:`sweepft.spec.files`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from sweepft.spec.curriculum import Curriculum
from sweepft.spec.fields import (
    Fraction,
    MicroBatch,
    NonNegative,
    Paths,
    Positive,
    PositiveInt,
    Section,
    Seed,
    Source,
    TargetModules,
    TemplateName,
    Warmup,
    exactly_one,
    invalid,
)
from sweepft.spec.space import Dimension

_Domains = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, strict=False)]


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


def _rising(rungs: tuple[float, ...]) -> tuple[float, ...]:
    if any(a >= b for a, b in itertools.pairwise(rungs)):
        raise invalid("must rise from window to window", f"for example rungs: {sorted(set(rungs))}")
    return rungs


class Model(Section):
    """The base model that every trial starts from."""

    path: Source
    """Local folder with config.json, tokenizer and safetensors weights, or a hub id `org/name`."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; pin a commit for runs that must be repeatable."""
    chat_template: TemplateName | None = None
    """Name of a built-in chat template, or a Jinja file; by default the tokenizer's own."""
    trust_remote_code: bool = False
    """Whether code shipped with the model may run on your machines."""
    allow_pickle: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Pickle files of a local folder without safetensors that may be loaded, each by its name, e.g.
    `[pytorch_model.bin]`. Only what torch takes for plain weights is read from them; safetensors are safer still."""


class TrainSource(Section):
    """Training rows: chat messages, prompt and completion, or plain text."""

    path: Source
    """File (.jsonl, .jsonl.gz, .parquet) or hub id of a data set."""
    domain: str | None = None
    """Domain of these rows, for phases, weights and reports; by default the rows' own `domain`, if they have one."""
    domains: _Domains | None = None
    """Only rows whose own `domain` is one of these names or shell patterns (`glue_*`); by default all."""
    split: str | None = None
    """Split of a hub data set; by default `train`."""
    limit: PositiveInt | None = None
    """Rows to take at most, drawn with `data.seed`; by default all."""


class Validation(Section):
    """A held-out set; the objective is the weighted mean of their losses."""

    name: _Name
    """Name in reports."""
    fraction: Fraction | None = None
    """Share of the training rows to hold out, in (0, 1). Either this or `path`."""
    path: Source | None = None
    """File or hub id of its own, as in `data.train`. Either this or `fraction`."""
    weight: NonNegative = 1.0
    """Weight in the objective; 0 means: measured and reported, but not optimised."""
    domains: _Domains | None = None
    """Only rows of these domains, names or shell patterns; for a `fraction`, domains as the training rows have them."""
    limit: PositiveInt | None = None
    """Rows to take at most, drawn with `data.seed`; by default all."""
    split: str | None = None
    """Split of a hub data set."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("fraction", "path"))
        return self


class TestSource(Section):
    """A sealed test set: read for the finalists only."""

    name: _Name
    """Name in reports."""
    path: Source
    """File or hub id, as in `data.train`."""
    limit: PositiveInt | None = None
    """Rows to take at most, drawn with `data.seed`; by default all."""
    split: str | None = None
    """Split of a hub data set; by default `test`."""


class _Sources(Section):
    train: Annotated[tuple[TrainSource, ...], Field(min_length=1, strict=False)]
    """Training sources; by default all of them together, in one seeded order that depends on no swept value."""
    validation: Annotated[tuple[Validation, ...], Field(min_length=1, strict=False)]
    """Held-out sets, evaluated at every window and at the end."""
    test: Annotated[tuple[TestSource, ...], Field(strict=False)] = ()
    """Sealed test sets."""
    max_length: PositiveInt = 2048
    """Tokens of a row, at most."""
    over_length: Literal["drop", "truncate"] = "drop"
    """What happens to longer rows; they are counted either way."""
    seed: Seed = 0
    """Seed of held-out fractions and limits (not of training)."""
    overlap: Literal["error", "drop"] = "error"
    """Training rows that are also in a held-out or test set: refuse them, or drop them from training."""


class Data(Curriculum, _Sources):
    """What is trained on and in which order, what decides, and what stays sealed."""

    @property
    def curriculum(self) -> Curriculum:
        """Strategy, phases, replay and mixture alone."""
        return Curriculum(**{name: getattr(self, name) for name in Curriculum.model_fields})


class Budget(Section):
    """How much every trial trains, the same for all of them whatever their batch size. Exactly one key."""

    samples: PositiveInt | None = None
    """Training samples."""
    tokens: PositiveInt | None = None
    """Target tokens (those with a loss); counted along the sample order."""
    epochs: Positive | None = None
    """Passes over the training rows; may be a fraction."""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        exactly_one(self, ("samples", "tokens", "epochs"))
        return self


class Optimizer(Section):
    """The optimizer and its constants."""

    name: Literal["adamw", "adafactor", "sgd", "adamw_8bit"] = "adamw"
    """`adamw`; `adafactor` with the learning rate as given, at zero_stage 0; `sgd` with momentum; `adamw_8bit` with
    `pip install 'sweepft[8bit]'`. After a trial of another optimizer the engine is built anew."""
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ] = (0.9, 0.95)
    """Decay rates of the first and second moment, of `adamw` and `adamw_8bit`."""
    eps: Positive = 1e-8
    """Added to the denominator, of the same two."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of `sgd`."""
    weight_decay: NonNegative = 0.0
    """Weight decay: decoupled from the gradient, but for `sgd`, which adds it to the gradient."""


class Lora(Section):
    """Low-rank adapters (LoRA) on frozen base weights. Needs `pip install 'sweepft[lora]'`."""

    rank: PositiveInt = 16
    """Rank of the adapters. A trial of another rank, or other target modules, gets a new adapter on the same base."""
    alpha: Positive = 32.0
    """The adapters' share in the result is alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout before the adapters."""
    target_modules: TargetModules = "all-linear"
    """Names of the layers that get one, e.g. `[q_proj, v_proj]`, or `all-linear`: all but the output layer."""


class Train(Section):
    """How every trial trains. `batch_size` and `learning_rate` stand here or in `search.space`."""

    budget: Budget
    """How much every trial trains."""
    batch_size: PositiveInt | None = None
    """Samples per optimizer step over all ranks: a multiple of micro_batch x workers_per_trial; any number where
    micro_batch is in tokens."""
    learning_rate: Positive | None = None
    """Peak learning rate."""
    warmup: Warmup = 0.0
    """Linear rise of the learning rate: fraction of the trial's steps in [0, 1), or `{steps: N}`."""
    schedule: Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt", "polynomial"] = "constant"
    """Course of the learning rate after warmup."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Where decaying schedules end, as a share of the peak learning rate."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """For `wsd`: share of the trial's optimizer steps in which the learning rate decays, at the end."""
    power: Positive = 2.0
    """For `polynomial`: exponent of the decay; 1 is linear."""
    micro_batch: MicroBatch
    """Samples per forward pass and rank; the largest that fits in memory is the fastest. `auto` finds it by a short
    probe with the longest rows when a slot starts. `{tokens: N}` packs samples up to N tokens, without padding and with
    attention within each sample; N is at least `data.max_length`."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Number format of forward and backward passes."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO stage: 0 nothing, 1 optimizer states, 2 and gradients, 3 and parameters are sharded."""
    gradient_clipping: NonNegative = 1.0
    """Largest L2 norm of the global gradient; 0 turns clipping off."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass: less memory, about a third more time."""
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    """What lies in main memory instead of the GPU's: the optimizer with its masters and gradients (zero_stage 1 to 3),
    and the parameters too (zero_stage 3). Needs GPUs."""
    liger: bool = False
    """Whether Liger's kernels compute norms, rotary embeddings and feed-forward parts. Needs GPUs and `pip install
    'sweepft[liger]'`."""
    compile: bool = False
    """Whether the model's repeated blocks run through `torch.compile`: faster steps for a slower start of each
    slot. Not at zero_stage 3."""
    seed: Seed = 0
    """Seed of sample order and dropout; the same for every trial unless swept."""
    optimizer: Optimizer = Optimizer()
    """The optimizer and its constants."""
    lora: Lora | None = None
    """Train low-rank adapters, not the weights themselves; by default all weights are trained."""


class TrainConfig(Train):
    """What one trial trains with: the train section with the trial's swept values in place."""

    batch_size: PositiveInt
    """Samples per optimizer step over all ranks."""
    learning_rate: Positive
    """Peak learning rate."""
    data: Curriculum | None = None
    """How its samples are put in order; None for all rows alike in one seeded order."""


class Limit(Section):
    """When to stop proposing trials. At least one key."""

    hours: Positive | None = None
    """Wall-clock hours of the sweep."""
    gpu_hours: Positive | None = None
    """Hours times GPUs held by trials; on CPU, hours times slots."""

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.hours is None and self.gpu_hours is None:
            raise invalid("must have hours, gpu_hours or both", "for example {hours: 8}")
        return self


class Search(Section):
    """What is varied, within which bounds, and who proposes."""

    trials: PositiveInt | None = None
    """Trials, at most. Needed unless there is a `limit` or the sampler is `grid`."""
    limit: Limit | None = None
    """Time and cost, at most."""
    sampler: Literal["tpe", "gp", "random", "qmc", "grid", "cmaes"] = "tpe"
    """Optuna sampler; `grid` tries every combination once and needs `choice` everywhere."""
    seed: Seed = 0
    """Seed of the proposals."""
    start_with: Annotated[tuple[Mapping[str, Any], ...], Field(strict=False)] = ()
    """Configurations tried first; what they leave out is sampled. Mappings, or names that `sweepft settings` lists."""
    space: Annotated[Mapping[str, Dimension], Field(min_length=1)]
    """Fields of `train` (dotted: `optimizer.weight_decay`), or of `data` (`data.strategy`), and what to try."""


class EarlyStop(Section):
    """Which trials are stopped before their budget is spent."""

    rule: Literal["none", "median", "recipe", "asha", "calibrated"] = "calibrated"
    """Who is stopped. `calibrated`: learns in this sweep which early signals mean a poor end; `median`: held-out loss
    worse than the peers' median; `asha`: successive halving on it; `recipe`: high gradient norm and low training loss
    among comparable trials; `none`: nobody but diverged trials."""
    rungs: Annotated[tuple[Fraction, ...], Field(min_length=1, strict=False), AfterValidator(_rising)] = (
        0.1,
        0.25,
        0.5,
    )
    """Where trials are judged: fractions of the budget, rising, in (0, 1)."""
    min_steps: PositiveInt = 8
    """Optimizer steps a trial must have done before a window counts for it; else the next one does."""
    min_peers: PositiveInt = 4
    """Other trials that must have passed the window before a trial is judged there."""
    covariates: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """For `calibrated`: swept fields that its model may use beside the early signals."""
    top_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the trials that count as good: what the error rates below are about."""
    max_false_stop_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """For `calibrated`: the share of good trials that may be condemned."""
    audit: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of condemned trials that run on all the same, to measure how often a stop was wrong; by default 0.05
    for `calibrated`, else 0."""
    max_false_discovery_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Upper bound on wrong stops below which audits certify the rule."""
    prior_sweeps: Paths = ()
    """What earlier sweeps taught: run folders, whose audits are counted with this sweep's, and for `calibrated` one
    file made by `sweepft replay --calibrate`. One path or a list. Read once, and kept in the ledger."""
    pause: bool = False
    """Whether condemned trials are parked instead of stopped: when there is nothing more to propose, those that are
    likely enough to be good for what they cost come back, within `search.limit`."""


class Keep(Section):
    """Whose weights are kept, as folders that `transformers` loads, in the run folder's `weights/`."""

    top: Annotated[int, Field(ge=0)] = 1
    """Of that many of the best completed trials."""
    random: Annotated[int, Field(ge=0)] = 0
    """Of that many other completed trials drawn at random, for an honest comparison later."""


class Resources(Section):
    """What one trial holds, and how many run at once."""

    workers_per_trial: PositiveInt = 1
    """Ranks of a trial."""
    gpus_per_worker: NonNegative = 0.0
    """GPUs of a rank: 0 trains on CPU, 1 on a GPU of its own. With 0.5 or less, trials of one rank share a GPU, and
    each is held to its share of the memory."""
    cpus_per_worker: Positive = 1.0
    """Logical CPUs of a rank."""
    concurrent_trials: PositiveInt = 1
    """Trials at once."""
    price_per_gpu_hour: NonNegative | None = None
    """What a GPU-hour costs (on CPU, an hour of a slot), in any currency; reports then say what the sweep cost. Changes
    nothing else, and may be changed on resume."""


class Faults(Section):
    """What is done about ranks, slots and nodes that are lost. Running out of memory is not counted here."""

    per_trial: Annotated[int, Field(ge=0)] = 2
    """How often a trial is brought back to where it had reported, on its slot or another; after that it has failed."""
    per_sweep: Annotated[int, Field(ge=0)] | None = None
    """Lost slots after which the sweep ends, to be resumed once the machines are well; by default 10, and one for each
    trial begun. Counted anew on resume."""
    hang_seconds: Positive = 60.0
    """How long beyond ten times its usual pace a rank may be silent, until all ranks of its slot write their stacks to
    their logs and are replaced."""
