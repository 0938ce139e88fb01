"""Pre-trains a base model of 30M-150M parameters for the study's larger edition.

    python -m benchmarks.study.pretrain --out FOLDER

A Llama with the tokenizer of a given model, pre-trained for some epochs on chat rows as plain text, on one GPU (or
slowly on a CPU), by a plain PyTorch loop over blocks of the concatenated text. Rows from ``--rows`` on are not used;
they are written to ``unseen.jsonl`` in the model's folder, for later measurements.
"""

from __future__ import annotations

import gzip
import json
import math
import time
from pathlib import Path
from typing import Any

import click

SHARED = Path(__file__).resolve().parents[3] / "shared"
BLOCK = 512
"""Tokens per sequence."""


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the model.")
@click.option("--tokenizer", default=str(SHARED / "models/tiny-llama-t0"), show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=SHARED / "data/t0_instructions.jsonl.gz")
@click.option("--rows", default=30_000, show_default=True, help="Training rows.")
@click.option("--epochs", default=4.0, show_default=True, help="Passes over the training rows.")
@click.option("--hidden", default=640, show_default=True)
@click.option("--layers", default=10, show_default=True)
@click.option("--batch", default=64, show_default=True, help="Sequences per step.")
@click.option(
    "--rate", default=1e-3, show_default=True, help="Peak learning rate: warmup, then cosine to a tenth."
)
def main(
    out: Path,
    tokenizer: str,
    data: Path,
    rows: int,
    epochs: float,
    hidden: int,
    layers: int,
    batch: int,
    rate: float,
) -> None:
    """Pre-train a base model and save it."""
    import torch
    from transformers import AutoTokenizer

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    words = AutoTokenizer.from_pretrained(tokenizer)
    lines = gzip.decompress(data.read_bytes()).decode().splitlines()
    blocks, unseen = (torch.tensor(_blocks(words, part)) for part in (lines[:rows], lines[rows : rows + 500]))
    torch.manual_seed(0)
    model = _llama(words, hidden, layers).to(device)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    click.echo(f"{size:.1f}M parameters, {blocks.numel() / 1e6:.2f}M tokens, {epochs:g} epochs, on {device}")
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1, fused=device.type == "cuda"
    )
    order = torch.cat([torch.randperm(len(blocks)) for _ in range(math.ceil(epochs))])
    steps, begin = int(epochs * len(blocks)) // batch, time.monotonic()
    for step in range(steps):
        share = (step + 1) / steps
        lr = rate * min(1.0, (step + 1) / 50) * (0.55 + 0.45 * math.cos(math.pi * share))
        for group in optimizer.param_groups:
            group["lr"] = lr
        loss = _loss(model, blocks[order[step * batch : (step + 1) * batch]].to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step + 1 == steps:
            click.echo(
                f"step {step + 1} of {steps}: loss {loss.item():.3f}, {time.monotonic() - begin:.0f} s"
            )
    model.eval()
    with torch.no_grad():
        losses = [_loss(model, part.to(device)).item() for part in unseen.split(batch)]
    click.echo(f"loss on {unseen.numel()} unseen tokens: {sum(losses) / len(losses):.3f}")
    model.to(torch.float32).save_pretrained(out)
    words.save_pretrained(out)
    (out / "unseen.jsonl").write_text("\n".join(lines[rows:]) + "\n")


def _blocks(words: Any, lines: list[str]) -> list[list[int]]:
    """The concatenated text of the rows, split into sequences of BLOCK tokens."""
    texts = [words.apply_chat_template(json.loads(line)["messages"], tokenize=False) for line in lines]
    ids = [i for row in words(texts, add_special_tokens=False)["input_ids"] for i in row]
    return [ids[at : at + BLOCK] for at in range(0, len(ids) - BLOCK + 1, BLOCK)]


def _llama(words: Any, hidden: int, layers: int) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=len(words), hidden_size=hidden, intermediate_size=int(hidden * 8 / 3) // 64 * 64,
        num_hidden_layers=layers, num_attention_heads=hidden // 64, num_key_value_heads=hidden // 64,
        max_position_embeddings=1024, tie_word_embeddings=True, pad_token_id=words.pad_token_id,
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config)


def _loss(model: Any, ids: Any) -> Any:
    """Mean next-token loss; half precision on a GPU."""
    import torch

    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=ids.device.type == "cuda"):
        logits = model(input_ids=ids, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


if __name__ == "__main__":
    main()
