"""When a slot takes an error for the trial's own: new ranks would raise it too."""

from __future__ import annotations

import pytest

from sweepft.errors import RankDied, RankFailed
from sweepft.slot.trainable import Slot

RAISED = RankFailed("run: rank 0 raised ValueError: no")


@pytest.mark.parametrize(
    ("before", "now", "at", "own"),
    [
        (None, RAISED, 3, False),
        (RAISED, RAISED, 3, True),
        (RAISED, RankFailed("run: rank 1 raised ValueError: no"), 3, True),  # all raise it, any is seen first
        (RAISED, RAISED, 4, False),
        (RAISED, RankFailed("run: rank 0 raised ValueError: other"), 3, False),
        (RankDied("run: rank 0 died"), RankDied("run: rank 0 died"), 3, False),
    ],
)
def test_an_error_is_the_trials_own_when_it_comes_again_on_the_way_to_the_same_point(before, now, at, own):
    slot = object.__new__(Slot)
    slot._raised, slot._next = None, 3
    if before is not None:
        assert not slot._own_fault(before)
    slot._next = at
    assert slot._own_fault(now) == own
