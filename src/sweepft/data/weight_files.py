"""Files of a base model, and what its weight files hold: from headers and single rows, of local safetensors only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

_EMBEDDINGS: Final = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight")
_OUTPUTS: Final = ("lm_head.weight", "embed_out.weight")


def own_file(model: str, revision: str | None, name: str) -> Path | None:
    """A file of a model's folder or hub repository; None if it has none of this name, or the hub cannot be reached."""
    from transformers.utils import cached_file

    missing = {
        f"_raise_exceptions_for_{why}": False
        for why in ("gated_repo", "missing_entries", "connection_errors")
    }
    found = cached_file(model, name, revision=revision, **missing)
    return None if found is None else Path(found)


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
