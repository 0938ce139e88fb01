"""A ledger with right checksums that its author has forged: an answer or an error that names the row, never a traceback."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from rich.console import Console

from support import forged
from sweepft.cli.options import make_derived
from sweepft.driver.progress import Progress, describe, describe_run, status_of
from sweepft.errors import SweepftError
from sweepft.ledger import LedgerTail, SweepState


def look_at(run: Path, *, report: bool) -> None:
    """What status, watch and (every few cases, because a page takes a while) report and replay do."""
    describe_run(status_of(run))
    tail, view = LedgerTail(run), SweepState()
    while rows := tail.read():
        for row in rows:
            view.apply(row)
            describe(row, view)
    Console(file=io.StringIO(), force_terminal=True, width=200).print(Progress(view, 2, Console()))
    if report:
        make_derived(run, without_weights=True)


def outcomes(folder: Path, cases: int, seed: int, every: int) -> Counter[str]:
    """How looking at forged ledgers ended, by error; ``Traceback`` for an error that is not sweepft's own."""
    random, good, found = Random(seed), forged.rows(), Counter[str]()
    run = folder / "run"
    for case in range(cases):
        made = forged.forge(good, random)
        forged.write(run, made)
        try:
            look_at(run, report=case % every == 0)
            found["fine"] += 1
        except SweepftError:
            found["refused"] += 1
        except Exception as error:
            where = error.__traceback__
            while where.tb_next is not None:
                where = where.tb_next
            place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}"
            found[f"Traceback {type(error).__name__} {place} {str(error)[:80]}"] += 1
    return found


def test_forged__the_sound_one_is_shown(tmp_path: Path) -> None:
    look_at(forged.write(tmp_path / "run", forged.rows()), report=False)


def _kind_is_a_list(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "kind": ["nan"]}


def _says_nothing(row: dict[str, Any]) -> dict[str, Any]:
    return row | {k: "" for k in ("message", "reason") if isinstance(row.get(k), str)}


def _has_no_objective(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"objective": None} if row["kind"] == "end" else row


@pytest.mark.parametrize("change", [_kind_is_a_list, _says_nothing, _has_no_objective])
def test_forged__row_by_row(tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    good = forged.rows()
    for some in ({i} for i in range(len(good))):
        forged.write(tmp_path / "run", [change(r) if i in some else r for i, r in enumerate(good)])
        with contextlib.suppress(SweepftError):
            look_at(tmp_path / "run", report=False)
    forged.write(tmp_path / "run", [change(r) for r in good])
    with contextlib.suppress(SweepftError):
        look_at(tmp_path / "run", report=True)


@pytest.mark.parametrize(("cases", "every"), [(150, 25), pytest.param(10_000, 10, marks=pytest.mark.full)])
def test_forged__no_traceback_no_growth_nothing_outside(tmp_path: Path, cases: int, every: int) -> None:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    (tmp_path / "mine").write_text("mine")
    found = outcomes(tmp_path, cases, seed=cases, every=every)
    assert not [key for key in found if key.startswith("Traceback")], found
    assert min(found["fine"], found["refused"]) > cases // 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20, "KiB"
    assert time.process_time() - began < 1.0 * cases, "no case takes long"
    assert sorted(os.listdir(tmp_path)) == ["mine", "run"]
