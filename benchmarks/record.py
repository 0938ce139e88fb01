"""Facts that every benchmark records with its figures: date, machine, versions, command and machine load."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["about", "add_options", "finish", "table"]
_PACKAGES = ("torch", "deepspeed", "ray", "transformers", "optuna", "numpy")


def about() -> dict[str, Any]:
    """Facts to record at the start of a run; ``load_before`` is the load average over the last minute."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False,
        cwd=Path(__file__).parent,
    )  # fmt: skip
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
        "commit": commit.stdout.strip() or None,
        "command": "python benchmarks/" + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "load_before": round(os.getloadavg()[0], 2),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--json FILE`` for the figures and ``--md FILE`` for a dated page."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    parser.add_argument("--md", type=Path, metavar="FILE", help="write a page with the tables to this file")


def finish(
    args: argparse.Namespace, title: str, facts: dict[str, Any], figures: Mapping[str, Any], text: str
) -> None:
    """Print the tables and write the requested files."""
    facts["load_after"] = round(os.getloadavg()[0], 2)
    print(f"\n{text}")
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({**figures, "about": facts}, indent=1) + "\n")
    if args.md is not None:
        args.md.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"- {name}: `{value}`" for name, value in facts.items()]
        args.md.write_text(f"# {title}\n\n" + "\n".join(lines) + f"\n\n{text}\n")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers are right-aligned and shown with three significant digits or whole."""
    cells = [[_cell(value) for value in row] for row in rows]
    marks = ["---" if i == 0 else "---:" for i in range(len(header))]
    lines = [header, marks, *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({platform.machine()})"


def _gpu() -> str | None:
    """Name, memory and driver of the GPUs, read without loading torch; None without a GPU."""
    try:
        asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        found = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    return "; ".join(found.stdout.strip().splitlines()) or None
