"""Restores a run folder from its mirror, completely or not at all."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from sweepft.errors import MirrorError, StorageError
from sweepft.files import inside, open_to_append
from sweepft.ledger import iter_ledger
from sweepft.mirror.store import STORE_ERRORS, Manifest, Store, newest, refused

# A mirror that is being written can lose an object while it is read; then there is a newer manifest.
_ATTEMPTS: Final = 5


def fetch(uri: str, run_dir: Path) -> Manifest:
    """Restore a run folder from a mirror; every byte is checked against its digest.

    Args:
        uri: Address of the mirror.
        run_dir: A new or empty folder.
    Returns:
        The manifest that was restored.
    Raises:
        MirrorError: If the mirror cannot be reached, holds no run or is damaged (the message names the object), or
            if ``run_dir`` is not empty.
        LedgerCorrupt: If the ledger was damaged before it was copied.
        StorageError: If the folder cannot be written.
    """
    run_dir = run_dir.resolve()
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise MirrorError(f"{run_dir}: is not empty\n  name a new folder", key="mirror.not_empty")
    store = Store(uri)
    temporary = run_dir.with_name(f".{run_dir.name}.fetch-{os.urandom(8).hex()}")
    try:
        for left in reversed(range(_ATTEMPTS)):
            shutil.rmtree(temporary, ignore_errors=True)
            manifest = _newest(store)
            damage = _fetch_all(store, manifest, temporary)
            if damage is None:
                break
            if left == 0 or _newest(store).number == manifest.number:
                raise MirrorError(
                    f"{uri}: {damage}\n  the mirror is damaged; nothing was restored", key="mirror.damaged"
                )
        for _ in iter_ledger(temporary):
            pass
        _rename(temporary, run_dir)
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
            f"{store.uri}: holds no run\n  use the address in the run's mirror.uri", key="mirror.no_run"
        )
    return found


def _fetch_all(store: Store, manifest: Manifest, folder: Path) -> str | None:
    """Fetch all files; returns what is wrong with an object, or None."""
    files = {
        name: [(chunk.name, chunk.sha256, chunk.size) for chunk in chunks]
        for name, chunks in manifest.grown.items()
    }
    files |= {name: [(name, kept.sha256, kept.size)] for name, kept in manifest.kept.items()}
    for name, objects in files.items():
        file = inside(folder, *name.split("/"))
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(open_to_append(file))
        except OSError as error:
            raise _cannot_write(file, error) from error
        for key, digest, size in objects:
            try:
                found = store.fetch(key, file, size)
            except FileNotFoundError:
                return f"{key}: is missing"
            except STORE_ERRORS as error:
                raise refused(store.uri, f"{key}: cannot be read", error) from error
            if found != digest:
                return f"{key}: does not match the digest of its manifest"
        if name in manifest.kept:
            os.utime(file, ns=(manifest.kept[name].modified,) * 2)
    return None


def _rename(temporary: Path, run_dir: Path) -> None:
    try:
        if run_dir.is_dir():
            run_dir.rmdir()
        temporary.rename(run_dir)
    except OSError as error:
        raise _cannot_write(run_dir, error) from error


def _cannot_write(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: cannot be written: {error.strerror or error}\n  free space, or name another folder",
        key="mirror.folder",
    )
