"""Tracks a run, once or while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sweepft.errors import Problem, SpecError
from sweepft.ledger import SweepState
from sweepft.spec import Track, load
from sweepft.trackers.feed import TrackerFeed
from sweepft.trackers.trackers import make_trackers


def track_run(run_dir: Path, overrides: Sequence[str] = ()) -> dict[str, str | None]:
    """Send what the trackers of a run do not have yet.

    Args:
        run_dir: The run folder.
        overrides: ``track.wandb={}`` and the like, over the run's ``spec.yaml``; without any, the spec in force.
    Returns:
        By tracker, why it was dropped, or None if it is up to date.
    Raises:
        SpecError: If the spec names no tracker, or an override is wrong.
        LedgerError: If there is no ledger, or it is damaged.
        LedgerLocked: If another process is tracking this run.
    """
    makers = make_trackers(_track_section(run_dir, overrides), run_dir)
    with TrackerFeed(run_dir, makers) as feed:
        while feed.step():
            pass
    return {name: feed.failures.get(name) for name in makers}


def follow(run_dir: Path, over: Callable[[], bool]) -> None:
    """Send the rows of a growing ledger.

    Args:
        run_dir: The run folder.
        over: Waits; returns whether the run is over.
    """
    with TrackerFeed(run_dir, make_trackers(_track_section(run_dir, ()), run_dir)) as feed:
        last = False
        while not last:
            last = over()
            while feed.step():
                pass


def _track_section(run_dir: Path, overrides: Sequence[str]) -> Track:
    if overrides:
        track = load(run_dir / "spec.yaml", overrides, check_files=False).track
    else:
        track = Track.model_validate(SweepState.load(run_dir).spec.get("track", {}))
    if not track.names:
        rule, remedy = "names no tracker", "for example --set track.tensorboard=true"
        raise SpecError([Problem(str(run_dir / "spec.yaml"), "track", rule, remedy)])
    return track
