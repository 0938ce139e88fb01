"""Check a machine with GPUs in eight minutes: what a sweep of a 3B or 7B model would meet in its first hour.

    python benchmarks/gpu_check.py [--only STAGE ...] [--form cpu|gpu] [--seconds N] [--json FILE] [--md FILE]

Each stage runs in processes of its own, under its own time limit, and prints one line of JSON: whether it passed, its
seconds, and its figures. A stage that fails or runs out of time does not end the others.

The GPU form is made for one GPU of 80 GB or more; where several are visible, the stages that train use two ranks.
Without a GPU every stage runs in its CPU form: the same code with tiny models, on gloo. That proves the script and the
paths that both forms share. It proves nothing about kernels, NCCL, memory or speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import record
from gpu_stages import STAGES

from sweepft.children import end_group

SMALLEST: Final = 75_000  # MiB of the GPU that the sizes are made for
SECONDS: Final = {"gpu": 480.0, "cpu": 2400.0}
"""Limit of all stages together."""
RESERVE: Final = 5.0  # seconds kept for the report


def main() -> None:
    args = _arguments()
    facts = record.about()
    gpus = visible_gpus()
    form = args.form or ("gpu" if gpus else "cpu")
    say({"gpu_check": form, "gpus": gpus, "note": note(form, gpus)})
    deadline = time.monotonic() + (args.seconds or SECONDS[form])
    with tempfile.TemporaryDirectory(prefix="gpu-check-", dir=args.folder) as folder:
        lines = []
        for name in args.only or STAGES:
            lines.append(run_stage(name, form, len(gpus), Path(folder), deadline - RESERVE))
            say(lines[-1])
    passed = sum(line["ok"] for line in lines)
    say({"gpu_check": "done", "form": form, "passed": passed, "of": len(lines)})
    record.finish(
        args, f"GPU check, {form} form", facts, {"form": form, "stages": lines}, page(form, gpus, lines)
    )
    sys.exit(passed < len(lines))


def run_stage(name: str, form: str, gpus: int, folder: Path, deadline: float) -> dict[str, Any]:
    """One stage in a process group of its own; its figures, or why there are none."""
    limit = min(STAGES[name].limits[form], deadline - time.monotonic())
    line: dict[str, Any] = {"stage": name, "form": form, "ok": False}
    if limit <= 0:
        return line | {"error": "no time is left for this stage"}
    out = folder / f"{name}.json"
    command = [
        sys.executable,
        str(Path(__file__).with_name("gpu_stages.py")),
        name,
        form,
        str(gpus),
        str(folder),
    ]
    begin = time.monotonic()
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, process_group=0)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            line["error"] = f"not finished within {limit:.0f} s"
        finally:
            end_group(process)
    line |= {"seconds": round(time.monotonic() - begin, 1), "limit_seconds": round(limit)}
    if process.returncode == 0 and out.is_file():
        return line | json.loads(out.read_text()) | {"ok": "error" not in line}
    tail = (folder / f"{name}.log").read_text(errors="replace").strip().splitlines()[-12:]
    return {"error": f"exit status {process.returncode}"} | line | {"log": tail}


def visible_gpus() -> list[dict[str, Any]]:
    """Name and MiB of the GPUs that this process may use, without loading torch."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
        listed = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = [line.rsplit(",", 1) for line in listed.strip().splitlines()]
    gpus = [{"name": name.strip(), "mib": int(mib)} for name, mib in found]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return gpus if shown is None else gpus[: len([part for part in shown.split(",") if part.strip()])]


def note(form: str, gpus: Sequence[Mapping[str, Any]]) -> str:
    """What the figures of this run mean."""
    if form == "cpu":
        seen = "no GPU is used" if gpus else "no GPU is seen"
        return f"{seen}: every stage runs in its CPU form, with tiny models; no figure is one of a GPU"
    small = [gpu["name"] for gpu in gpus if gpu["mib"] < SMALLEST]
    if small:
        return f"made for 80 GB or more: stages with 3B and 7B models may not fit {small[0]}"
    return f"{min(2, len(gpus))} rank(s) where a stage trains"


def page(form: str, gpus: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]]) -> str:
    """The stages as a table, and their figures as they were printed."""
    rows = [(line["stage"], "passed" if line["ok"] else "failed", line.get("seconds", 0.0)) for line in lines]
    text = "\n".join(json.dumps(line) for line in lines)
    return (
        f"{note(form, gpus)}\n\n{record.table(('stage', 'result', 'seconds'), rows)}\n\n```json\n{text}\n```"
    )


def say(line: Mapping[str, Any]) -> None:
    """Print a line of JSON at once."""
    print(json.dumps(line), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--form", choices=("cpu", "gpu"), help="by default gpu where nvidia-smi lists one")
    parser.add_argument(
        "--seconds", type=float, help="limit of all stages together: 480 on GPUs, 2400 on CPUs"
    )
    parser.add_argument("--folder", type=Path, help="where models are written: 25 GB in the GPU form")
    record.add_options(parser)
    return parser.parse_args()


if __name__ == "__main__":
    main()
