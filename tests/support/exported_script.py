"""Run ``best/train.py`` as its user would."""

from __future__ import annotations

import json
import os
import subprocess
import sys


def run_script(best, out, ranks=1):
    """Run the exported script as its user would: no sweepft of this checkout, any number of processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(launcher if ranks > 1 else ()), str(best / "train.py"), "--out", str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=out.parent, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    validation = {line["validation"]: line["loss"] for line in lines if "validation" in line}
    return [line["loss"] for line in lines if "step" in line], validation
