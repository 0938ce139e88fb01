from __future__ import annotations

from pathlib import Path

import pytest

from support.tiny import tiny_model


@pytest.fixture(scope="session")
def tiny_dropout_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with attention dropout on, so that random numbers matter."""
    return tiny_model(tmp_path_factory.mktemp("model") / "dropout", attention_dropout=0.1)
