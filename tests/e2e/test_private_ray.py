"""A local Ray on a shared machine: other users can neither read its files nor use it, and no credential is in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.full]

SESSION = textwrap.dedent("""
    import http.client, os, socket, stat, subprocess, sys, urllib.error, urllib.request
    from pathlib import Path
    from sweepft.driver.ray_session import set_environment, start_ray

    set_environment()
    start_ray(2)
    import ray
    from ray.tune.execution.class_cache import _ActorClassCache

    class Trainable:
        def secret(self):
            return os.environ["AWS_SECRET_ACCESS_KEY"]

    actor = _ActorClassCache().get(Trainable).remote()
    assert ray.get(actor.secret.remote()) == os.environ["AWS_SECRET_ACCESS_KEY"], "inherited"
    folder = Path(ray._private.worker._global_node.get_session_dir_path()).parents[1]
    private = stat.S_IMODE(folder.stat().st_mode) == 0o700
    secrets = (os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["RAY_AUTH_TOKEN"])
    leaks = [str(p) for p in folder.rglob("*") if p.is_file() and any(s.encode() in p.read_bytes() for s in secrets)]
    other = "not tried"
    if os.getuid() == 0:
        seen = subprocess.run(["ls", folder], user=65534, group=65534, extra_groups=[], capture_output=True, cwd="/")
        environment = subprocess.run(
            ["cat", f"/proc/{os.getpid()}/environ"], user=65534, group=65534, extra_groups=[], capture_output=True, cwd="/"
        )
        other = "refused" if seen.returncode and environment.returncode else "allowed"
    import psutil
    agents = [p for p in psutil.Process().children(recursive=True) if "dashboard" in " ".join(p.cmdline())]
    ports = sorted({c.laddr.port for p in agents for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN})
    job = "no answer"
    for port in ports:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/job_agent/jobs/", timeout=5)
            job = "answers"
        except urllib.error.HTTPError:
            job = "answers"
        except (OSError, http.client.HTTPException):  # another protocol
            pass
    ray.shutdown()
    print("RESULT", private, leaks, other, len(agents) > 0, job)
""")


def test_local_ray__is_private(tmp_path) -> None:
    environment = {
        **os.environ,
        "AWS_SECRET_ACCESS_KEY": "planted-without-any-shape-4711",
        "HOME": str(tmp_path),
    }
    environment = {k: v for k, v in environment.items() if not k.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", SESSION],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    found = re.search(r"RESULT (.*)", done.stdout)
    assert found is not None, done.stderr[-2000:]
    assert found[1] == f"True [] {'refused' if os.getuid() == 0 else 'not tried'} True no answer"
    assert not (tmp_path / ".ray" / "auth_token").exists(), "the token is in the environment only"
