"""What must be equal on all ranks of a slot before a trial may start."""

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


def fingerprint(plan: EngineConfig, train_config: TrainConfig | None) -> dict[str, str]:
    """Digest of each thing ranks have to agree on.

    Returns:
        Field name -> digest or version. Weights are identified by the size and the first and last MiB of each
        safetensors file, which costs milliseconds for 14 GB.
    """
    fields = {
        "sweep settings": _digest(asdict(plan) | {"scratch": ""}),
        "training data": TokenSet(plan.train_cache).digest,
        "weights": weights_digest(plan.model_path),
    }
    fields |= {f"held-out data {s.name}": TokenSet(s.cache).digest for s in plan.validation}
    if train_config is not None:
        fields["train config"] = _digest(train_config.model_dump(mode="json"))
    return fields | {f"{name} version": version(name) for name in _PACKAGES}


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def weights_digest(model_path: str) -> str:
    """Of a model folder: the size and the first and last MiB of each safetensors file; a hub id is its own."""
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
