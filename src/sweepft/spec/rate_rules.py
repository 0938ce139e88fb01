"""Rules of thumb for the learning rate: what others found to be near the best, to compare a search range with.

By Tinker (Thinking Machines Lab, tinker-cookbook, 2025-10): ``5e-5 x (10 for LoRA) x (2000 / width)^p`` at a batch size
of 128, where p was fitted for two families. Baseten's study (2026-06) found no such exponent, so other families get the
flatter one. The rate grows with the square root of the batch size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sweepft.bounded_json import read_json_file
from sweepft.spec.sections import Model
from sweepft.spec.sweep import SweepSpec

BASE: Final = 5e-5
LORA_FACTOR: Final = 10.0
WIDTH: Final = 2000
BATCH: Final = 128
_EXPONENTS: Final = {"llama": 0.781, "qwen": 0.0775}
_OTHER: Final = 0.0775
LARGE_LORA_BATCH: Final = 512
"""From here on LoRA loses against training all weights at equal samples (LoRA Without Regret, 2025-09)."""


@dataclass(frozen=True)
class RateRule:
    """The rule for one model.

    Attributes:
        width: Of the residual stream.
        family: ``model_type`` of its config; the exponent is fitted for Llama and Qwen.
        lora: Whether adapters are trained.
    """

    width: int
    family: str
    lora: bool

    @property
    def fitted(self) -> bool:
        """Whether the exponent was fitted for this family."""
        return any(name in self.family for name in _EXPONENTS)

    def rate(self, batch_size: int = BATCH) -> float:
        """Peak learning rate at a batch size."""
        exponent = next((p for name, p in _EXPONENTS.items() if name in self.family), _OTHER)
        scale = math.pow(WIDTH / self.width, exponent) * math.sqrt(batch_size / BATCH)
        return BASE * (LORA_FACTOR if self.lora else 1.0) * scale


def rate_rule(spec: SweepSpec) -> RateRule | None:
    """The rule for a sweep; None where the model's config is not on this machine."""
    lora = spec.train.lora is not None or any(key.startswith("lora.") for key in spec.search.space)
    return rule_of(spec.model, lora)


def rule_of(model: Model, lora: bool) -> RateRule | None:
    """The rule for a local model folder; None for another one."""
    try:
        config = read_json_file(Path(model.path) / "config.json")
        text = config.get("text_config") or config
        width = int(text.get("hidden_size") or text["n_embd"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return RateRule(width, str(text.get("model_type") or config.get("model_type") or ""), lora)


def batch_sizes(spec: SweepSpec) -> list[int]:
    """Batch sizes of a sweep: its choices, or the ends of its range; ascending."""
    return sorted({int(size) for _, size in spec.search.candidates("batch_size", spec.train.batch_size)})


def rate_range(spec: SweepSpec) -> tuple[float, float]:
    """Lowest and highest learning rate of a sweep."""
    return spec.rate_range


def place_range(spec: SweepSpec, rule: RateRule) -> str:
    """Where the sweep's learning rates lie against the rule, in a sentence."""
    low, high = rate_range(spec)
    sizes = batch_sizes(spec)
    rates = [rule.rate(size) for size in sizes]
    span = " to ".join(dict.fromkeys(f"{rate:.1g}" for rate in (rates[0], rates[-1])))
    at = f"batch size {sizes[0]:,}" if len(sizes) == 1 else f"batch sizes {sizes[0]:,} to {sizes[-1]:,}"
    what = "LoRA" if rule.lora else "all weights"
    rule_says = f"the rule of thumb for {what} at width {rule.width:,} and {at} is {span}"
    if high < rates[0]:
        return f"{rule_says}; all of your learning rates, {low:.2g} to {high:.2g}, lie below it"
    if low > rates[-1]:
        return f"{rule_says}; all of your learning rates, {low:.2g} to {high:.2g}, lie above it"
    covers = "cover it" if low <= rates[0] and high >= rates[-1] else "cover a part of it"
    return f"{rule_says}; your learning rates, {low:.2g} to {high:.2g}, {covers}"


def rate_warnings(spec: SweepSpec, rule: RateRule | None) -> list[str]:
    """Warnings of a range that leaves the rule out, and of LoRA at large batches; one sentence each."""
    found = []
    if rule is not None and any(
        word in (said := place_range(spec, rule)) for word in ("below it", "above it")
    ):
        found.append(f"{said}: extend search.space.learning_rate towards it, if only to see that it is worse")
    lora = spec.train.lora is not None or any(key.startswith("lora.") for key in spec.search.space)
    if lora and (large := [size for size in batch_sizes(spec) if size >= LARGE_LORA_BATCH]):
        found.append(
            f"LoRA learns less per sample at large batch sizes ({', '.join(f'{size:,}' for size in large)}): add some "
            f"below {LARGE_LORA_BATCH}"
        )
    return found
