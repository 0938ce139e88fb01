"""A model that knows a few answers by heart, trained and exported by the product, for tests of what ends an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import specs
from support.ledger_builder import LedgerBuilder
from support.ranks import on_ranks
from support.tiny import tiny_config, tiny_tokenizer
from sweepft.data import Prepared, prepare
from sweepft.driver.configs import slot_config
from sweepft.export import write_best
from sweepft.spec import SweepSpec

CHATML = """\
{%- for m in messages %}
{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

ANSWERS = [
    "red",
    "blue and green",
    "a much longer colour than that",
    "grey",
    "black",
    "white, or nearly so",
    "pink",
    "ochre",
]
QUESTIONS = [f"What colour is the hat number {i}?" for i in range(len(ANSWERS))]


def chat_rows() -> list[dict[str, Any]]:
    """Each question with its answer, as messages."""
    return [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]}
        for q, a in zip(QUESTIONS, ANSWERS, strict=True)
    ]


def base_model(
    folder: Path,
    *,
    template: str | None = CHATML,
    eos: str = "<|im_end|>",
    pad: str = "<|pad|>",
    rename: dict[str, str] | None = None,
    adds_bos: bool = False,
    generation: dict[str, Any] | None = None,
) -> Path:
    """A random tiny Llama whose tokenizer is like that of a model family.

    Args:
        folder: Where it is saved.
        template: Its chat template.
        eos: Its eos token, added where it is missing.
        pad: Its pad token.
        rename: Tokens of the vocabulary to rename.
        adds_bos: Whether the tokenizer puts ``<s>``, which is added, before a text.
        generation: Fields of the file ``generation_config.json``, beside the eos token's id.
    """
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    source = tiny_tokenizer()
    text = source.backend_tokenizer.to_str()
    for old, new in (rename or {}).items():
        text = text.replace(json.dumps(old)[1:-1], new)
    (folder / "raw").mkdir(parents=True)
    (folder / "raw" / "tokenizer.json").write_text(text)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "raw" / "tokenizer.json"),
        eos_token=eos,
        pad_token=pad,
        model_max_length=256,
    )
    if adds_bos:
        from tokenizers.processors import TemplateProcessing

        tokenizer.add_special_tokens({"bos_token": "<s>"})
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    config = tiny_config("llama", len(tokenizer), eos_token_id=tokenizer.eos_token_id, pad_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        model.get_input_embeddings().weight.data *= (
            20  # the output layer too: an adapter cannot make logits large
        )
    model.save_pretrained(folder)
    fields = {"eos_token_id": tokenizer.eos_token_id, **(generation or {})}
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return folder


def sweep_spec(
    model: Path,
    rows: list[dict[str, Any]],
    *,
    lora: dict[str, Any] | None = None,
    passes: int | None = None,
    **model_keys: Any,
) -> SweepSpec:
    """A spec whose trials learn the rows by heart, in 200 passes, 400 with an adapter, where nothing else is asked."""
    file = model.parent / f"{model.name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = model.parent / f"{model.name}-other.jsonl"
    other.write_text(json.dumps({"text": "Nothing of the above."}) + "\n")
    return specs.spec(
        model={"path": str(model), **model_keys},
        data={
            "train": [{"path": str(file)}],
            "validation": [{"name": "other", "path": str(other)}],
            "max_length": 128,
        },
        train={
            "budget": {"samples": 8 * (passes or (400 if lora else 200))},
            "micro_batch": 8, "batch_size": 8, "precision": "fp32", "zero_stage": 0,
            "schedule": "cosine", "warmup": 0.1, **({"lora": lora} if lora else {}),
        },
        search={"trials": 1, "space": {"learning_rate": {"choice": [2e-3 if lora else 1e-2]}}},
    )  # fmt: skip


@dataclass(frozen=True)
class Trained:
    """A trial that was trained and exported.

    Attributes:
        prepared: Its data.
        folder: The exported folder.
        then: What the further function returned.
    """

    prepared: Prepared
    folder: Path
    then: Any


def trained(spec: SweepSpec, folder: Path, then: Callable[..., Any] | None = None) -> Trained:
    """Prepare a sweep, train one trial on one rank and export it.

    Args:
        spec: Of the sweep.
        folder: The run folder.
        then: Called after the export, with the runner, the tokenizer's folder and the run folder.
    """
    prepared = prepare(spec, folder / "cache")
    (rate,) = spec.search.space["learning_rate"].choices
    config = spec.train_config({"learning_rate": rate}, prepared.budget_samples)
    found = on_ranks(
        _train, 1, slot_config(spec, prepared, folder).engine, config, folder, prepared.tokenizer, then
    )
    return Trained(prepared, folder / "weights" / "t000", found)


def best_of(spec: SweepSpec, folder: Path) -> tuple[Path, Prepared]:
    """``best/`` of a sweep with one made-up trial over really prepared data, without weights."""
    prepared = prepare(spec, folder / "cache")
    config = spec.train_config({"learning_rate": 1e-2}, prepared.budget_samples)
    data = prepared.model_dump(mode="json")
    sweep = LedgerBuilder(spec=spec.to_dict(), data=data, budget_samples=prepared.budget_samples)
    sweep.completed("t000", 1.0, params={"learning_rate": 1e-2}, train_config=config.to_dict())
    (folder / "run").mkdir()
    best = write_best(folder / "run", sweep.finish().state())
    assert best is not None
    return best, prepared


def _train(runner: Any, config: Any, run: Path, tokenizer: str, then: Any) -> Any:
    runner.start(config)
    runner.run(runner.config.budget_samples)
    runner.export(str(run / "weights" / "t000"), tokenizer)
    return then(runner, tokenizer, run) if then else None


def generated(
    folder: Path, prompts: list[str], batch: int, *, tokenizer: Path, chat: bool = True
) -> list[str]:
    """What an exported folder, or its adapter, says to each prompt, with its special tokens up to the first pad.

    Nothing but the inputs and ``max_new_tokens`` is given to ``generate``.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    tok = AutoTokenizer.from_pretrained(tokenizer, padding_side="left")
    if folder.name == "adapter":
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(folder)
        model.generation_config = GenerationConfig.from_pretrained(folder)
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
    said = []
    for start in range(0, len(prompts), batch):
        texts = prompts[start : start + batch]
        if chat:
            texts = [
                tok.apply_chat_template(
                    [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
                )
                for text in texts
            ]
        inputs = tok(texts, return_tensors="pt", padding=True, add_special_tokens=not chat)
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            out = model.generate(**inputs, max_new_tokens=40)
        for ids in out[:, inputs["input_ids"].shape[1] :].tolist():
            kept = ids
            while (
                len(kept) > 1
                and kept[-1] == tok.pad_token_id
                and kept[-2] in (tok.pad_token_id, *_ends(model))
            ):
                kept = kept[:-1]
            said.append(tok.decode(kept))
    return said


def _ends(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    return ends if isinstance(ends, list) else [ends]
