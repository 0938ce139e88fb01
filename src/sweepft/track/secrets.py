"""What libraries say in their errors, without the keys that people keep in the environment."""

from __future__ import annotations

import os
import re
from typing import Final

__all__ = ["without_secrets"]

_SECRET: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL", re.IGNORECASE)
_USER_IN_ADDRESS: Final = re.compile(r"(?<=://)[^/@\s]+@")
_SHORTEST_SECRET: Final = 6


def without_secrets(text: str) -> str:
    """The text without values of variables that are named like secrets, and without users in addresses."""
    for name, value in os.environ.items():
        if _SECRET.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, f"<{name}>")
    return _USER_IN_ADDRESS.sub("<user>@", text)
