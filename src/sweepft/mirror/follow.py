"""Follow a run: look, send, wait; and when the mirror does not answer, try again later and say so.

One idea: what goes wrong with a mirror is noted in the run folder, for whoever asks, and never harms the sweep.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from sweepft.errors import LedgerLocked, MirrorError
from sweepft.ledger.lock import WriterLock
from sweepft.mirror.copy import Copier, check_ours
from sweepft.mirror.status import MirrorStatus, write_status
from sweepft.mirror.store import FOLDER, STORE_ERRORS, Store, newest, refused
from sweepft.redact import redact

_LONGEST_PAUSE: Final = 300.0


"""Seconds between tries, at most."""


_LONGEST_END: Final = 300.0


"""Seconds in which a mirror that does not answer when the sweep is over is tried again."""


_PAUSE_AT_END: Final = 5.0


_log = logging.getLogger(__name__)


def check(run_dir: Path, uri: str) -> None:
    """Whether a mirror can be written, and be this run's: found by writing, reading, listing and removing.

    Raises:
        MirrorError: If not, with the store's own words.
    """
    store, probe = Store(uri), f"{FOLDER}/probe-{os.urandom(8).hex()}"
    try:
        store.write(probe, probe.encode())
        whole = store.read(probe) == probe.encode() and probe in store.names(FOLDER)
        store.remove(probe)
        found = newest(store)
    except STORE_ERRORS as error:
        raise refused(uri, "cannot be written", error) from error
    if not whole:
        raise MirrorError(f"{uri}: does not give back what is written\n  name another mirror.uri")
    if found is not None:
        check_ours(run_dir, store, found)


def copy_once(run_dir: Path, uri: str) -> int:
    """Bring a mirror up to date; returns the bytes it holds then.

    Raises:
        MirrorError: If it cannot be reached or written, or is not this run's.
        LedgerLocked: If a sweep that runs is copying.
    """
    lock = _lock(run_dir)
    try:
        size = Copier(run_dir, Store(uri)).step().size
    except STORE_ERRORS as error:
        raise refused(uri, "cannot be written", error) from error
    finally:
        lock.release()
    write_status(run_dir, MirrorStatus(uri, os.getpid(), time.time()))
    return size


def follow(run_dir: Path, uri: str, seconds: float, over: Callable[[float], bool]) -> bool:
    """Keep a mirror like a run folder until the run is over; whether it was, in the end.

    Args:
        run_dir: The run folder.
        uri: Of the mirror.
        seconds: Between two looks.
        over: Waits that long, or until nothing more will come; whether that is so.
    """
    lock: WriterLock | None = None
    copier: Copier | None = None
    note, failures, last = MirrorStatus(uri, os.getpid()), 0, math.inf
    try:
        while True:
            ended = last < math.inf
            try:
                lock = lock or _lock(
                    run_dir
                )  # of a driver before this one the last files may still be on their way
                copier = copier or Copier(run_dir, Store(uri), every=seconds)
                copier.step()
                note, failures = MirrorStatus(uri, os.getpid(), time.time()), 0
            except (MirrorError, LedgerLocked, *STORE_ERRORS) as error:
                hopeless = isinstance(error, MirrorError)
                note, failures = _failed(note, error), failures + 1
            write_status(run_dir, note)
            if ended and (not failures or hopeless or time.monotonic() > last):
                return not failures
            if ended:
                time.sleep(_PAUSE_AT_END)
            elif over(min(seconds * 2**failures, _LONGEST_PAUSE)):
                last = time.monotonic() + _LONGEST_END
    finally:
        if lock is not None:
            lock.release()


def _failed(before: MirrorStatus, error: BaseException) -> MirrorStatus:
    known = isinstance(error, MirrorError | LedgerLocked)
    why = redact(str(error if known else refused(before.uri, "cannot be written", error)))
    if why != before.failure:
        _log.warning("mirror behind: %s", why)
    return replace(before, failure=why)


def _lock(run_dir: Path) -> WriterLock:
    folder = run_dir / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    return WriterLock(folder / "lock")
