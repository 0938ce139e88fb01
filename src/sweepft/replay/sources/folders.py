"""What readers of folders share."""

from __future__ import annotations

import bz2
import gzip
import lzma
from pathlib import Path
from typing import Any

from sweepft.bounded_json import read_json
from sweepft.errors import ReplayError
from sweepft.files import open_to_read
from sweepft.unpacking import UNPACKING_ERRORS, bounded


def run_name(run: Path, folder: Path) -> str:
    """The name of a run: its folder below the source."""
    return str(run.relative_to(folder)) if run != folder else run.name


def unreadable(path: Path, what: str, error: object) -> ReplayError:
    """The error for a file that is not what its name says."""
    return ReplayError(
        f"{path}: not {what}: {error}\n  remove it or give another source", key="replay.unreadable"
    )


def read_text(path: Path) -> str:
    """The text of a file, also of a ``.gz``, ``.bz2`` or ``.xz``."""
    opener: Any = {".gz": gzip, ".bz2": bz2, ".xz": lzma}.get(path.suffix.lower())
    with open_to_read(path, links=True) as file:
        if opener is None:
            return file.read().decode("utf-8-sig")
    with bounded(opener.open(path), path) as unpacked:
        return unpacked.read().decode("utf-8-sig")


def read_lines(path: Path, what: str) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; a last line that was cut is left out.

    Raises:
        ReplayError: Another line is no JSON object.
    """
    try:
        return parse_lines(read_text(path), path, what)
    except (*UNPACKING_ERRORS, ValueError) as error:
        raise unreadable(path, what, error) from error


def parse_lines(text: str, path: Path, what: str) -> list[dict[str, Any]]:
    """As `read_lines`, of a text already read."""
    rows: list[dict[str, Any]] = []
    filled = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for place, (number, line) in enumerate(filled):
        try:
            row = read_json(line)
        except ValueError as error:
            if place == len(filled) - 1 and place:
                break
            raise unreadable(path, what, f"line {number}: {error}") from error
        if not isinstance(row, dict):
            raise unreadable(path, what, f"line {number} is no JSON object")
        rows.append(row)
    return rows
