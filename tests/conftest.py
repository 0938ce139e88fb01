"""Fixtures shared by all tests. Keep it small: helpers live in ``tests/support``."""

from __future__ import annotations

import signal
from pathlib import Path

import hypothesis
import pytest

from support.tiny import tiny_data, tiny_model

hypothesis.settings.register_profile(
    "any speed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("any speed")


def pytest_configure() -> None:
    """Have signals do what they do at a terminal: a shell's background job ignores some, and so would its children."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where two processes share the work: all that needs the Ray session goes to one, any other file stays whole."""
    for item in items:
        group = "ray" if item.get_closest_marker("ray") else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random tiny Llama with tokenizer and chat template; read-only by agreement."""
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 different chat rows as JSON Lines; read-only by agreement."""
    return tiny_data(tmp_path_factory.mktemp("data"), rows=96)
