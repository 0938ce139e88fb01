"""Each step is sent once, whatever breaks: the ledger's writer, the tracker, or the process that follows."""

from __future__ import annotations

import functools
import json
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import raises
from support.tracked_run import TrackedRun
from sweepft.errors import LedgerCorrupt, LedgerLocked
from sweepft.ledger import LedgerTail, Row, SweepState, TrialState, ledger_path, read_ledger
from sweepft.trackers import Point, TrackerFeed, failures


class Notebook:
    """A tracker that records its calls and fails where it should."""

    def __init__(self, fail_at: str | None = None, keeps: bool = True) -> None:
        self.keeps = keeps
        self.calls: list[str] = []
        self.points: dict[str, list[tuple[int, bool]]] = {}
        self.fail_at = fail_at

    def note(self, text: str) -> None:
        if text == self.fail_at:
            raise ConnectionError(f"no route for {text}")
        self.calls.append(text)

    def open(self, trial: TrialState, view: SweepState, before: Sequence[Point]) -> None:
        assert [(p.step, p.validation) for p in before] == sorted(self.points.get(trial.trial_id, []))
        self.note(f"open {trial.trial_id}")

    def send(self, trial: TrialState, points: Sequence[Point]) -> None:
        self.note(f"send {trial.trial_id} {points[0].step}-{points[-1].step}")
        self.points.setdefault(trial.trial_id, []).extend((p.step, p.validation) for p in points)

    def decision(self, trial: TrialState, row: Row) -> None:
        self.note(f"decision {trial.trial_id} {row['action']}")

    def close(self, trial: TrialState) -> None:
        self.note(f"close {trial.trial_id} {trial.status}")

    def flush(self) -> bool:
        return self.keeps


def drain(run_dir: Path, **trackers: Notebook) -> dict[str, str]:
    """Follow the run once, to the last row, in a new process as it were."""
    with TrackerFeed(run_dir, {name: lambda t=tracker: t for name, tracker in trackers.items()}) as feed:
        while feed.step():
            pass
    return feed.failures


def test_feed__opens_sends_and_closes_a_trial(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result()
    run.result(objective=2.0)
    run.decision("continue")
    run.decision("audit")
    run.end(objective=2.0)
    run.finish()
    notebook = Notebook()
    assert drain(tmp_path, notebook=notebook) == {}
    assert notebook.calls == [
        "open t000", "send t000 1-2", "send t000 3-4", "send t000 4-4", "decision t000 audit", "close t000 completed",
    ]  # fmt: skip


def test_feed__reopens_a_paused_trial(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result(objective=2.0)
    run.decision("pause")
    run.start(attempt=2)
    run.result()
    run.end()
    notebook = Notebook()
    drain(tmp_path, notebook=notebook)
    assert [t for t in notebook.calls if not t.startswith("send")] == [
        "open t000", "decision t000 pause", "close t000 paused", "open t000", "close t000 completed",
    ]  # fmt: skip


def test_feed__trial_that_fails_before_its_first_step(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.end(status="failed")
    notebook = Notebook()
    drain(tmp_path, notebook=notebook)
    assert notebook.calls == ["open t000", "close t000 failed"]


def test_feed__sends_nothing_twice(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result()
    notebook = Notebook()
    drain(tmp_path, notebook=notebook)
    assert notebook.calls == ["open t000", "send t000 1-2", "close t000 running"]
    run.result(objective=2.0)
    run.end(objective=2.0)
    drain(tmp_path, notebook=notebook)
    assert notebook.calls[3:] == ["open t000", "send t000 3-4", "send t000 4-4", "close t000 completed"]
    drain(tmp_path, notebook=notebook)
    assert len(notebook.calls) == 7
    late = Notebook()
    drain(tmp_path, notebook=notebook, late=late)
    assert len(notebook.calls) == 7
    assert late.points == notebook.points, "a tracker that is added later gets everything"


def test_feed__sends_a_torn_result_once(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result()
    run.result()  # without its evaluation: the driver was killed
    run.sweep()
    run.last_step["t000"] = 2
    run.start(attempt=2)
    run.result(objective=2.0)
    run.end(objective=2.0)
    notebook = Notebook()
    drain(tmp_path, notebook=notebook)
    assert notebook.points["t000"] == [(1, False), (2, False), (3, False), (4, False), (4, True)]


def test_feed__failing_tracker_is_dropped_logged_once_and_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result()
    good, bad = Notebook(), Notebook(fail_at="send t000 3-4")
    with caplog.at_level(logging.WARNING):
        drain(tmp_path, good=good, bad=bad)
        run.result()
        run.result()
        run.end()
        assert drain(tmp_path, good=good, bad=bad) == {"bad": "ConnectionError: no route for send t000 3-4"}
    assert caplog.text.count("tracking stopped: tracker=bad") == 1
    assert len(good.points["t000"]) == 6
    assert bad.calls[-1] == "open t000"
    bad.fail_at = None
    assert drain(tmp_path, good=good, bad=bad) == {}
    assert bad.points == good.points


@pytest.mark.parametrize(
    ("keeps", "again"),
    [
        (True, ["open t001", "send t001 3-4"]),
        (False, ["open t001", "send t001 1-2", "send t001 3-4"]),
    ],
    ids=["all it takes", "closed trials only"],
)
def test_feed__resends_what_a_tracker_lost_in_a_crash(tmp_path: Path, keeps: bool, again: list[str]) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result()
    run.end()
    run.trial("t001")
    run.result("t001")
    before = Notebook(keeps=keeps)
    killed = TrackerFeed(tmp_path, {"notebook": lambda: before})
    while killed.step():
        pass
    killed._lock.release()
    assert before.calls == [
        "open t000",
        "send t000 1-2",
        "close t000 completed",
        "open t001",
        "send t001 1-2",
    ]
    run.result("t001")
    after = Notebook(keeps=keeps)
    after.points = {"t001": [(1, False), (2, False)]} if keeps else {}
    drain(tmp_path, notebook=after)
    assert after.calls == [*again, "close t001 running"]


def test_feed__tracker_that_cannot_be_created_is_dropped(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result()

    def make() -> Notebook:
        raise ModuleNotFoundError("No module named 'wandb'")

    with TrackerFeed(tmp_path, {"wandb": make}) as feed:
        feed.step()
    assert feed.failures == {"wandb": "ModuleNotFoundError: No module named 'wandb'"}


def test_failures__of_the_given_process(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    run.result()
    drain(tmp_path, bad=Notebook(fail_at="open t000"))
    process = json.loads((tmp_path / "track/state.json").read_text())["process"]
    assert failures(tmp_path, process) == {"bad": "ConnectionError: no route for open t000"}
    assert failures(tmp_path, process + 1) == {}
    assert failures(tmp_path / "elsewhere", process) == {}


def test_feed__one_process_tracks_a_run(tmp_path: Path) -> None:
    TrackedRun(tmp_path)
    with TrackerFeed(tmp_path, {}), raises(LedgerLocked, "ledger.locked"):
        TrackerFeed(tmp_path, {})


@functools.cache
def a_ledger() -> tuple[bytes, list[Row]]:
    with tempfile.TemporaryDirectory() as name:
        run = TrackedRun(Path(name))
        for trial in ("t000", "t001", "t002"):
            run.trial(trial)
            run.result(trial, objective=1.0)
        run.finish()
        return ledger_path(name).read_bytes(), read_ledger(name)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), max_size=8), st.integers(1, 5))
def test_ledger_tail__returns_every_row_of_a_growing_ledger_once(cuts: list[float], most: int) -> None:
    """However its bytes come, half-written lines and a cut tail included."""
    with tempfile.TemporaryDirectory() as name:
        growing, (content, rows_in_all) = Path(name), a_ledger()
        ledger_path(growing).parent.mkdir(parents=True)
        tail, found = LedgerTail(growing), []
        for cut in [*sorted(cuts), 1.0]:
            ledger_path(growing).write_bytes(content[: int(cut * len(content))])
            while rows := tail.read(most):
                found += rows
        assert found == rows_in_all


def test_ledger_tail__rejects_a_damaged_row(tmp_path: Path) -> None:
    run = TrackedRun(tmp_path)
    run.trial()
    path = ledger_path(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"number":0', b'"number":9'))
    with raises(LedgerCorrupt, "ledger.corrupt"):
        LedgerTail(tmp_path).read()
