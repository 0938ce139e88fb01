"""The copying process: ``python -m sweepft.mirror follow RUN URI SECONDS`` runs until its standard input is closed.

``check RUN URI`` prints why a mirror cannot be used and exits with 1, else with 0.
"""

from __future__ import annotations

import logging
import os
import select
import sys
from pathlib import Path

from sweepft.errors import MirrorError
from sweepft.mirror.follow import check, follow
from sweepft.redact import RedactingFormatter


def main() -> int:
    """Run the command that the first argument names."""
    what, run_dir, uri, *rest = sys.argv[1:]
    if what == "check":
        try:
            check(Path(run_dir), uri)
        except MirrorError as error:
            print(error)  # noqa: T201 - the driver reads it
            return 1
        return 0
    handler = logging.StreamHandler()
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.INFO)
    return 0 if follow(Path(run_dir), uri, float(rest[0]), _over) else 1


def _over(seconds: float) -> bool:
    """Wait; True once standard input is closed."""
    ready, _, _ = select.select([0], [], [], seconds)
    return bool(ready) and not os.read(0, 1 << 16)


if __name__ == "__main__":
    sys.exit(main())
