"""Answers and verdicts on disk, each in a file named by the SHA-256 of what was asked.

One idea: the name says everything that the text depends on, so that a cache can be shared, copied and cleared at will.
What a judge is still to be asked can leave as a file of OpenAI's batch format, and its outcome come back as one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from sweepft.errors import StorageError

__all__ = ["REQUESTS", "RESPONSES", "TextCache", "digest"]

REQUESTS: Final = "requests.jsonl"
RESPONSES: Final = "responses.jsonl"


def digest(asked: Mapping[str, Any]) -> str:
    """SHA-256 of plain data, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


class TextCache:
    """A folder of texts.

    Args:
        folder: Made when the first text is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Where the text of a key lies."""
        return self.folder / key[:2] / f"{key}.json"

    def get(self, key: str) -> str | None:
        """The text, or None where there is none or its file is damaged."""
        try:
            text = json.loads(self.path(key).read_text(encoding="utf-8"))["text"]
        except (OSError, ValueError, LookupError, TypeError):
            return None
        return text if isinstance(text, str) else None

    def put(self, key: str, text: str, **about: Any) -> None:
        """Keep a text, all or nothing; ``about`` stands beside it for people.

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
        """Keep the texts of these keys from a batch's outcome, where its file is there; broken lines are left."""
        wanted = set(keys)
        try:
            lines = (self.folder / RESPONSES).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                row = json.loads(line)
                key, text = row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"]
            except (ValueError, LookupError, TypeError):
                continue
            if key in wanted and isinstance(text, str):
                self.put(key, text, source=RESPONSES)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as file:
                file.write(text)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written: {error.strerror}\n  free space or name another folder: evaluate.mt_bench.cache"
        ) from error
