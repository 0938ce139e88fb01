"""What counts as failing storage, and what becomes of a trial that meets it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sweepft.driver.ledger_callback import INTERRUPTED, outcome
from sweepft.driver.run_folder import storage_problem
from sweepft.errors import is_storage_error


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EROFS, "Read-only file system"), True),
        (RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"), True),
        (FileNotFoundError(errno.ENOENT, "No such file"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (RuntimeError("out of memory"), False),
    ],
)
def test_full_over_quota_and_read_only_disks_are_told_from_other_errors(
    error: BaseException, is_one: bool
) -> None:
    assert is_storage_error(error) == is_one


@pytest.mark.parametrize(
    ("result", "status"),
    [
        ({"failed": "rank 0 raised ValueError"}, "failed"),
        ({"failed": "rank 0 raised OSError", "storage": "No space left"}, "interrupted"),
        ({"samples_seen": 9, "budget_samples": 9, "eval_loss": 2.0, "storage": "No space left"}, "completed"),
    ],
)
def test_a_trial_does_not_fail_by_a_full_disk_and_what_it_finished_counts(result: dict, status: str) -> None:
    assert outcome(result, None).status == status
    assert (outcome(result, None) is INTERRUPTED) == (status == "interrupted")


def test_whether_a_run_folder_can_be_written_is_found_by_writing(tmp_path: Path) -> None:
    assert storage_problem(tmp_path) is None
    assert list(tmp_path.iterdir()) == [], "the probe is gone"
    problem = storage_problem(tmp_path / "gone")
    assert "No such file or directory" in str(problem)
    assert "Free space or make the folder writable" in str(problem)
