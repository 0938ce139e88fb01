"""The sections of a spec: keys, types, defaults and their meaning.

Each section validates itself. Rules between sections are in :mod:`sweepft.spec.checks`, checks of the named files in
:mod:`sweepft.spec.files`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sweepft.spec.curriculum import Curriculum
from sweepft.spec.fields import (
    AutoSwitch,
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
from sweepft.spec.row_source import RowSource
from sweepft.spec.space import Dimension, Tied
from sweepft.spec.template_variables import TemplateVariables

_Domains = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1, strict=False)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)]


def _rising(rungs: tuple[float, ...]) -> tuple[float, ...]:
    if any(a >= b for a, b in itertools.pairwise(rungs)):
        raise invalid("must be strictly increasing", f"for example rungs: {sorted(set(rungs))}")
    return rungs


_OURS: Final = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "DS_ACCELERATOR",
    "CUDA_VISIBLE_DEVICES",
)
"""Variables that a slot sets for each of its ranks."""


def _settable(env: Mapping[str, str]) -> Mapping[str, str]:
    for name in env:
        if name in _OURS:
            raise invalid(
                f"must not set {name}, which differs between ranks", "remove it; Ray and sweepft set it"
            )
        if name.startswith(("LD_", "RAY_")):
            raise invalid(
                f"cannot set {name}, which is read before a rank starts", "set it where you start Ray"
            )
        if name.upper().endswith(("TOKEN", "SECRET", "PASSWORD", "_KEY")):
            raise invalid(
                f"must not hold the secret {name}", "set it in the environment of the cluster's nodes"
            )
    return env


def _as_text(value: Any) -> Any:
    return str(value) if type(value) in (int, float) else value


class Model(Section):
    """The base model that every trial starts from."""

    path: Source
    """Local folder with config.json, tokenizer and safetensors weights, or a hub id `org/name`."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; pin a commit for runs that must be repeatable."""
    chat_template: TemplateName | None = None
    """Name of a built-in chat template, or a Jinja file; by default the tokenizer's own."""
    chat_template_kwargs: TemplateVariables | None = None
    """Variables of the chat template, e.g. `{enable_thinking: false}`. They become its defaults: in training, in
    evaluation, and in the exported tokenizer. A row's own `chat_template_kwargs` go before them."""
    trust_remote_code: bool = False
    """Allow Python code shipped with the model to run on your machines."""
    allow_pickle: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Names of pickle files that may be loaded from a local folder without safetensors, e.g. `[pytorch_model.bin]`.
    They are read with torch's `weights_only`; safetensors are still safer."""


class TrainSource(RowSource):
    """Training rows: conversations, requests and answers, or plain text."""

    path: Source
    """File (.jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow, each also .gz, .bz2, .xz or .zst), pattern of files
    (`rows/*.jsonl`), folder of files or of `save_to_disk`, or hub id of a data set."""
    domain: str | None = None
    """Domain of these rows, for phases, weights and reports; by default each row's own `domain` field, if any."""
    domains: _Domains | None = None
    """Use only rows with one of these domains (names or shell patterns such as `glue_*`); by default all rows."""


class Validation(RowSource):
    """A validation set. The objective is the weighted mean of their losses, unless `objective` names a task."""

    name: _Name
    """Name used in reports."""
    fraction: Fraction | None = None
    """Fraction of the training rows to hold out, in (0, 1). Give this or `path`."""
    path: Source | None = None
    """Separate file, pattern, folder or hub id, as in `data.train`. Give this or `fraction`."""
    weight: NonNegative = 1.0
    """Weight in the objective. With 0 the set is evaluated and reported but not optimised."""
    domains: _Domains | None = None
    """Use only rows with one of these domains (names or shell patterns). For a `fraction`, the domains of the training
    rows."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        exactly_one(self, ("fraction", "path"))
        return self


class TestSource(RowSource):
    """A test set. It is read only to score the finalists."""

    name: _Name
    """Name used in reports."""
    path: Source
    """File, pattern, folder or hub id, as in `data.train`."""


class _Sources(Section):
    train: Annotated[tuple[TrainSource, ...], Field(min_length=1, strict=False)]
    """Training sources. By default their rows are mixed in one seeded order that does not depend on swept values."""
    validation: Annotated[tuple[Validation, ...], Field(min_length=1, strict=False)]
    """Validation sets, evaluated at every rung and at the end of training."""
    test: Annotated[tuple[TestSource, ...], Field(strict=False)] = ()
    """Test sets, read only to score the finalists."""
    max_length: PositiveInt = 2048
    """Maximum tokens per row."""
    over_length: Literal["drop", "truncate"] = "drop"
    """Drop or truncate longer rows. The number of such rows is reported either way."""
    max_lost: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest fraction of the rows of a source or set that may be left out because nothing can be learned from them:
    no assistant turn, refused by the chat template, or longer than `max_length`. More is an error before anything
    starts."""
    seed: Seed = 0
    """Seed for validation fractions and row limits (not for training)."""
    overlap: Literal["error", "drop"] = "error"
    """Training rows that also occur in a validation or test set: raise an error, or drop them from training."""


class Data(Curriculum, _Sources):
    """Training, validation and test data, and the order of the training samples."""

    @property
    def curriculum(self) -> Curriculum:
        """Strategy, phases, replay and mixture alone."""
        return Curriculum(**{name: getattr(self, name) for name in Curriculum.model_fields})


class Budget(Section):
    """Training budget per trial, equal for all trials whatever their batch size. Give exactly one key."""

    samples: PositiveInt | None = None
    """Training samples."""
    tokens: PositiveInt | None = None
    """Target tokens (tokens with a loss), counted along the sample order."""
    epochs: Annotated[Positive, Field(le=1_000_000)] | None = None
    """Passes over the training rows; fractions are allowed."""

    @model_validator(mode="after")
    def _one_unit(self) -> Self:
        exactly_one(self, ("samples", "tokens", "epochs"))
        return self


class Optimizer(Section):
    """Optimizer and its hyperparameters."""

    name: Literal["adamw", "adafactor", "sgd", "adamw_8bit"] = "adamw"
    """Optimizer. `adafactor` uses the given learning rate and needs `zero_stage: 0`; `sgd` uses momentum; `adamw_8bit`
    needs `pip install 'sweepft[8bit]'`. The engine is rebuilt when consecutive trials use different optimizers."""
    betas: Annotated[
        tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]], Field(strict=False)
    ] = (0.9, 0.95)
    """For `adamw` and `adamw_8bit`: decay rates of the first and second moment."""
    beta2_half_life: Annotated[Positive, Field(le=1e12)] | None = None
    """For `adamw` and `adamw_8bit`, instead of `betas`: target tokens after which a squared gradient counts half in the
    second moment, e.g. `10_000_000`, for every batch size. The decay rate of a trial is `0.5 ** (tokens per step /
    beta2_half_life)`, with the batch size times the mean target tokens of a training row as the tokens of a step. That
    of the first moment is 0.9."""
    eps: Positive = 1e-8
    """For `adamw` and `adamw_8bit`: term added to the denominator."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For `sgd`: momentum."""
    weight_decay: NonNegative = 0.0
    """Weight decay, decoupled from the gradient; `sgd` adds it to the gradient instead."""


class Lora(Section):
    """Low-rank adapters (LoRA) on frozen base weights."""

    rank: PositiveInt = 16
    """Rank of the adapters. A trial with another rank or other target modules gets new adapters on the same base."""
    alpha: Positive = 32.0
    """Adapter outputs are multiplied by alpha / rank, or as `scaling` has it."""
    scaling: Literal["standard", "rslora"] = "standard"
    """Factor of adapter outputs: alpha / rank (`standard`), or alpha / sqrt(rank) (`rslora`, rank-stabilized LoRA, with
    which one learning rate suits all ranks)."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapters' input."""
    target_modules: TargetModules = "all-linear"
    """Names of the layers that get adapters, e.g. `[q_proj, v_proj]`; `all-linear` is every linear layer except the
    output layer."""
    modules_to_save: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False)] = ()
    """Names of layers that are trained as a whole beside the adapters and saved with them, e.g. `[embed_tokens,
    lm_head]`. Not available at zero_stage 3."""
    quantize: Literal["nf4"] | None = None
    """Keep the frozen base weights in 4 bits (QLoRA): `nf4`, with double quantization, computing in `precision`. Linear
    layers take about a quarter of their 16-bit memory; embeddings, norms and the output layer stay as they are. Needs
    zero_stage 0 to 2 and `pip install 'sweepft[qlora]'`."""


class Train(Section):
    """Training settings of every trial. Set `batch_size` and `learning_rate` here or sweep them in `search.space`."""

    budget: Budget
    """Training budget per trial."""
    batch_size: PositiveInt | None = None
    """Samples per optimizer step over all ranks: a multiple of `micro_batch` x `workers_per_trial`, or any number if
    `micro_batch` is given in tokens."""
    learning_rate: Positive | None = None
    """Peak learning rate."""
    warmup: Warmup = 0.0
    """Linear learning-rate warmup: a fraction of the trial's optimizer steps in [0, 1), or `{steps: N}`."""
    schedule: Literal["constant", "linear", "cosine", "wsd", "inverse_sqrt", "polynomial"] = "constant"
    """Learning-rate schedule after warmup."""
    min_lr_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Final learning rate of decaying schedules, as a fraction of the peak."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] = 0.2
    """For `wsd`: fraction of the trial's optimizer steps, at the end, in which the learning rate decays."""
    power: Positive = 2.0
    """For `polynomial`: exponent of the decay; 1 is linear."""
    micro_batch: MicroBatch
    """Samples per forward pass and rank; the largest that fits in memory is the fastest. `auto` finds it with a short
    probe on the longest rows when a slot starts. `{tokens: N}` packs samples into N tokens, without padding and with
    attention restricted to each sample; N must be at least `data.max_length`."""
    precision: Literal["fp32", "bf16"] = "bf16"
    """Number format of forward and backward passes."""
    zero_stage: Annotated[int, Field(ge=0, le=3)] = 2
    """DeepSpeed ZeRO stage. 0 shards nothing, 1 optimizer states, 2 also gradients, 3 also parameters."""
    gradient_clipping: NonNegative = 1.0
    """Maximum L2 norm of the global gradient; 0 disables clipping."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: uses less memory and about a third more time."""
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    """Keep optimizer states, fp32 weights and gradients in main memory (`optimizer`, zero_stage 1 to 3), or the
    parameters as well (`optimizer_and_parameters`, zero_stage 3). Needs GPUs."""
    liger: AutoSwitch = "auto"
    """Use Liger's kernels for norms, rotary embeddings and feed-forward layers (GPUs; `pip install 'sweepft[liger]'`).
    `auto`: where they are installed and give the same losses as the model's own, and without `compile`."""
    compile: bool = False
    """Compile the model's repeated blocks with `torch.compile`: steps are faster, each slot starts more slowly. Not
    available at zero_stage 3."""
    seed: Seed = 0
    """Seed for sample order and dropout; the same for every trial unless swept."""
    optimizer: Optimizer = Optimizer()
    """Optimizer and its hyperparameters."""
    lora: Lora | None = None
    """Train low-rank adapters instead of all weights; by default all weights are trained."""


class Limit(Section):
    """Limit after which no new trials are proposed. Give at least one key."""

    hours: Positive | None = None
    """Wall-clock hours since the start of the sweep."""
    gpu_hours: Positive | None = None
    """GPU-hours held by trials; on CPU, slot-hours."""

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.hours is None and self.gpu_hours is None:
            raise invalid("must have hours, gpu_hours or both", "for example {hours: 8}")
        return self


class Bound(Section):
    """Largest loss allowed on a validation set, or worst value of a task that trials are measured on."""

    at_most: float | None = None
    """Largest loss or value. With `above: base` the largest increase, with `below: base` the largest decrease. Losses
    are in nats per target token, values of a task in its own unit."""
    at_least: float | None = None
    """Smallest value of a task, e.g. 0.3."""
    above: Literal["base"] | None = None
    """With `base`, `at_most` is counted upwards from the base model's loss or value, which is measured before the first
    trial ends; by default it is the loss itself."""
    below: Literal["base"] | None = None
    """With `base`, `at_most` is counted downwards from the base model's value, for a task of which more is better."""

    @model_validator(mode="after")
    def _can_be_met(self) -> Self:
        exactly_one(self, ("at_most", "at_least"))
        relative = self.above or self.below
        if self.above and self.below:
            raise invalid("must not have above and below", "use above for a loss, below for a score")
        if self.at_least is not None and relative:
            remedy = "write at_most with below: base for the largest decrease, or at_least alone"
            raise invalid("at_least is the value itself, not counted from the base model", remedy)
        if relative and self.at_most is not None and self.at_most < 0:
            raise invalid("must not be negative when counted from the base model", "write 0 or more")
        return self

    @property
    def is_floor(self) -> bool:
        """Whether it bounds from below, as of a score of which more is better."""
        return self.at_least is not None or self.below is not None


class Enough(Section):
    """When the search has found enough."""

    gain: Positive
    """The search ends when a further trial is expected to be ahead of the best one by less than this: in nats per
    target token, or in the unit of the objective's metric."""
    min_trials: PositiveInt = 12
    """Completed trials before the search may end; trials that were stopped early do not count. The baseline is awaited
    as well."""


class Search(Section):
    """Search space, sampler and number of trials."""

    trials: PositiveInt | None = None
    """Maximum number of trials. Required unless `limit` is given or the sampler is `grid`."""
    limit: Limit | None = None
    """Limit on time or cost."""
    enough: Enough | None = None
    """End the search before `trials` or `limit` when more trials are not worth their cost; by default it does not. May
    be changed on resume."""
    sampler: Literal["tpe", "gp", "random", "qmc", "grid", "cmaes"] = "tpe"
    """Optuna sampler. `grid` tries every combination once and needs `choice` for every key."""
    seed: Seed = 0
    """Seed of the sampler."""
    start_with: Annotated[tuple[Mapping[str, Any], ...], Field(strict=False)] = ()
    """Params to try first, as mappings or as names of presets (`sweepft presets` lists them). Keys that are left out
    are sampled."""
    baseline: Mapping[str, Any] | None = None
    """The setting to beat, as params or as the name of a preset: your present one, or a published one. It is trained
    first and to its end, and the report says how far the winner is ahead of it. Without it, the first entry of
    `start_with` is the baseline."""
    learn_from: Paths = ()
    """Run folders of earlier sweeps, for `tpe` and `gp`: the ranking of their trials stands in for trials of this sweep
    until it has its own. One path or a list. Read once at the start and stored in the ledger."""
    subject_to: Mapping[str, Bound] = {}
    """Bounds on validation losses, by name of the set, e.g. `{retention: {at_most: 0.05, above: base}}`, and on tasks
    that trials are measured on (`objective`), e.g. `{gsm8k: {at_least: 0.3}}` or `{gsm8k: {at_most: 0.05, below:
    base}}`: the best trial is the best of those that meet them. The sampler learns them, trials far beyond them are
    stopped, and the report has the front of objective against what is bounded."""
    space: Annotated[Mapping[str, Dimension], Field(min_length=1)]
    """Keys to sweep and their values: fields of `train` (dotted: `optimizer.weight_decay`) or of `data`
    (`data.strategy`)."""
    tied: Mapping[str, Tied] = {}
    """Fields of `train` that follow another one in every trial, e.g. `{lora.alpha: {times: 2, of: lora.rank}}`. They
    are no dimensions of the space."""

    @property
    def first_trials(self) -> dict[tuple[str | int, ...], Mapping[str, Any]]:
        """Params that are tried first, in order, by their place in the spec: the baseline, then ``start_with``."""
        named = {} if self.baseline is None else {("search", "baseline"): self.baseline}
        return named | {("search", "start_with", i): entry for i, entry in enumerate(self.start_with)}

    def candidates(self, key: str, fixed: Any) -> list[tuple[tuple[str | int, ...], Any]]:
        """Key path and value of everything a field of `train` can be: its choices or range ends if swept, else
        ``fixed``.
        """
        dimension = self.space.get(key)
        if dimension is None:
            return [(("train", *key.split(".")), fixed)]
        return [(("search", "space", key, *below), value) for below, value in dimension.examples()]


class EarlyStop(Section):
    """Early stopping of trials."""

    rule: Literal["none", "median", "recipe", "asha", "calibrated"] = "calibrated"
    """Early-stopping rule. `calibrated` learns in this sweep which early signals predict a poor final loss; `median`
    stops trials with a validation loss worse than the median of their peers; `asha` is successive halving on validation
    loss; `recipe` stops trials with a high gradient norm and low training loss among comparable trials; `none` stops
    diverged trials only."""
    divergence_check: bool = True
    """With any rule, stop trials whose training loss stays above twice its start, or is not finite. The check
    restarts with each of `data.phases`, spares trials whose validation loss improves or leads, and stands down where
    most trials are alike. A trial whose gradients are not finite ends in any case."""
    rungs: Annotated[tuple[Fraction, ...], Field(min_length=1, strict=False), AfterValidator(_rising)] = (
        0.1,
        0.25,
        0.5,
    )
    """Points at which trials are evaluated and may be stopped: increasing fractions of the budget in (0, 1)."""
    min_steps: PositiveInt = 8
    """Minimum optimizer steps of a trial at a rung; rungs before that are skipped for the trial."""
    min_peers: PositiveInt = 4
    """Minimum number of other trials that have reached a rung before the rule applies there."""
    covariates: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """For `calibrated`: swept keys that its model uses in addition to the early signals."""
    top_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of trials that count as top trials; the error rates below refer to these."""
    max_false_stop_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """For `calibrated`: maximum fraction of top trials that may be flagged."""
    audit: Annotated[float, Field(ge=0, le=1)] | None = None
    """Fraction of flagged trials trained to completion to measure the error rate; by default 0.05 for `calibrated`,
    otherwise 0."""
    max_false_discovery_rate: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """The report certifies the rule if audits bound its false discovery rate (top trials among the flagged) below
    this."""
    prior_sweeps: Paths = ()
    """Earlier sweeps to learn from: run folders, which add their audits to this sweep's, and for `calibrated` one file
    written by `sweepft replay --calibrate`. One path or a list. Read once at the start and stored in the ledger."""
    patience: PositiveInt | None = None
    """End a trial after this many evaluations without a better one, whatever the rule; the baseline is not ended. The
    trial is completed, with the value of its best evaluation, so this needs `objective: {at: best}`."""
    pause: bool = False
    """Pause flagged trials instead of stopping them. When there is nothing left to propose, paused trials that are
    likely enough to be good for their remaining cost are resumed, within `search.limit`."""


class Keep(Section):
    """Which trials' weights to keep, as folders that `transformers` can load, in the run folder's `weights/`."""

    top: Annotated[int, Field(ge=0)] = 1
    """Number of best completed trials."""
    random: Annotated[int, Field(ge=0)] = 0
    """Number of other completed trials, drawn at random, for an unbiased comparison."""
    pareto: Annotated[int, Field(ge=0)] = 0
    """Number of trials from the front of objective against the losses bounded by `search.subject_to`: trials that no
    other one beats on all of them. Of a longer front, trials spread evenly over it."""


_Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_VariableValue = Annotated[
    str, Field(strict=False), BeforeValidator(_as_text, json_schema_input_type=str | int | float)
]


class Resources(Section):
    """Workers and GPUs of a trial, and the number of concurrent trials."""

    workers_per_trial: PositiveInt = 1
    """Number of ranks per trial."""
    gpus_per_worker: NonNegative = 0.0
    """GPUs per rank: 0 trains on CPU, 1 gives each rank its own GPU. With 0.5 or less, single-rank trials share a GPU,
    and each is limited to its share of the memory."""
    cpus_per_worker: Positive = 1.0
    """Logical CPUs per rank."""
    concurrent_trials: PositiveInt = 1
    """Maximum number of concurrent trials."""
    placement: Literal["node", "any"] = "node"
    """`node` keeps all ranks of a trial on one node. `any` lets a trial span nodes where no single one has room, whose
    network then carries its gradients (and at `zero_stage: 3` its weights)."""
    env: Annotated[Mapping[_Variable, _VariableValue], AfterValidator(_settable)] = {}
    """Environment variables of the ranks, e.g. `{NCCL_SOCKET_IFNAME: ib0}`. The driver's own environment does not reach
    the ranks of a cluster. Not for secrets, which belong into the environment of the nodes."""
    price_per_gpu_hour: NonNegative | None = None
    """Price of a GPU-hour (on CPU: of a slot-hour) in any currency, used for the costs in reports. May be changed on
    resume."""


class Faults(Section):
    """Handling of lost ranks, slots and nodes. Out-of-memory errors are not counted here."""

    per_trial: Annotated[int, Field(ge=0)] = 2
    """How often a trial is restored to its last reported point, on the same or another slot, before it fails."""
    per_sweep: Annotated[int, Field(ge=0)] | None = None
    """Number of lost slots after which the sweep ends; it can be resumed once the machines are repaired. By default 10
    plus one per started trial. The count restarts on resume."""
    hang_seconds: Positive = 60.0
    """A rank that ends no forward and backward pass in this many seconds, plus ten times the longest pass so far, is
    considered hung: all ranks of its slot write their stacks to their logs and are replaced."""
