"""Keeps a mirror up to date while a run goes on, and checks or copies once.

A failure of the mirror is written to the run folder and retried; it never harms the sweep.
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

from sweepft.errors import LeaseLost, LedgerLocked, MirrorError
from sweepft.files import inside
from sweepft.ledger.lock import WriterLock
from sweepft.mirror.copy import Copier, check_ours
from sweepft.mirror.status import MirrorStatus, write_status
from sweepft.mirror.store import FOLDER, STORE_ERRORS, Store, newest, refused
from sweepft.redact import redact

_MAX_PAUSE: Final = 300.0  # seconds between attempts, at most
_MAX_RETRIES_SECONDS: Final = 300.0  # how long a failing mirror is retried once the sweep is over
_PAUSE_AT_END: Final = 5.0
_log = logging.getLogger(__name__)


def check(run_dir: Path, uri: str) -> None:
    """Check by writing, reading, listing and removing that a mirror works and can be this run's.

    Raises:
        MirrorError: If not, with the store's own message.
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
        raise MirrorError(
            f"{uri}: does not return what was written\n  choose another mirror.uri", key="mirror.unreliable"
        )
    if found is not None:
        check_ours(run_dir, store, found)


def copy_once(run_dir: Path, uri: str) -> int:
    """Bring a mirror up to date; returns the bytes it then holds.

    Raises:
        MirrorError: If it cannot be reached or written, or is not this run's.
        LedgerLocked: If a running sweep is copying.
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
    """Keep a mirror up to date until the run is over.

    Args:
        run_dir: The run folder.
        uri: Address of the mirror.
        seconds: Between two steps.
        over: Waits so many seconds, or until the run is over; returns whether it is.
    Returns:
        Whether the mirror is up to date at the end.
    """
    lock: WriterLock | None = None
    copier: Copier | None = None
    status, failures, deadline = MirrorStatus(uri, os.getpid()), 0, math.inf
    try:
        while True:
            ended = deadline < math.inf
            try:
                # The copier of a previous driver can still be sending the last files.
                lock = lock or _lock(run_dir)
                lock.check()
                copier = copier or Copier(run_dir, Store(uri), every=seconds)
                copier.step()
                status, failures = MirrorStatus(uri, os.getpid(), time.time()), 0
            except (MirrorError, LedgerLocked, *STORE_ERRORS) as error:
                if isinstance(error, LeaseLost) and lock is not None:
                    lock.release()
                    lock = copier = None
                permanent = isinstance(error, MirrorError)
                status, failures = _failed(status, error), failures + 1
            write_status(run_dir, status)
            if ended and (not failures or permanent or time.monotonic() > deadline):
                return not failures
            if ended:
                time.sleep(_PAUSE_AT_END)
            elif over(min(seconds * 2**failures, _MAX_PAUSE)):
                deadline = time.monotonic() + _MAX_RETRIES_SECONDS
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
    inside(run_dir, FOLDER).mkdir(mode=0o700, exist_ok=True)
    return WriterLock(inside(run_dir, FOLDER, "lock"))
