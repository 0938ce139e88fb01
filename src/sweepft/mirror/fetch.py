"""A run folder brought back from its mirror, all or nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from sweepft.errors import MirrorError, StorageError
from sweepft.ledger import iter_ledger
from sweepft.mirror.store import STORE_ERRORS, Manifest, Store, newest, refused

_TRIES: Final = 5


"""A mirror that is being written may lose an object while it is read; then there is a newer manifest."""


def fetch(uri: str, run_dir: Path) -> Manifest:
    """Make a run folder of what a mirror holds; every byte is held against its digest.

    Args:
        uri: Of the mirror.
        run_dir: A folder that is not there yet, or is empty.
    Returns:
        What was brought.
    Raises:
        MirrorError: If the mirror cannot be reached, holds no run, or is damaged; names the object.
        LedgerCorrupt: If what was written there was damaged before it came there.
        StorageError: If the folder cannot be written.
        SweepftError: If it holds something already.
    """
    run_dir = run_dir.resolve()
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise MirrorError(f"{run_dir}: is not empty\n  name a folder that is not there yet")
    store = Store(uri)
    temporary = run_dir.with_name(f".{run_dir.name}.fetch-{os.getpid()}")
    try:
        for left in reversed(range(_TRIES)):
            shutil.rmtree(temporary, ignore_errors=True)
            manifest = _newest(store)
            damage = _bring_all(store, manifest, temporary)
            if damage is None:
                break
            if left == 0 or _newest(store).number == manifest.number:
                raise MirrorError(f"{uri}: {damage}\n  the mirror is damaged; nothing was written")
        for _ in iter_ledger(temporary):
            pass
        _named(temporary, run_dir)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _newest(store: Store) -> Manifest:
    try:
        found = newest(store)
    except STORE_ERRORS as error:
        raise refused(store.uri, "cannot be read", error) from error
    if found is None or not found.grown:
        raise MirrorError(
            f"{store.uri}: holds no run\n  is this the address that the run was given as mirror.uri?"
        )
    return found


def _bring_all(store: Store, manifest: Manifest, folder: Path) -> str | None:
    """Bring all files; returns what is wrong with an object, or None."""
    files = {name: [(part.name, part.sha256) for part in parts] for name, parts in manifest.grown.items()}
    files |= {name: [(name, kept.sha256)] for name, kept in manifest.kept.items()}
    for name, objects in files.items():
        file = folder / name
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.touch(0o600)
        except OSError as error:
            raise _cannot_write(file, error) from error
        for of, digest in objects:
            try:
                found = store.bring(of, file)
            except FileNotFoundError:
                return f"{of}: is missing"
            except STORE_ERRORS as error:
                raise refused(store.uri, f"{of}: cannot be read", error) from error
            if found != digest:
                return f"{of}: does not have the digest it was written with"
        if name in manifest.kept:
            os.utime(file, ns=(manifest.kept[name].modified,) * 2)
    return None


def _named(temporary: Path, run_dir: Path) -> None:
    try:
        if run_dir.is_dir():
            run_dir.rmdir()
        temporary.rename(run_dir)
    except OSError as error:
        raise _cannot_write(run_dir, error) from error


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written: {error.strerror or error}\n  free space, or name another folder"
    )
