"""A rank that Ray ends because main memory runs out is told from one that dies for its own reasons."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

NODE_SHORT_OF_MEMORY = {"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
SCRIPT = """
import time
import ray
from sweepft.errors import TrialError
from sweepft.slot.group import call_all

class Rank:
    def run(self):
        time.sleep(60)

ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
ranks = [ray.remote(Rank).options(num_cpus=0).remote() for _ in range(2)]
try:
    call_all(ranks, "run", 50)
except TrialError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.full
@pytest.mark.ray
def test_call_all__rank_that_ray_ends_for_lack_of_main_memory() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **NODE_SHORT_OF_MEMORY}, capture_output=True, text=True,
        timeout=150, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("HostOutOfMemory run: rank "), done.stdout + done.stderr
    assert "memory" in done.stdout
