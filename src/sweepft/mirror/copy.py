"""Sends what is new in a run folder to its mirror.

After any failure nothing is remembered: the next step asks the mirror what it holds, and continues from there. A
mirror holds what cannot be rebuilt (ledger, study, spec, weights, checkpoints, items) and what people look at.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sweepft.errors import MirrorError
from sweepft.files import inside, open_to_read
from sweepft.mirror.store import FOLDER, TOPS, Chunk, FileEntry, Manifest, Store, newest

# Append-only files, the ledger first.
GROWING: Final = ("ledger/ledger.jsonl", "ledger/commands.jsonl", "study.journal")
# Size of a chunk: at most so much of a long ledger is sent again with each new row.
CHUNK_BYTES: Final = 4 << 20
_LEDGER: Final = GROWING[0]
_SHOWN: Final = ("report.html", "report.md", "report.json", "ranked.csv")


class Copier:
    """Keeps a mirror equal to a run folder.

    Args:
        run_dir: The run folder.
        store: The mirror.
        every: Seconds after which new rows are sent even while a large file is being sent.
        clock: Monotonic seconds.
    """

    def __init__(
        self, run_dir: Path, store: Store, every: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._run_dir = run_dir
        self._store = store
        self._every = every
        self._clock = clock
        self._writer = os.urandom(8).hex()
        self._now: Manifest | None = None  # what the mirror holds; None: ask it
        self._written = 0  # number of our last manifest
        self._rows_sent = clock()
        self._inodes: dict[str, int] = {}
        self._shown: dict[str, tuple[int, int]] = {}

    def step(self) -> Manifest:
        """Send what is new; returns what the mirror then holds.

        Raises:
            MirrorError: If the mirror is not this run's, is ahead of it, or another driver writes it.
            STORE_ERRORS: If it cannot be reached or written; a later step sends what is missing.
        """
        try:
            now = self._now = self._now or self._begin()
            now = self._send_rows(now)
            self._send_shown()
            now = self._send_folders(now)
        except BaseException:
            self._now = None
            raise
        return now

    def _begin(self) -> Manifest:
        """Ask the mirror what it holds, and remove objects outside its manifest, left by an interrupted copy."""
        self._inodes.clear()
        found = newest(self._store)
        if found is None:
            return Manifest()
        if found.writer != self._writer and found.number > self._written > 0:
            raise _taken(self._store)
        check_ours(self._run_dir, self._store, found)
        for top in TOPS:
            for name in self._store.names(top):
                if name not in found.objects:
                    self._store.remove(name)
        return found

    def _send_rows(self, now: Manifest) -> Manifest:
        """Send what has been appended; at most one chunk of each file is sent again."""
        grown = dict(now.grown)
        for name in GROWING:
            file, known = inside(self._run_dir, name), grown.get(name, ())
            chunks = known if self._same(name, file) or begins_with(file, known) else ()
            if name == _LEDGER and chunks != known:
                check_ours(self._run_dir, self._store, now)
            stay, fresh = new_chunks(file, name, chunks)
            made = []
            for chunk, data in fresh:
                self._store.write(chunk.name, data)
                made.append(chunk)
            if made:
                grown[name] = (*chunks[:stay], *made)
        self._rows_sent = self._clock()
        return now if grown == now.grown else self._commit(now, grown=grown)

    def _same(self, name: str, file: Path) -> bool:
        """Whether a file is the same as in the last step; a resume replaces the study."""
        try:
            inode = file.stat().st_ino
        except FileNotFoundError:
            return False
        before, self._inodes[name] = self._inodes.get(name), inode
        return inode == before

    def _send_shown(self) -> None:
        """Overwrite the files for people; nothing depends on them."""
        for name, stat in shown(self._run_dir).items():
            facts = (stat.st_size, stat.st_mtime_ns)
            if self._shown.get(name) != facts and self._send(name) is not None:
                self._shown[name] = facts

    def _send_folders(self, now: Manifest) -> Manifest:
        """Send new folders, each completely; then drop what is no longer in the run folder."""
        all_whole = True
        for unit, files in written_once(self._run_dir).items():
            if _like(now.kept, files):
                continue
            if now.kept.keys() & files.keys():  # an object of the manifest is never overwritten
                now = self._commit(now, kept=_without(now.kept, files))
            sent = {name: self._send(name, self._rows_between) for name in files}
            now = self._now or now  # rows can have been sent meanwhile
            whole = _like(sent, written_once(self._run_dir).get(unit, {}))
            if whole:
                now = self._commit(now, kept={**now.kept, **sent})
            all_whole &= whole
        there = {name for files in written_once(self._run_dir).values() for name in files}
        gone = now.kept.keys() - there
        return self._commit(now, kept=_without(now.kept, gone)) if gone and all_whole else now

    def _rows_between(self) -> None:
        """Send rows while a large file is being sent."""
        if self._now is not None and self._clock() - self._rows_sent >= self._every:
            self._send_rows(self._now)

    def _send(self, name: str, between: Callable[[], None] = lambda: None) -> FileEntry | None:
        """Send a file; None if it is gone, or was written meanwhile."""
        try:
            source = open_to_read(inside(self._run_dir, name))
        except FileNotFoundError:
            return None
        with source:
            before = os.fstat(source.fileno())
            digest = self._store.send(name, source, between)
            kept = FileEntry(before.st_size, digest, before.st_mtime_ns)
            return kept if _is(kept, os.fstat(source.fileno())) else None

    def _commit(self, now: Manifest, **changes: Any) -> Manifest:
        """Write a new manifest, then remove the objects it does not need."""
        found = newest(self._store) or Manifest()
        if (found.number, found.writer) != (now.number, now.writer):
            if found.number > now.number:
                raise _taken(self._store)
            raise OSError(f"{self._store.uri}: the manifest is gone; everything is sent again")
        new = replace(now, number=now.number + 1, writer=self._writer, time=time.time(), **changes)
        name, data = new.encode()
        self._store.write(name, data)
        self._now, self._written = new, new.number
        for gone in [*self._store.names(FOLDER), *sorted(now.objects - new.objects)]:
            if gone != name:
                self._store.remove(gone)
        return new


def check_ours(run_dir: Path, store: Store, found: Manifest) -> None:
    """Check that a mirror can be this run's, and holds no rows that the run folder lacks.

    Raises:
        MirrorError: ``mirror.ahead`` or ``mirror.other_run``, if not.
    """
    chunks = found.grown.get(_LEDGER, ())
    if begins_with(inside(run_dir, _LEDGER), chunks):
        return
    try:
        with open_to_read(inside(run_dir, _LEDGER)) as source:
            first = source.readline()
    except FileNotFoundError:
        first = b""
    if first and store.read(chunks[0].name).startswith(first):
        raise MirrorError(
            f"{store.uri}: holds rows of this run that {run_dir} lacks\n"
            f"  fetch them into another folder and resume that one: sweepft fetch {store.uri} FOLDER",
            key="mirror.ahead",
        )
    raise MirrorError(
        f"{store.uri}: holds another run\n  use a separate mirror.uri for each run", key="mirror.other_run"
    )


def _taken(store: Store) -> MirrorError:
    return MirrorError(
        f"{store.uri}: another driver writes this mirror\n  stop one of the two drivers: both resumed the same run",
        key="mirror.taken",
    )


def _is(kept: FileEntry | None, stat: os.stat_result) -> bool:
    return kept is not None and (kept.size, kept.modified) == (stat.st_size, stat.st_mtime_ns)


def _like(kept: Mapping[str, FileEntry | None], files: Mapping[str, os.stat_result]) -> bool:
    """Whether all files are in the mirror, unchanged."""
    return bool(files) and all(_is(kept.get(name), stat) for name, stat in files.items())


def _without(kept: Mapping[str, FileEntry], names: Container[str]) -> dict[str, FileEntry]:
    return {name: file for name, file in kept.items() if name not in names}


# --- what of a run folder is mirrored -----------------------------------------------------------------


def written_once(run_dir: Path) -> dict[str, dict[str, os.stat_result]]:
    """Files that are written atomically, by the folder they belong to; names are relative.

    A trial's weights, a checkpoint, a finalist's items: each folder is copied completely or not at all.
    """
    checkpoints = [p for trial in _folders(inside(run_dir, "checkpoints")) for p in _folders(trial)]
    paths = [run_dir / "spec.yaml", *(p for p in checkpoints if (p / "complete.json").is_file())]
    paths += [p for top in ("weights", "items") for p in _folders(inside(run_dir, top))]
    found = {path.relative_to(run_dir).as_posix(): _files(run_dir, path) for path in paths}
    return {name: files for name, files in found.items() if files}


def shown(run_dir: Path) -> dict[str, os.stat_result]:
    """Files for people: the report, and the files beside the weights in ``best/``."""
    weights = {stat.st_ino for files in written_once(run_dir).values() for stat in files.values()}
    best = _files(run_dir, inside(run_dir, "best"))
    found = {name: stat for name, stat in best.items() if stat.st_ino not in weights}
    for name in _SHOWN:
        found |= _files(run_dir, run_dir / name)
    return found


def begins_with(file: Path, chunks: Sequence[Chunk]) -> bool:
    """Whether a file begins with these chunks."""
    try:
        with open_to_read(file) as source:
            return all(_digest(source.read(chunk.size)) == chunk.sha256 for chunk in chunks)
    except FileNotFoundError:
        return not chunks


def new_chunks(file: Path, name: str, chunks: Sequence[Chunk]) -> tuple[int, Iterator[tuple[Chunk, bytes]]]:
    """What an append-only file holds beyond its chunks, in complete lines.

    Returns:
        How many of the chunks stay (one that is not full is replaced by a longer one), and the chunks after them.
    """
    stay = len(chunks) - bool(chunks and chunks[-1].size < CHUNK_BYTES)
    start, known = (sum(chunk.size for chunk in some) for some in (chunks[:stay], chunks))
    end = _whole_lines(file, known)
    return (stay, _chunks(file, name, start, end)) if end > known else (len(chunks), iter(()))


def _chunks(file: Path, name: str, start: int, end: int) -> Iterator[tuple[Chunk, bytes]]:
    with open_to_read(file) as source:
        source.seek(start)
        while start < end:
            data = source.read(min(CHUNK_BYTES, end - start))
            if not data:
                return  # truncated meanwhile
            digest = _digest(data)
            yield Chunk(f"{name}/{start:012d}-{digest[:16]}", len(data), digest), data
            start += len(data)


def _whole_lines(file: Path, known: int) -> int:
    """Where the last complete line of a file ends; ``known`` without a new line, or without a file."""
    try:
        source = open_to_read(file)
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
    """Folders in a folder, without hidden ones, which are being written."""
    try:
        return sorted(p for p in folder.iterdir() if not p.is_symlink() and p.is_dir() and p.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []


def _files(run_dir: Path, path: Path) -> dict[str, os.stat_result]:
    """A file, or the files below a folder, with their `stat`, without links. Empty if any of them vanishes
    meanwhile.
    """
    try:
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        files = {p.relative_to(run_dir): p for p in found if not p.is_symlink() and p.is_file()}
        return {str(n): p.stat() for n, p in files.items() if not any(x.startswith(".") for x in n.parts)}
    except FileNotFoundError:
        return {}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
