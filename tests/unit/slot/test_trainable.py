"""When a slot takes an error for the trial's own, which new ranks would raise too."""

from __future__ import annotations

import pytest

from sweepft.errors import RankDied, RankFailed
from sweepft.slot.trainable import ErrorMemory

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
def test_error_memory__same_error_at_same_point_repeats(before, now, at, own):
    errors = ErrorMemory()
    if before is not None:
        assert not errors.repeats(before, 3)
    assert errors.repeats(now, at) == own
