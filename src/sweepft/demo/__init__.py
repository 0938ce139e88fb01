"""The demo sweep and tiny versions of any sweep, with generated data, tokenizer and model.

The demo teaches new skills to a base model that knows facts, so it shows in minutes, without downloads, what a trial
learns and what it forgets.
"""

from __future__ import annotations

from sweepft.demo.make import make_demo
from sweepft.demo.tiny import make_tiny

__all__ = ["make_demo", "make_tiny"]
