"""The pickled state of a sampler is kept only if it builds nothing else."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import cmaes
import numpy as np
import pytest

from sweepft.search.sampler_state import trusted_state


def parts(data: bytes) -> dict[str, str]:
    text = data.hex()
    return {f"cma:optimizer:{i}": text[at : at + 2045] for i, at in enumerate(range(0, len(text), 2045))}


def test_trusted_state__keeps_that_of_cma_es() -> None:
    optimizer = cmaes.CMA(mean=np.zeros(3), sigma=1.0, bounds=np.array([[-1, 1]] * 3), seed=3)
    optimizer.tell([(optimizer.ask(), float(i)) for i in range(optimizer.population_size)])
    attrs = {**parts(pickle.dumps(optimizer)), "cma:generation": 1}
    assert len(attrs) > 2
    assert trusted_state(attrs) == attrs


class _Runs:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("broken", [None, b"", b"\x80\x04.", b"cos\nsystem\n(S'x'\ntR."])
def test_trusted_state__drops_pickles_that_do_more(broken: bytes | None, tmp_path: Path) -> None:
    data = pickle.dumps(_Runs(tmp_path / "ran")) if broken is None else broken
    attrs = parts(data) or {"cma:optimizer:0": "zz"}
    assert trusted_state({**attrs, "other": 1}) == {"other": 1}
    assert not (tmp_path / "ran").exists()
