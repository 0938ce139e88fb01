"""What else follows from a ledger row while a sweep runs: giving up where nothing works, and whose weights stay.

One idea: each is a listener of the recorder that remembers what it needs, so that a row costs the same in any sweep.
"""

from __future__ import annotations

from collections.abc import Callable

from sweepft.errors import PackingMismatch
from sweepft.recorder import Row, RunView
from sweepft.trainable.keep import KeepPlan
from sweepft.tuner.stopper import Winding

__all__ = ["keep_weights", "stop_when_nothing_works"]

_GIVE_UP_AFTER = 3


def stop_when_nothing_works(winding: Winding, view: RunView) -> Callable[[Row], None]:
    """End a sweep whose first trials all fail, or whose model is found not to pack: the next ones would fail too."""
    ended = [t.status for t in view.trials.values() if t.end is not None and t.status != "interrupted"]
    failed, worked = ended.count("failed"), len(ended) > ended.count("failed")

    def on_row(row: Row) -> None:
        nonlocal failed, worked
        if row["kind"] == "fault" and row["error"] == PackingMismatch.__name__:
            winding.give_up(row["message"])
        if row["kind"] != "end" or row["status"] == "interrupted":
            return
        failed, worked = failed + (row["status"] == "failed"), worked or row["status"] != "failed"
        if failed >= _GIVE_UP_AFTER and not worked:
            winding.give_up(f"the first {failed} trials all failed: {row['reason']}")

    return on_row


def keep_weights(keep: KeepPlan, view: RunView) -> Callable[[Row], None]:
    """Remove the weights of trials that have been overtaken."""
    ended = (t for t in view.trials.values() if t.confirms is None)
    kept = {t.trial_id: t.objective for t in ended if t.objective is not None}

    def on_row(row: Row) -> None:
        nonlocal kept
        if row["kind"] != "end" or row["status"] != "completed":
            return
        if view.trials[row["trial_id"]].confirms is None:
            kept = keep.settle({**kept, row["trial_id"]: row["objective"]})

    return on_row
