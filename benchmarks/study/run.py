"""Runs or resumes the study: ``python -m benchmarks.study.run --out FOLDER``.

The study is an ordinary sweep; an interrupted one is continued by `sweepft resume`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import yaml
from benchmarks.study.design import EDITIONS, spec

SHARED = Path(__file__).resolve().parents[3] / "shared"


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/study"), show_default=True)
@click.option("--edition", type=click.Choice(sorted(EDITIONS)), default="cpu", show_default=True)
@click.option("--model", default=str(SHARED / "models/tiny-llama-t0"), show_default=True)
@click.option("--in-domain", default=str(SHARED / "data/gsm8k_train.jsonl.gz"), show_default=True)
@click.option("--retention", default=str(SHARED / "data/t0_instructions.jsonl.gz"), show_default=True)
@click.option("--plan", is_flag=True, help="Estimate the cost of the runs without starting them.")
@click.option("--measure", is_flag=True, help="With --plan: time real steps on this machine.")
def main(
    out: Path, edition: str, model: str, in_domain: str, retention: str, plan: bool, measure: bool
) -> None:
    """Run the study into OUT, or resume it there."""
    if (out / "ledger").exists() and not plan:
        command = ["resume", str(out)]
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        written = out.parent / f"{out.name}.yaml"
        written.write_text(
            yaml.safe_dump(spec(EDITIONS[edition], model, in_domain, retention, out.name), sort_keys=False)
        )
        command = ["run", str(written), "--out", str(out)]
        if plan:
            command = ["plan", str(written), *(["--measure"] if measure else [])]
    sys.exit(subprocess.run([sys.executable, "-m", "sweepft.cli", *command], check=False).returncode)


if __name__ == "__main__":
    main()
