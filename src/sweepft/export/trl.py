"""A trial for ``trl sft``: its arguments, and what TRL does otherwise. Proved by tests that train with TRL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sweepft.data.generation_marks import TRAINING_TEMPLATE
from sweepft.data.prepared import SourceForm
from sweepft.export.facts import BestFacts
from sweepft.spec import Lora, Optimizer

TRAINING_TOKENIZER: Final = "training_tokenizer"
"""Folder of ``best/`` with tokenizer and marked template, if tokens were added: TRL adds them to its model."""

_COLUMNS: Final = {
    "messages": ["messages"],
    "prompt_completion": ["prompt", "completion"],
    "chat_prompt_completion": ["prompt", "completion"],
    "text": ["text"],
}


def trl_config(facts: BestFacts) -> dict[str, Any]:
    """Arguments of ``trl sft --config``: ``transformers.TrainingArguments`` and TRL's own for data."""
    s, spec = facts.train_config, facts.spec
    kind, arguments = _scheduler(facts)
    ranks = spec.resources.workers_per_trial
    form, sources = _trained_on(facts)
    return {
        "model_name_or_path": spec.model.path,
        **({"model_revision": spec.model.revision} if spec.model.revision else {}),
        **({"trust_remote_code": True} if spec.model.trust_remote_code else {}),
        "datasets": [_dataset(source, form) for source in sources],
        **_form(facts, form),
        "max_length": spec.data.max_length,
        "packing": False,
        "output_dir": "trained",
        "max_steps": s.planned_steps,
        "per_device_train_batch_size": facts.micro_batch,
        "gradient_accumulation_steps": -(-s.batch_size // (facts.micro_batch * ranks)),
        "learning_rate": s.learning_rate,
        "lr_scheduler_type": kind,
        **({"lr_scheduler_kwargs": arguments} if arguments else {}),
        "warmup_steps": s.warmup_steps,
        **_optimizer(s.optimizer),
        "adam_beta1": s.optimizer.betas[0],
        "adam_beta2": s.optimizer.betas[1],
        "adam_epsilon": s.optimizer.eps,
        "weight_decay": s.optimizer.weight_decay,
        "max_grad_norm": s.gradient_clipping,
        "bf16": s.precision == "bf16",
        "gradient_checkpointing": s.gradient_checkpointing,
        "seed": s.seed,
        "logging_steps": 1,
        "deepspeed": "deepspeed.json",
        **({"use_liger_kernel": True} if s.liger is True else {}),
        **({"torch_compile": True} if s.compile else {}),
        **({} if s.lora is None else _peft(s.lora)),
    }


def trl_differences(facts: BestFacts) -> Iterator[str]:
    """What TRL does otherwise than the trial; one sentence each."""
    yield "TRL shuffles the rows in its own order: expect a loss near the trial's, not identical numbers."
    yield from _rows_read_otherwise(facts)
    if any(held.fraction for held in facts.spec.data.validation):
        yield "TRL trains on the rows that the trial kept apart for validation, too: do not validate on them."
    if facts.best_step is not None:
        yield (
            f"The trial's weights are those of step {facts.best_step} of {facts.trial.planned_steps}, its best "
            "evaluation; TRL trains to the end: evaluate as it goes, and set load_best_model_at_end."
        )
    if facts.train_config.schedule == "wsd" and facts.train_config.warmup_steps:
        yield "TRL's warmup starts at min_lr_ratio of the peak rate instead of 0."
    if facts.train_config.lora is not None and needs_tokenizer(facts):
        yield (
            "TRL trains the whole output layer beside the adapter, because tokens were added; TRL 1.16 fails at that "
            "where input and output embeddings are tied."
        )


def _rows_read_otherwise(facts: BestFacts) -> Iterator[str]:
    form, sources = _trained_on(facts)
    counts = facts.prepared.train.counts
    if left := [Path(source.path).name for source in facts.prepared.sources if source not in sources]:
        yield f"TRL takes rows of one form only and not every form, so it does not read {', '.join(left)}."
    if unread := sorted({name for source in sources for name in source.unread}):
        yield f"TRL does not read {', '.join(unread)}."
    if any("roles of messages" in note for note in facts.prepared.notes):
        yield "TRL does not rename the roles of messages: write them as system, user and assistant first."
    yield from _form_read_otherwise(form, facts.prepared.tokens.template)
    if form in ("messages", "chat_prompt_completion") and (end := facts.prepared.tokens.appended):
        yield f"TRL does not put {end} behind a last answer, so that only answers with a turn behind them teach a stop."
    if facts.prepared.tokens.tool_template and any(source.tools for source in sources):
        yield "TRL renders rows with tools with the default chat template, too, instead of tool_use."
    if facts.phases or any(source.domains for source in facts.spec.data.train):
        yield "TRL has no domains: phases, weights or choice of domains are not reproduced; all rows weigh the same."
    if any(source.limit for source in facts.spec.data.train):
        yield "TRL reads all rows of a source that the trial read in part."
    if counts.get("over_length") or counts.get("truncated"):
        yield "Rows longer than max_length are cut off by TRL" + (
            "." if counts.get("truncated") else "; the trial left them out."
        )
    if lost := sum(n for reason, n in counts.items() if reason in ("no_target", "refused")):
        yield f"The trial left out {lost} rows without an answer or refused by the template: TRL may fail on them."


def _form_read_otherwise(form: str | None, template: str) -> Iterator[str]:
    if form is None:
        yield "TRL does not know the form of these rows: convert them to `messages` first."
    if form == "messages" and template == "plain":
        yield (
            "The chat template has no generation marks, so TRL learns the whole conversation instead of the answers. "
            "For a family that TRL knows, assistant_only_loss: true without chat_template_path learns the answers."
        )
    if form == "prompt_completion":
        yield (
            "TRL joins prompt and completion as they are, without the chat template. For the trial's tokens write them "
            "as lists of messages."
        )
    if form == "text":
        yield "If the tokenizer adds a BOS, TRL puts it before every text, also before one that begins with it."


def needs_tokenizer(facts: BestFacts) -> bool:
    """Whether TRL has to add tokens, so that `TRAINING_TOKENIZER` is needed."""
    tokens = facts.prepared.tokens
    return tokens.template != "none" and bool(tokens.added)


def _trained_on(facts: BestFacts) -> tuple[str | None, list[SourceForm]]:
    """The form with the most sources among those that TRL reads, and its sources; None and all sources without one."""
    sources = list(facts.prepared.sources)
    forms = [source.form for source in sources if source.form in _COLUMNS]
    if not forms:
        return None, sources
    form = max(dict.fromkeys(forms), key=forms.count)
    return form, [source for source in sources if source.form == form]


def _form(facts: BestFacts, form: str | None) -> dict[str, Any]:
    """Arguments by the form of the rows: what is learned, and with which template."""
    tokens = facts.prepared.tokens
    if form is None or form == "text":
        return {"dataset_text_field": "text", "completion_only_loss": False}
    if form == "prompt_completion":
        return {"completion_only_loss": True}
    marked = tokens.template == "marked"
    template = TRAINING_TEMPLATE if marked else "chat_template.jinja"
    chat = {
        "chat_template_path": TRAINING_TOKENIZER if needs_tokenizer(facts) else template,
        **({"eos_token": tokens.turn_end} if tokens.turn_end and not needs_tokenizer(facts) else {}),
    }
    return {"assistant_only_loss": marked, "completion_only_loss": form == "chat_prompt_completion", **chat}


def _dataset(source: SourceForm, form: str | None) -> dict[str, Any]:
    more = [
        name for name, there in (("tools", source.tools), ("chat_template_kwargs", source.variables)) if there
    ]
    columns = {} if form is None else {"columns": _COLUMNS[form] + more}
    if source.builder is None:
        named = {"name": source.config} if source.config else {}
        return {"path": source.path, **named, "split": source.split, **columns}
    return {"path": source.builder, "data_files": list(source.files) or source.path, **columns}


def _optimizer(optimizer: Optimizer) -> dict[str, Any]:
    if optimizer.name == "sgd":
        return {"optim": "sgd", "optim_args": f"momentum={optimizer.momentum}"}
    names = {"adamw": "adamw_torch", "adamw_8bit": "adamw_bnb_8bit", "adafactor": "adafactor"}
    return {"optim": names[optimizer.name]}


def _peft(lora: Lora) -> dict[str, Any]:
    """Arguments of ``trl.ModelConfig``, where alpha is an integer."""
    named = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    return {
        "use_peft": True,
        "lora_r": lora.rank,
        "lora_alpha": int(lora.alpha) if lora.alpha == int(lora.alpha) else lora.alpha,
        "lora_dropout": lora.dropout,
        "lora_target_modules": named,
        **({"use_rslora": True} if lora.scaling == "rslora" else {}),
        **({"lora_modules_to_save": list(lora.modules_to_save)} if lora.modules_to_save else {}),
        **(
            {"load_in_4bit": True, "bnb_4bit_quant_type": lora.quantize, "use_bnb_nested_quant": True}
            if lora.quantize
            else {}
        ),
    }


def _scheduler(facts: BestFacts) -> tuple[str, dict[str, Any]]:
    """Name and arguments of the schedule in ``transformers``.

    The only difference: there the warmup of wsd starts at ``min_lr_ratio`` of the peak instead of 0.
    """
    s = facts.train_config
    if s.schedule == "constant":
        return "constant_with_warmup", {}
    if s.schedule == "cosine":
        return "cosine_with_min_lr", {"min_lr_rate": s.min_lr_ratio}
    if s.schedule == "wsd":
        decay = min(-int(-s.decay_fraction * s.planned_steps // 1), s.planned_steps - s.warmup_steps)
        return "warmup_stable_decay", {"num_decay_steps": decay, "min_lr_ratio": s.min_lr_ratio}
    if s.schedule == "inverse_sqrt":
        return "inverse_sqrt", {"timescale": s.warmup_steps or 10_000}
    end = s.min_lr_ratio * s.learning_rate
    return "polynomial", {"lr_end": end, "power": s.power if s.schedule == "polynomial" else 1.0}
