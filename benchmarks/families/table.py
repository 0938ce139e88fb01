"""The table of families as a page of the documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

_HEAD: Final = """\
# Model families

Any causal language model that `AutoModelForCausalLM` loads and whose tokenizer is a fast one can be trained.
The families below were run through sweepft as tiny random models, with full fine-tuning and with LoRA, and
compared with a loop over single rows in plain transformers and peft ({date}, transformers {transformers},
peft {peft}, DeepSpeed {deepspeed}, fp32, one rank, ZeRO stage 2). `python -m benchmarks.families` builds the
models, runs the checks and writes this page; a third of the families is part of `make test`, all of them of
`make test-full`.
"""
_LEGEND: Final = """
- **loss**: the largest difference in nats per token between sweepft and the plain loop, over the losses of
  four optimizer steps and the validation losses before and after them, with micro-batches of 1 row, 4 rows
  and `{{tokens: {tokens}}}`. Allowed is {loss:g}.
- **tokens**: what `train.micro_batch: {{tokens: N}}` does: *packed* rows without padding, or padded rows
  *grouped* by length.
- **export**: the exported folder loads in plain transformers without a missing or unexpected weight and gives
  the logits of the trained model (within {logits:g}); with LoRA it is the merged model.
- **adapter**: the folder `adapter` on the base model in plain peft gives the same logits.
- **evaluation**: kept weights loaded into running ranks give the validation loss that the trial reported.
- **end of turn**: after training on two conversations, the exported folder alone (its own generation config)
  repeats each answer and stops, for one prompt and for a batch of eight.
"""
_NOTES: Final = """
## Limits

- Dropout: a model whose config has dropout draws other random numbers with another micro-batch, so its losses
  differ slightly.
- Rotary embeddings that depend on the longest row of a batch (`longrope` of the Phi models, `dynamic`):
  samples on both sides of the original context length never share a micro-batch, and neither do items of an
  evaluation, so that no loss depends on the batch. A generated answer that may cross the limit is generated
  alone. See [Micro-batches](../how-to/training.md#micro-batches).
- `target_modules: all-linear` reaches the router of Llama 4, which peft cannot adapt: name the layers instead.
- Only text is trained. Of a multimodal model the text part and its embeddings get gradients; the vision part
  stays as it is. Of some (Qwen3.5) transformers loads the text part alone, and layers that predict further
  tokens (`mtp`) of no model: a warning names weights that are neither trained nor exported, and
  the exported `config.json` counts no such layers.
"""


def page(outcomes: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """The page with the table.

    Args:
        outcomes: As `benchmarks.families.check.Outcome.to_dict` has them.
        facts: As `benchmarks.record.about` has them.
    """
    from benchmarks.families.check import LOGIT_TOLERANCE, LOSS_TOLERANCE, TOKENS

    head = _HEAD.format(date=facts["date"], **facts["versions"])
    legend = _LEGEND.format(loss=LOSS_TOLERANCE, logits=LOGIT_TOLERANCE, tokens=TOKENS)
    lines = [
        "| family | what sets it apart | tokens | loss, full | loss, LoRA | export, full | export, LoRA | adapter "
        "| evaluation, full | evaluation, LoRA | end of turn, full | end of turn, LoRA |",
        "| --- " * 12 + "|",
    ]
    for one in outcomes:
        cells = [one["family"], one["mechanism"], one["layout"] or "-"]
        cells += [_largest(one[kind], LOSS_TOLERANCE) for kind in ("full", "lora")]
        cells += [
            _within(one["export"].get(k), LOGIT_TOLERANCE, one, f"{k}, export") for k in ("full", "lora")
        ]
        cells.append(_within(one["adapter"], LOGIT_TOLERANCE, one, "adapter"))
        cells += [_within(one["exam"].get(k), LOSS_TOLERANCE, one, f"{k}, exam") for k in ("full", "lora")]
        cells += [_ok(one["end_of_turn"].get(k, False)) for k in ("full", "lora")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([head + legend, *lines]) + "\n" + _NOTES


def _largest(differences: Mapping[str, float], tolerance: float) -> str:
    if not differences:
        return "**fails**"
    most = max(differences.values())
    return f"{most:.0e}" if most <= tolerance and len(differences) == 3 else f"**{most:.0e}**"


def _within(difference: float | None, tolerance: float, one: Mapping[str, Any], what: str) -> str:
    noted = any(line.startswith(what) for line in one["failures"])
    return _ok(difference is not None and difference <= tolerance and not noted)


def _ok(good: bool) -> str:
    return "ok" if good else "**fails**"
