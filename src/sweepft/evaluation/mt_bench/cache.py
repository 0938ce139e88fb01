"""Answers and the judge's replies on disk, each in a file named by the SHA-256 of its request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.bounded_json import read_json, read_json_file
from sweepft.errors import StorageError
from sweepft.files import atomic_write

REQUESTS: Final = "requests.jsonl"
"""Requests without a reply, in OpenAI's batch format."""

RESPONSES: Final = "responses.jsonl"
"""Replies to them that were obtained elsewhere."""


def digest(request: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class TextCache:
    """A folder of texts by key. The folder is created with the first text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> str | None:
        """The text, or None where there is none or its file is damaged."""
        try:
            text = read_json_file(self.path(key))["text"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return text if isinstance(text, str) else None

    def put(self, key: str, text: str, **about: Any) -> None:
        """Write a text atomically, with ``about`` beside it for readers of the file.

        Raises:
            StorageError: If it cannot be written.
        """
        _write(self.path(key), json.dumps({"text": text, **about}, indent=1))

    def write_requests(self, bodies: Mapping[str, Mapping[str, Any]]) -> Path:
        """Write requests by key as a batch file; returns its path.

        Raises:
            StorageError: If it cannot be written.
        """
        path = self.folder / REQUESTS
        rows = (
            {"custom_id": key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            for key, body in bodies.items()
        )
        _write(path, "".join(json.dumps(row) + "\n" for row in rows))
        return path

    def take_responses(self, keys: Iterable[str]) -> None:
        """Store the texts of these keys from a batch's result file, if there is one; broken lines are skipped."""
        wanted = set(keys)
        try:
            lines = (self.folder / RESPONSES).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                row = read_json(line)
                key, text = row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"]
            except (ValueError, LookupError, TypeError):
                continue
            if key in wanted and isinstance(text, str):
                self.put(key, text, source=RESPONSES)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(path, text, sync=False)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror}\n"
            "  free space, or set another folder: evaluate.mt_bench.cache"
        ) from error
