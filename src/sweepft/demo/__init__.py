"""The embedded default: data, tokenizer and base model that sweepft makes itself.

The idea to keep in mind: a base model that knows facts is taught skills it has not seen, so the demo shows
both what a configuration learns and what it forgets, within minutes and with nothing downloaded.
"""

from __future__ import annotations

from sweepft.demo.make import make_demo
from sweepft.demo.tiny import make_tiny

__all__ = ["make_demo", "make_tiny"]
