"""The driver's log takes what it can; what it cannot take ends nothing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from sweepft.driver.ray_session import _log_to


@pytest.mark.parametrize("where", ["/dev/full", "missing/driver.log", "."])
def test_driver_log__that_cannot_be_written(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger("sweepft").handlers
    try:
        for _ in range(2):  # the second time closes the file of the first
            _log_to(tmp_path / where)
            logging.getLogger("sweepft").warning("text")
    finally:
        logging.getLogger("sweepft").handlers = before
    assert capsys.readouterr().err == ""


def test_driver_log__any_text_in_any_locale(tmp_path: Path) -> None:
    before = logging.getLogger("sweepft").handlers
    try:
        _log_to(tmp_path / "driver.log")
        logging.getLogger("sweepft").warning("r\u00fcn \udc80")
    finally:
        logging.getLogger("sweepft").handlers = before
    assert (tmp_path / "driver.log").read_text(encoding="utf-8").endswith("r\u00fcn \\udc80\n")
