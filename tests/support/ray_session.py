"""Ray for the tests of one module: a small local one, unless Ray runs already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ray


@contextmanager
def local_ray() -> Iterator[None]:
    """Start Ray with two CPUs and stop it at the end; leave a running one as it is."""
    mine = not ray.is_initialized()
    if mine:
        ray.init(
            address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False
        )
    yield
    if mine:
        ray.shutdown()
