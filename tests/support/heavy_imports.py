"""What every rank imports; loaded once by the fork server (see ``support.ranks``)."""

import contextlib
import os
import sys

os.environ.setdefault("DS_ACCELERATOR", "cpu")
with contextlib.redirect_stdout(sys.stderr):
    import deepspeed
    import torch
    import transformers

    import sweepft.engine.runner

__all__ = ["deepspeed", "sweepft", "torch", "transformers"]
