"""Batch sizes of tasks that the spec leaves open: from bytes worked out by hand, for every family, and after running
out of memory.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from support.families import FAMILIES, family_model
from sweepft.evaluation import batch_size
from sweepft.evaluation.batch_size import fitting_batch, power_of_two, sequence_bytes
from sweepft.evaluation.tasks import batch_size_of, smaller_batch

GIB = 2**30
MISTRAL_7B = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14_336, "vocab_size": 32_768,
}  # fmt: skip


def model(device: str = "cpu", **changes: Any) -> Any:
    """What is read of a model of 7B parameters in bf16."""
    config = SimpleNamespace(**{**MISTRAL_7B, **changes})
    config.get_text_config = lambda: config
    weights = [torch.zeros(1, dtype=torch.bfloat16)]
    return SimpleNamespace(config=config, device=torch.device(device), parameters=lambda: iter(weights))


@pytest.mark.parametrize(
    ("count", "size"), [(0, 1), (0.3, 1), (1.9, 1), (2, 2), (7.9, 4), (8, 8), (63.9, 32), (64, 64), (1e9, 64)]
)
def test_power_of_two__is_not_above_the_count(count: float, size: int) -> None:
    assert power_of_two(count) == size


def test_sequence_bytes__by_hand() -> None:
    block = 4 * 4096 + 3 * 14_336  # numbers that a token has in one layer
    keys_and_values = 2 * 32 * 8 * 128
    assert sequence_bytes(model(), 1000, generated=True) == 2 * 1000 * (keys_and_values + block)
    assert sequence_bytes(model(), 1000, generated=False) == 2 * 1000 * (2 * 32_768 + block)
    widths = model(intermediate_size=[1, 14_336, 2])  # of each layer
    assert sequence_bytes(widths, 1000, generated=True) == sequence_bytes(model(), 1000, generated=True)


@pytest.mark.parametrize(
    ("free", "longest", "generated", "size"),
    [
        # a generated token takes 249,856 bytes, as does one with logits
        (60 * GIB, 1200, True, 64),  # of 0.30 GB each
        (60 * GIB, 4096, True, 16),  # of 1.02 GB: 31 would fit
        (1 * GIB, 1200, True, 1),
        (60 * GIB, 1000, False, 64),
    ],
)
def test_fitting_batch__takes_half_of_what_is_free(
    free: int, longest: int, generated: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "free_bytes", lambda device: free)
    assert fitting_batch(model("cuda"), longest, generated=generated) == size


@pytest.mark.parametrize(
    ("host", "longest", "size"), [(64 * GIB, 1000, 16), (64 * GIB, 100, 64), (GIB, 1000, 1)]
)
def test_fitting_batch__takes_a_sixteenth_of_a_machine_without_gpus(
    host: int, longest: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "host_bytes", lambda: host)
    assert fitting_batch(model(), longest, generated=True) == size


@pytest.mark.parametrize("family", ["gpt2", "gemma3", "mixtral"])
def test_sequence_bytes__are_known_for_every_family(family: str, tmp_path: Any) -> None:
    from transformers import AutoConfig

    assert family in FAMILIES
    config = AutoConfig.from_pretrained(family_model(tmp_path / family, family))
    some = SimpleNamespace(config=config, parameters=lambda: iter([torch.zeros(1)]))
    # two layers of width 32; keys and values of 2 heads of 8 numbers, of 4 in gpt2
    keys = 2 * 2 * (4 if family == "gpt2" else 2) * 8
    wide = 4 * 32 if family == "gpt2" else 48
    assert sequence_bytes(some, 10, generated=True) == 4 * 10 * (keys + 4 * 32 + 3 * wide)


@pytest.mark.parametrize(("size", "smaller"), [(None, 8), (8, 4), (3, 1), (2, 1), (1, None)])
def test_smaller_batch__ends_at_one(size: int | None, smaller: int | None) -> None:
    assert smaller_batch(size) == smaller


def test_batch_size_of__auto_is_left_open() -> None:
    assert (batch_size_of("auto"), batch_size_of(3)) == (None, 3)
