"""The tracker process: ``python -m sweepft.trackers RUN`` follows a run until its standard input is closed."""

from __future__ import annotations

import logging
import os
import select
import signal
import sys
from pathlib import Path
from typing import Final

from sweepft.trackers.feed import follow

_PAUSE: Final = 1.0  # seconds between reads of the ledger
_END_TIMEOUT: Final = 600  # seconds for what is left when the sweep is over


def main() -> None:
    """Follow the run that the first argument names."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO)
    follow(Path(sys.argv[1]), _over)


def _over() -> bool:
    """Wait for `_PAUSE`; True once standard input is closed."""
    ready, _, _ = select.select([0], [], [], _PAUSE)
    ended = bool(ready) and not os.read(0, 1 << 16)
    if ended:
        signal.alarm(_END_TIMEOUT)
    return ended


if __name__ == "__main__":
    main()
