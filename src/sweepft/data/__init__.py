"""Data of a sweep: read and checked row by row, tokenised once, ordered by seed alone.

The idea to keep in mind: the driver only reads and checks (no torch); a child process tokenises
(transformers imports torch); trials and ranks open the result with numpy.
"""

from __future__ import annotations

from sweepft.data.cache import TokenSet
from sweepft.data.order import BlockLosses, SampleOrder, block_size

__all__ = ["BlockLosses", "SampleOrder", "TokenSet", "block_size"]
