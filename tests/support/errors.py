"""Assertions on errors by their key, not by their wording."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from sweepft.errors import SweepftError


@contextmanager
def raises(error: type[BaseException], *keys: str) -> Iterator[pytest.ExceptionInfo[Any]]:
    """The block raises ``error`` with all of ``keys`` among its keys.

    An error that is not sweepft's own (a ``ValueError`` of the scheduler, say) begins with the name of the argument
    that is wrong and a colon; that name counts as its key.
    """
    with pytest.raises(error) as caught:
        yield caught
    found = (
        caught.value.keys if isinstance(caught.value, SweepftError) else (str(caught.value).split(":")[0],)
    )
    missing = set(keys) - set(found)
    assert not missing, (
        f"{type(caught.value).__name__} has the keys {found}, not {sorted(missing)}: {caught.value}"
    )
