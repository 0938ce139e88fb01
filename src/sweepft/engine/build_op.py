"""Build DeepSpeed's CPU communication op once, at set-up, with a message a person can act on.

DeepSpeed compiles ``deepspeed_shm_comm`` at the first ``init_distributed`` on a CPU. Left to the
ranks, that compile would run inside the first trial.

Run as ``python -m sweepft.engine.build_op``.
"""

from __future__ import annotations

import os
import shutil
import sys

from sweepft.engine.comm_op import load_op, own_tools_first

__all__ = ["main"]


def main() -> int:
    """Build the op, or say what is missing. Returns the exit code."""
    own_tools_first()
    os.environ.setdefault("DS_ACCELERATOR", "cpu" if not _has_cuda() else "cuda")
    if os.environ["DS_ACCELERATOR"] != "cpu":
        return 0
    missing = [tool for tool in ("g++", "ninja") if shutil.which(tool) is None]
    if missing:
        print(
            f"setup: {' and '.join(missing)} missing: DeepSpeed compiles its CPU communication op with them\n"
            "  install them, e.g. apt-get install g++ ninja-build",
            file=sys.stderr,
        )
        return 1
    try:
        load_op()
    except Exception as error:
        print(
            f"setup: DeepSpeed's CPU communication op could not be built: {error}\n"
            "  check that g++ and Python's headers (python3-dev) are installed, then run `make setup` again",
            file=sys.stderr,
        )
        return 1
    return 0


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    sys.exit(main())
