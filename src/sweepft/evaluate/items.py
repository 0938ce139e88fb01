"""What was said and expected, item by item: JSON lines beside the ledger, which has their digest."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_items"]


def write_items(file: Path, items: Iterable[Mapping[str, Any]]) -> str:
    """Write gzipped JSON lines, all or nothing; equal items give equal bytes.

    Returns:
        SHA-256 of the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(item, ensure_ascii=False, default=str) + "\n" for item in items)
    data = gzip.compress(lines.encode("utf-8", "replace"), mtime=0)
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(file)
    return hashlib.sha256(data).hexdigest()
