"""Runs many hostile cases in this process, with limits: no traceback, no hang, no growth, nothing written outside."""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import resource
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from support.forged import VALUES
from sweepft.errors import ProblemsError, SweepftError

CASES = 10_000
FULL = (pytest.mark.full, pytest.mark.timeout(3600))
SECONDS = 20.0
"""CPU time of a case, far above what any takes."""

WAITING = 30.0
"""Seconds after which a case that has not ended is looked at, and after as many again ended."""

GROWTH = 1 << 20
"""KiB of memory that all cases together may take."""

HOSTILE: tuple[Any, ...] = (
    *VALUES, float("nan"), float("inf"), "~", "/", "/dev/zero", "/etc/passwd", "../" * 50, "a/" * 3000, "x" * 300, "org/name",
    "*", "[", "**/*", "a:b", "s3://b", "file:///x", "http://u:p@h", "hf_" + "a1" * 17, "{{ x }}", "all", "last", "phased", "tpe",
    "cosine", 10**400, -(10**400), [[]] * 50, {"choice": []}, {"uniform": [1, 0]}, {"log_uniform": [0, 1]}, {"steps": 10**20},
)  # fmt: skip


class Hang(BaseException):
    """A case takes too long."""


def run_cases(
    cases: int, seed: int, folder: Path, case: Callable[[Random], object], *, keys: bool = True
) -> Counter[str]:
    """Run cases and count how they ended: ``fine``, ``refused``, and anything else, which a test then reports.

    Args:
        cases: How many.
        seed: Of the random numbers.
        folder: All that a case may write to.
        case: Makes one case and tries it. It may raise a `SweepftError`.
        keys: Whether each problem must have place, key, rule and remedy.
    """
    found, began = Counter[str](), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    before = signal.signal(signal.SIGVTALRM, _hang)
    at = [0]
    with writes_outside(folder) as outside, _watched_for_blocking(at):
        for number in range(cases):
            at[0] = number
            random = Random(f"{seed}:{number}")
            signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
            try:
                case(random)
                found["fine"] += 1
            except SweepftError as error:
                found[
                    "refused" if not keys or _is_whole(error) else f"{number}: not whole: {error!r:.300}"
                ] += 1
            except Hang:
                found[f"{number}: takes more than {SECONDS} s"] += 1
            except Exception as error:
                found[f"{number}: {where(error)}"] += 1
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began
    if grown > GROWTH:
        found[f"grew by {grown >> 10} MiB"] += 1
    for path in sorted(outside):
        found[f"wrote {path}"] += 1
    return found


@contextlib.contextmanager
def _watched_for_blocking(at: list[int]) -> Iterator[None]:
    """End a case that waits, for a pipe or a server, rather than computes."""
    main, over = threading.get_ident(), threading.Event()

    def watch() -> None:
        seen = -1
        while not over.wait(WAITING):
            if at[0] == seen:
                signal.pthread_kill(main, signal.SIGVTALRM)
            seen = at[0]

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def check(found: Counter[str], cases: int, *, both: bool = True) -> None:
    """Assert that every case ended in an answer or an error of sweepft's own, and that there were some of both."""
    odd = {key: n for key, n in found.items() if key not in ("fine", "refused")}
    assert not odd, "\n".join(sorted(odd)[:40])
    assert found["fine"] + found["refused"] == cases
    assert not both or min(found["fine"], found["refused"]) > cases // 200, found


def where(error: BaseException) -> str:
    """Kind, place and beginning of an error, to tell cases with one cause from others."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else "?"
    return f"{type(error).__name__} {place} {str(error)[:120]!r}"


def _is_whole(error: SweepftError) -> bool:
    if isinstance(error, ProblemsError):
        return bool(error.problems) and all(p.where and p.key and p.rule and p.remedy for p in error.problems)
    return bool(error.key) and bool(str(error))


def _hang(number: int, frame: Any) -> None:
    raise Hang


_watched: list[tuple[str, set[str]]] = []


@functools.cache
def _hook() -> None:
    """Once in a process, as a hook stays for good."""
    sys.addaudithook(_audit)


@contextlib.contextmanager
def writes_outside(folder: Path) -> Iterator[set[str]]:
    """Paths outside of a folder that this process creates, writes, renames or removes meanwhile."""
    _hook()
    found: set[str] = set()
    _watched.append((os.path.realpath(folder), found))
    try:
        yield found
    finally:
        _watched.pop()


_CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.utime",
            "shutil.rmtree", "shutil.copyfile", "shutil.move"}  # fmt: skip


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event == "open":
        path, _, flags = args
        if not isinstance(path, str | bytes) or not flags & (
            os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
        ):
            return
        paths = [path]
    elif event in _CHANGES:
        paths = [a for a in args[:2] if isinstance(a, str | bytes | os.PathLike)]
    else:
        return
    inside, found = _watched[-1]
    for path in paths:
        text = os.path.realpath(os.fsdecode(path))
        if not text.startswith((inside + "/", "/dev/")) and text != inside and "__pycache__" not in text:
            found.add(f"{event} {text}")


def mutate(good: Any, random: Random, values: tuple[Any, ...] = HOSTILE) -> Any:
    """A copy of plain data with one to three changes: another value, a key less, more, doubled or moved."""
    made = copy.deepcopy(good)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        made = _changed(made, random, values)
    return made


def _changed(made: Any, random: Random, values: tuple[Any, ...]) -> Any:
    place = made
    while True:
        if not isinstance(place, dict | list) or not place:
            return copy.deepcopy(random.choice(values))
        key = random.choice(list(place) if isinstance(place, dict) else range(len(place)))
        if isinstance(place[key], dict | list) and place[key] and random.random() < 0.75:
            place = place[key]
            continue
        what = random.random()
        if what < 0.12:
            del place[key]
        elif what < 0.2 and isinstance(place, list):
            place.insert(0, copy.deepcopy(place[key]))
        elif what < 0.3 and isinstance(place, dict):
            place[random.choice(("x", "name", "path", "choice", "samples", "", "\x1b[2J", "a" * 500))] = (
                copy.deepcopy(random.choice(values))
            )
        else:
            place[key] = copy.deepcopy(random.choice(values))
        return made


def damage(data: bytes, random: Random) -> bytes:
    """The bytes with a few changed, cut, doubled or put in."""
    made = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5))):
        at = random.randrange(len(made) + 1)
        what = random.random()
        if what < 0.4 and made:
            made[min(at, len(made) - 1)] = random.choice(
                (0, 9, 10, 13, 27, 34, 44, 58, 91, 92, 123, 125, 128, 255, random.randrange(256))
            )
        elif what < 0.6:
            del made[at : at + random.choice((1, 3, 50, len(made)))]
        elif what < 0.8:
            made[at:at] = random.choice(
                (
                    b"\0",
                    b"\xff\xfe",
                    b"{",
                    b"[" * 200,
                    b'"',
                    b"\r",
                    b"\xef\xbb\xbf",
                    b"1e999",
                    b"&a *a",
                    b"\\ud800",
                    b"- " * 60,
                )
            )
        else:
            start = random.randrange(len(made) + 1)
            made[at:at] = made[start : start + random.choice((1, 20, 400))]
    return bytes(made)
