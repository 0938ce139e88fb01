"""A digest of a base model's files, by which a model is known again at another path."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json_file
from sweepft.spec import Model

_WHOLE: Final = 64 << 20
_PARTS: Final = 256
_PART: Final = 1 << 16
_WEIGHTS: Final = (".safetensors", ".bin")
_NOT_THE_MODEL: Final = ("_name_or_path", "transformers_version")


def model_digest(model: Model) -> str | None:
    """Digest of config and weights; None if they are not on this machine.

    Weight files of up to 64 MiB are read whole, larger ones in 256 parts of 64 KiB, first and last bytes included.
    """
    folder = _folder(model)
    if folder is None or not (folder / "config.json").is_file():
        return None
    config: dict[str, Any] = read_json_file(folder / "config.json")
    for key in _NOT_THE_MODEL:
        config.pop(key, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in sorted(f for f in folder.iterdir() if f.suffix in _WEIGHTS and f.is_file()):
        size = file.stat().st_size
        digest.update(f"\n{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            if size <= _WHOLE:
                digest.update(stream.read())
                continue
            for i in range(_PARTS):
                stream.seek((size - _PART) * i // (_PARTS - 1))
                digest.update(stream.read(_PART))
    return digest.hexdigest()


def _folder(model: Model) -> Path | None:
    """The folder of the model's files on this machine, if they are here."""
    if Path(model.path).is_dir():
        return Path(model.path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model.path, revision=model.revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
