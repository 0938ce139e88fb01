"""Names that changed after version 0.1, for errors that give the new one. Old names are not accepted."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

RENAMED_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "data.held_out": "data.validation",
        "early_stop.windows": "early_stop.rungs",
        "early_stop.good": "early_stop.top_fraction",
        "early_stop.false_stop": "early_stop.max_false_stop_rate",
        "early_stop.max_bad_stops": "early_stop.max_false_discovery_rate",
        "early_stop.history": "early_stop.prior_sweeps",
        "early_stop.park": "early_stop.pause",
        "evaluate.confirm": "evaluate.replicates",
    }
)
"""Old to new key of the spec."""

RENAMED_VALUES: Final[Mapping[tuple[str, str], str]] = MappingProxyType({("checkpoint", "windows"): "rungs"})
"""Key of the spec and its old value, to the new value."""

RENAMED_COMMANDS: Final[Mapping[str, str]] = MappingProxyType({"settings": "presets"})
"""Old to new command of the CLI."""
