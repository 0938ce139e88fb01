"""A family's tiny model with its tokenizer, and the chat rows that it is trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from benchmarks.families.recipes import Recipe, config_of, special_tokens
from benchmarks.families.templates import TEMPLATES

from sweepft.data import Prepared, prepare
from sweepft.driver.configs import slot_config
from sweepft.spec import SweepSpec, from_dict
from sweepft.training.config import EngineConfig

_COLOURS: Final = ("red", "green", "dark blue", "grey")
_THINGS: Final = ("hat", "old car", "door of the house at the end of the long road", "pen")
ROWS: Final = 24


def rows() -> list[dict[str, Any]]:
    """Short and long questions, each with an answer of one to four words."""
    made = []
    for i in range(ROWS):
        thing, colour = _THINGS[i % 4], _COLOURS[i // 4 % 4]
        question = f"What colour is the {thing} number {i}?"
        answer = colour if i % 3 else f"{colour}, I am sure"
        made.append(
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        )
    return made


def write_data(folder: Path) -> tuple[Path, Path]:
    """Files with the training and the validation rows."""
    train, validation = folder / "train.jsonl", folder / "validation.jsonl"
    every = rows()
    train.write_text("".join(json.dumps(row) + "\n" for row in every[:-6]))
    validation.write_text("".join(json.dumps(row) + "\n" for row in every[-6:]))
    return train, validation


def make_tokenizer(one: Recipe) -> Any:
    """A byte-level tokenizer with a family's special tokens and chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    special, eos, _ = special_tokens(one)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280 + len(special),
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
    )
    tokenizer.train_from_iterator((m["content"] for row in rows() for m in row["messages"]), trainer)
    if one.bos is not None:
        tokenizer.post_processor = TemplateProcessing(
            single=f"{one.bos} $A",
            pair=f"{one.bos} $A $B",
            special_tokens=[(one.bos, tokenizer.token_to_id(one.bos))],
        )
    named = {"bos_token": one.bos, "eos_token": eos, "pad_token": one.pad}
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, **{key: token for key, token in named.items() if token is not None}
    )
    made.chat_template = TEMPLATES[one.template].text
    return made


def make_model(one: Recipe, folder: Path) -> Path:
    """Save a family's model with random weights, its tokenizer and chat template; returns the folder.

    Weights are three times as large as at the usual start: attention then matters, and a leak shows. Those of the
    output layer are larger still: frozen under adapters, they could not give any token a probability near 1.
    """
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer(one)
    tokens = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = config_of(
        one, {key: token for key, token in tokens.items() if token is not None}, len(tokenizer)
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            embeddings = model.get_input_embeddings().weight
            empty = (embeddings == 0).all(
                dim=1
            )  # of the pad token; where it ends a turn too, a real model has learned it
            embeddings[empty] = torch.randn_like(embeddings[empty]) * embeddings.std()
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.mul_(3)
            model.get_output_embeddings().weight.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prepare_trial(
    folder: Path, model: Path, train: Path, validation: Path, *, samples: int, batch_size: int, **changes: Any
) -> tuple[SweepSpec, Prepared, EngineConfig]:
    """Spec, prepared data and engine config of a trial on the CPU, by the way that a sweep goes.

    Args:
        folder: Run folder.
        model: Model folder.
        train: File of training rows.
        validation: File of validation rows.
        samples: Budget.
        batch_size: Of a global batch.
        **changes: Other keys of ``train``.
    """
    spec = from_dict(
        {
            "name": folder.name,
            "model": {"path": str(model)},
            "data": {
                "train": [{"path": str(train)}],
                "validation": [{"name": "held", "path": str(validation)}],
            },
            "train": {
                "budget": {"samples": samples},
                "batch_size": batch_size,
                "learning_rate": 3e-3,
                "micro_batch": 1,
                "precision": "fp32",
                "zero_stage": 2,
                **changes,
            },
            "search": {"trials": 2, "space": {"seed": {"choice": [0, 1]}}},
            "resources": {"gpus_per_worker": 0},
        }
    )
    prepared = prepare(spec, folder / "cache")
    return spec, prepared, slot_config(spec, prepared, folder).engine
