"""Data of a sweep: read and check rows, split them, tokenise once, and order samples by seed alone.

The driver only reads and checks (no torch); a child process tokenises (transformers imports torch); trials and ranks
open the token caches with numpy.
"""

from __future__ import annotations

from sweepft.data.cache import TokenSet
from sweepft.data.model_digest import model_digest
from sweepft.data.order import BlockLosses, Order, SampleOrder, block_size, sample_order
from sweepft.data.prepare import load_test_sets, prepare, prepare_in_child, survey_in_child, view_in_child
from sweepft.data.prepared import Prepared, Tokenised, ValidationData
from sweepft.data.split import DataCheck, SourceCount, check
from sweepft.data.survey import Survey

__all__ = [
    "BlockLosses",
    "DataCheck",
    "Order",
    "Prepared",
    "SampleOrder",
    "SourceCount",
    "Survey",
    "TokenSet",
    "Tokenised",
    "ValidationData",
    "block_size",
    "check",
    "load_test_sets",
    "model_digest",
    "prepare",
    "prepare_in_child",
    "sample_order",
    "survey_in_child",
    "view_in_child",
]
