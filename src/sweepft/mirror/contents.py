"""What of a run folder is mirrored: what cannot be made again, and what people want to look at.

Tokenised data, Ray's own state, shared base weights and the ranks' logs stay here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from sweepft.mirror.manifest import Part

__all__ = ["GROWING", "PART_BYTES", "begins_with", "new_parts", "shown", "written_once"]

GROWING: Final = ("ledger/ledger.jsonl", "ledger/commands.jsonl", "study.journal")
"""Files that are only appended to, the truth first."""

PART_BYTES: Final = 4 << 20
"""Of a part: that much of a long ledger goes over the line again with each new row, and no more."""

_SHOWN: Final = ("report.html", "report.md", "report.json", "ranked.csv")


def written_once(run_dir: Path) -> dict[str, dict[str, os.stat_result]]:
    """Files that are written all or nothing, by the folder they form a whole with; names are relative.

    A trial's weights, one state of a trial, a finalist's answers: each is copied as a whole or not at all.
    """
    states = [p for trial in _folders(run_dir / "checkpoints") for p in _folders(trial)]
    paths = [run_dir / "spec.yaml", *(p for p in states if (p / "complete.json").is_file())]
    paths += [p for top in ("weights", "items") for p in _folders(run_dir / top)]
    found = {path.relative_to(run_dir).as_posix(): _files(run_dir, path) for path in paths}
    return {name: files for name, files in found.items() if files}


def shown(run_dir: Path) -> dict[str, os.stat_result]:
    """Files for people to open where they lie: the report, and what stands beside the weights in ``best/``."""
    weights = {stat.st_ino for files in written_once(run_dir).values() for stat in files.values()}
    best = _files(run_dir, run_dir / "best")
    found = {name: stat for name, stat in best.items() if stat.st_ino not in weights}
    for name in _SHOWN:
        found |= _files(run_dir, run_dir / name)
    return found


def begins_with(file: Path, parts: Sequence[Part]) -> bool:
    """Whether a file begins with what these parts hold."""
    try:
        with file.open("rb") as source:
            return all(_digest(source.read(part.size)) == part.sha256 for part in parts)
    except FileNotFoundError:
        return not parts


def new_parts(file: Path, name: str, parts: Sequence[Part]) -> tuple[int, Iterator[tuple[Part, bytes]]]:
    """What a file that grows holds beyond its parts, in whole lines.

    Returns:
        How many of the parts stay (one that is not full is written anew, longer), and the parts to follow them.
    """
    stay = len(parts) - bool(parts and parts[-1].size < PART_BYTES)
    start, known = (sum(part.size for part in some) for some in (parts[:stay], parts))
    end = _whole_lines(file, known)
    return (stay, _cut(file, name, start, end)) if end > known else (len(parts), iter(()))


def _cut(file: Path, name: str, start: int, end: int) -> Iterator[tuple[Part, bytes]]:
    with file.open("rb") as source:
        source.seek(start)
        while start < end:
            data = source.read(min(PART_BYTES, end - start))
            if not data:
                return  # cut off meanwhile
            digest = _digest(data)
            yield Part(f"{name}/{start:012d}-{digest[:16]}", len(data), digest), data
            start += len(data)


def _whole_lines(file: Path, known: int) -> int:
    """Where the last whole line of a file ends; ``known`` where no line has come since, or there is no file."""
    try:
        source = file.open("rb")
    except FileNotFoundError:
        return known
    with source:
        end = source.seek(0, os.SEEK_END)
        while end > known:
            begin = max(known, end - (1 << 16))
            source.seek(begin)
            newline = source.read(end - begin).rfind(b"\n")
            if newline >= 0:
                return begin + newline + 1
            end = begin
    return known


def _folders(folder: Path) -> list[Path]:
    """Folders in a folder; hidden ones are being written."""
    try:
        return sorted(p for p in folder.iterdir() if not p.is_symlink() and p.is_dir() and p.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(run_dir: Path, path: Path) -> dict[str, os.stat_result]:
    """A file, or those below a folder, with what the system says of them; links are passed over.

    None at all of what is vanishing: half a folder is nothing.
    """
    try:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = {p.relative_to(run_dir): p for p in inside if not p.is_symlink() and p.is_file()}
        return {str(n): p.stat() for n, p in files.items() if not any(x.startswith(".") for x in n.parts)}
    except FileNotFoundError:
        return {}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
