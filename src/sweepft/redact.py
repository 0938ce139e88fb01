"""Takes secrets out of free text before it is written: messages, reasons, commands and logs.

A secret is recognised by its value (environment variables with names such as ``HF_TOKEN``), by its shape (``hf_...``),
or by the name beside it (``api_key=...``). Structured values (a spec, the paths of data) are never rewritten, because a
resumed run must find what is written: a spec with a secret is refused when it is loaded.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote, quote_plus

from sweepft.files import open_to_change
from sweepft.secret_shapes import REDACTED, SHAPES, Span, is_path, names_a_secret, values_beside_names

_SHORTEST: Final = 8
"""Characters of a secret value."""

_LINE: Final = 20
"""Characters of a line of a longer secret."""

_URL_SAFE: Final = str.maketrans("+/", "-_")
_CHUNK: Final = 1 << 20
_OVERLAP: Final = 1 << 16
"""Bytes of a log that are looked at twice: a longer secret on a border of chunks is missed."""

_BEFORE: Final = 1 << 10
"""Bytes before a secret that may be needed to know it."""


def redact(text: str) -> str:
    """The text with every secret replaced by ``[redacted]``."""
    parts, end = [], 0
    for start, stop in _joined(_secrets(text)):
        parts += [text[end:start], REDACTED]
        end = stop
    return "".join([*parts, text[end:]]) if parts else text


def redact_within(value: Any) -> Any:
    """Plain data with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_within(part) for key, part in value.items()}
    return [redact_within(part) for part in value] if isinstance(value, list | tuple) else value


def secret_in(text: str, name: str = "") -> str | None:
    """What kind of secret a text holds; None if it holds none.

    Args:
        text: The text.
        name: Of the key whose value it is: ``api_key`` makes a secret of any text.
    """
    found = next((what for _, _, what in _secrets(text)), None)
    if found is None and name:
        found = next((what for _, _, what in values_beside_names(f"{name}={json.dumps(text)}")), None)
    return found


def redact_files(folder: Path) -> None:
    """Take secrets out of the logs of other processes, in all files below a folder.

    They are overwritten in place by texts of the same length, so that a process may go on appending to its log. A file
    may have any size. Links are not followed.
    """
    for path, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not os.path.islink(os.path.join(path, name))]
        for name in names:
            try:
                with open_to_change(os.path.join(path, name)) as file:
                    if os.fstat(file.fileno()).st_nlink == 1:  # else it may be a file of elsewhere
                        _clean(file)
            except OSError:
                continue


class RedactingFormatter(logging.Formatter):
    """A log formatter that redacts its lines, including tracebacks."""

    def format(self, record: logging.LogRecord) -> str:
        """The redacted record."""
        return redact(super().format(record))


def _clean(file: BinaryIO) -> None:
    """Overwrite the secrets in a file. Characters are bytes here, so that places in the text are places in the file."""
    descriptor, start = file.fileno(), 0
    while text := os.pread(descriptor, _CHUNK + _OVERLAP, start).decode("latin-1"):
        for begin, end in _joined(_secrets(text, latin=True)):
            if end == len(text) == _CHUNK + _OVERLAP and begin > _CHUNK + _BEFORE:
                continue  # cut off here, and whole in the next chunk
            os.pwrite(descriptor, REDACTED.encode().ljust(end - begin, b"*")[: end - begin], start + begin)
        start += _CHUNK


def _joined(spans: Iterator[Span]) -> list[tuple[int, int]]:
    """Spans in their order, those that overlap as one."""
    joined: list[tuple[int, int]] = []
    for start, end, _ in sorted(spans):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _secrets(text: str, *, latin: bool = False) -> Iterator[Span]:
    """The secrets in a text.

    Args:
        text: The text.
        latin: Whether its characters stand for bytes.
    """
    for name, value in _known(latin):
        start = text.find(value)
        while start >= 0:
            yield start, start + len(value), f"the value of {name}"
            start = text.find(value, start + len(value))
    for shape in SHAPES:
        if any(mark in text for mark in shape.marks):
            for found in shape.pattern.finditer(text):
                span = shape.part(found)
                if span is not None:
                    yield *span, shape.name
    yield from values_beside_names(text)


def _known(latin: bool) -> tuple[tuple[str, str], ...]:
    # Comparing the bytes below os.environ is a hundred times as fast as reading every variable.
    raw: Any = getattr(os.environ, "_data", os.environ)
    if not _variables or raw != _variables[0]:
        _variables[:] = [dict(raw), tuple((k, v) for k, v in os.environ.items() if names_a_secret(k))]
    return _forms(_variables[1], latin)


_variables: list[Any] = []
"""The environment as it was when it was last read, and its secret variables."""


@lru_cache(maxsize=8)
def _forms(variables: tuple[tuple[str, str], ...], latin: bool) -> tuple[tuple[str, str], ...]:
    """Name and value of each secret variable in every form in which it may be written, longest first."""
    found = {
        form: name
        for name, value in variables
        if len(value) >= _SHORTEST and not is_path(value)
        for form in _ways_to_write(value)
    }
    if latin:
        found = {f.encode("utf-8", "surrogateescape").decode("latin-1"): name for f, name in found.items()}
    return tuple((name, form) for form, name in sorted(found.items(), key=lambda pair: -len(pair[0])))


def _ways_to_write(value: str) -> Iterator[str]:
    yield value
    for line in value.splitlines():
        if len(line.strip()) >= _LINE:  # of a key file
            yield line.strip()
    yield repr(value)[1:-1]
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]
    raw = value.encode("utf-8", "surrogateescape")
    for safe in ("", "/", "/~"):
        yield quote(raw, safe=safe)
    yield re.sub("%..", lambda found: found[0].lower(), quote(raw, safe=""))
    yield quote_plus(raw)
    for before in range(3):  # of it alone, or after other text such as a user's name
        coded = base64.b64encode(b"\0" * before + raw)
        whole = coded[(before * 8 + 5) // 6 : (before + len(raw)) * 8 // 6].decode()
        if len(whole) >= _SHORTEST:
            yield whole
            yield whole.translate(_URL_SAFE)
