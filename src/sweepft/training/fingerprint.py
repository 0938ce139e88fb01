"""Digests of everything that must be equal on all ranks of a slot before a trial may start."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from sweepft.data.cache import TokenSet
from sweepft.spec import TrainConfig
from sweepft.training.config import EngineConfig

_PACKAGES = ("torch", "deepspeed", "transformers", "ray", "sweepft")
_EDGE = 1 << 20


def fingerprint(config: EngineConfig, train_config: TrainConfig | None) -> dict[str, str]:
    """Digest of everything that ranks have to agree on.

    Returns:
        Field name -> digest or version. Weights are identified by the size and the first and last MiB of each
        safetensors file, which costs milliseconds for 14 GB.
    """
    fields = {
        "engine config": _digest(asdict(config) | {"scratch": ""}),
        "training data": TokenSet(config.train_cache).digest,
        "weights": weights_digest(config.model_path),
    }
    fields |= {f"validation data {s.name}": TokenSet(s.cache).digest for s in config.validation}
    if train_config is not None:
        fields["train config"] = _digest(train_config.model_dump(mode="json"))
    quantizer = ("bitsandbytes",) if config.quantize is not None else ()  # each rank quantizes for itself
    return fields | {f"{name} version": version(name) for name in (*_PACKAGES, *quantizer)}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(model_path: str) -> str:
    """Digest of a model folder: size, first and last MiB of each safetensors file; a hub id stands for itself."""
    folder = Path(model_path)
    if not folder.is_dir():
        return model_path
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as f:
            digest.update(f.read(_EDGE))
            f.seek(max(0, size - _EDGE))
            digest.update(f.read(_EDGE))
    return digest.hexdigest()[:16]
