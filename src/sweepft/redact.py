"""Takes secrets out of text before it is written: one function for ledger, logs and job metadata.

A secret is recognised by its value (environment variables with names such as ``HF_TOKEN``, read once), by its shape
(``hf_...``, ``sk-...``), or by its place (``api_key=...``, ``https://user:password@host``).
"""

from __future__ import annotations

import logging
import os
import re
from functools import cache
from pathlib import Path
from typing import Final

REDACTED: Final = "[redacted]"

_NAME = re.compile(
    r"TOKEN(?!IZER)|SECRET|PASS(?:WORD|WD|PHRASE)|PASS$|(?:^|_)PWD$|CREDENTIAL|WEBHOOK|(?:^|_)PAT(?:_|$)|(?:^|_)KEY(?:_|$)"
    r"|APIKEY",
    re.I,
)

_SHAPE = re.compile(
    r"\bhf_[A-Za-z0-9]{16,}"
    r"|\bsk-[A-Za-z0-9_-]{16,}"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bAIza[\w-]{30,}|\bxox[abprs]-[\w-]{10,}"
    r"|(?<=://)[^/\s@'\"]+(?=@)"
    r"|(?<=\bBearer )[\w.~+/-]{12,}=*"
)

_PLACE = re.compile(r"((?:api[_-]?key|secret(?:[_-]?key)?|password|passwd|token)\s*=\s*)[^\s&'\",;]+", re.I)


# Every text with such a shape contains one of these: most texts need no regular expression.
_MARKS: Final = (
    "hf_", "sk-", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "AKIA", "ASIA", "AIza", "xox",
    "://", "Bearer ",
)  # fmt: skip

_SHORTEST: Final = 8  # characters of a secret value
_LARGEST: Final = 64 << 20  # bytes of a log file


def names_a_secret(variable: str) -> bool:
    """Whether a variable of this name holds a secret."""
    return _NAME.search(variable) is not None


def redact(text: str) -> str:
    """The text with every secret replaced by ``[redacted]``."""
    for value in _secrets():
        if value in text:
            text = text.replace(value, REDACTED)
    if any(mark in text for mark in _MARKS):
        text = _SHAPE.sub(REDACTED, text)
    return _PLACE.sub(rf"\1{REDACTED}", text) if "=" in text else text


def looks_secret(text: str) -> bool:
    """Whether a text contains something with the shape of a secret."""
    return _SHAPE.search(text) is not None


def redact_files(folder: Path, pattern: str = "*.log") -> None:
    """Take secrets out of log files of other processes; files without secrets are not touched."""
    for file in folder.glob(pattern):
        try:
            if file.is_symlink() or file.stat().st_size > _LARGEST:
                continue
            found = file.read_text(encoding="utf-8", errors="surrogateescape")
            clean = redact(found)
            if clean != found:
                # In place, for a process that still appends to the file.
                file.write_text(clean, encoding="utf-8", errors="surrogateescape")
        except OSError:
            continue


class RedactingFormatter(logging.Formatter):
    """A log formatter that redacts its lines, including tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """The redacted record."""
        return redact(super().format(record))


@cache
def _secrets() -> tuple[str, ...]:
    """Values of variables named like a secret, longest first; paths to files with credentials do not count."""
    found = {
        value
        for name, value in os.environ.items()
        if _NAME.search(name) and len(value) >= _SHORTEST and not value.startswith(("/", "~", "."))
    }
    return tuple(sorted(found, key=len, reverse=True))
