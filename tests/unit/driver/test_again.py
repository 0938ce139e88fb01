"""Going on with a ledger: what leads out of the run folder is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweepft.driver.restore import _check_names
from sweepft.errors import LedgerCorrupt


@pytest.mark.parametrize("name", ["../x", "a/b", "..", ".hidden", "", "a\0b", "a" * 81])
def test_a_trial_that_cannot_be_a_folders_name_is_refused(name: str) -> None:
    with pytest.raises(LedgerCorrupt, match="cannot be the name of a folder"):
        _check_names(Path("run"), [{"kind": "trial", "seq": 1, "trial_id": name}])


def test_our_names_are_fine() -> None:
    _check_names(Path("run"), [{"kind": "trial", "seq": 1, "trial_id": f"t{n:03d}"} for n in (0, 999, 12345)])
