"""Write the first spec of a user: from a model and data, or from the config of another trainer."""

from __future__ import annotations

from sweepft.init.draft import Request, draft_spec
from sweepft.init.foreign import read_setting
from sweepft.init.setting import Left, Setting

__all__ = ["Left", "Request", "Setting", "draft_spec", "read_setting"]
