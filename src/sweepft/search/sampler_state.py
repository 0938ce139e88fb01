"""The state of a CMA-ES sampler in a study, which Optuna keeps as a pickle.

A study may come with a run folder of somebody else, and a pickle may run code. So only pickles that build a CMA-ES
state and nothing else are kept; Optuna then loads the same bytes. Without its state the sampler begins again.
"""

from __future__ import annotations

import io
import logging
import pickle
import re
from collections.abc import Mapping
from typing import Any, Final

_log = logging.getLogger(__name__)

_PART: Final = re.compile(r"(.*optimizer):(\d+)", re.DOTALL)
_MOST_PARTS: Final = 10_000
_BUILDS: Final = frozenset(
    (
        *(("cmaes._cma", "CMA"), ("cmaes._sepcma", "SepCMA"), ("cmaes._cmawm", "CMAwM")),
        *(
            (f"numpy.{core}.multiarray", name)
            for core in ("_core", "core")
            for name in ("_reconstruct", "scalar")
        ),
        *((f"numpy.{core}.numeric", "_frombuffer") for core in ("_core", "core")),
        *(("numpy", name) for name in ("ndarray", "dtype")),
    )
)
"""What the state of a CMA-ES sampler is made of: arrays and numbers."""


class _StateOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _BUILDS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


def trusted_state(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's attributes, without pickles that do more than build a CMA-ES state."""
    parts: dict[str, dict[int, str]] = {}
    for key, value in attrs.items():
        found = _PART.fullmatch(key)
        if found is not None:
            parts.setdefault(found[1], {})[int(found[2]) if len(found[2]) < 9 else -1] = value
    refused = {name for name, texts in parts.items() if not _builds_state(texts)}
    return {k: v for k, v in attrs.items() if (m := _PART.fullmatch(k)) is None or m[1] not in refused}


def _builds_state(parts: Mapping[int, Any]) -> bool:
    try:
        if sorted(parts) != list(range(len(parts))) or len(parts) > _MOST_PARTS:
            raise ValueError("it is not whole")
        data = bytes.fromhex("".join(parts[i] for i in range(len(parts))))
        _StateOnly(io.BytesIO(data)).load()
    except Exception as error:  # a forged pickle may raise anything
        _log.warning("the sampler's state in the study is not used: %s", error)
        return False
    return True
