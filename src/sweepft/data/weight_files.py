"""What the weight files of a base model hold, read from their headers and single rows; local safetensors only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

_EMBEDDINGS: Final = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_OUTPUTS: Final = ("lm_head.weight", "embed_out.weight")


def weight_names(folder: Path) -> set[str]:
    """Names of all weights in a model's folder; empty where it has no safetensors."""
    return {name for file in _files(folder) for name in file.keys()}  # noqa: SIM118  # not a mapping


def untrained(folder: Path, ids: Iterable[int]) -> set[int]:
    """Tokens that the base model was never trained on: all their embeddings, input and output, are zero."""
    wanted = sorted(set(ids))
    found: list[set[int]] = []
    for file in _files(folder) if wanted else ():
        for name in file.keys():  # noqa: SIM118
            if name.endswith((*_EMBEDDINGS, *_OUTPUTS)):
                rows = file.get_slice(name)
                size = rows.get_shape()[0]
                found.append({i for i in wanted if i < size and not rows[i : i + 1].any()})
    return set.intersection(*found) if found else set()


def _files(folder: Path) -> Iterator[Any]:
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        with safe_open(path, "pt") as file:
            yield file
