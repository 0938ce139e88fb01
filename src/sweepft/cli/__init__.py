"""The ``sweepft`` command: each subcommand parses, calls one function and prints."""

from __future__ import annotations

from sweepft.cli.process import main

__all__ = ["main"]
