"""``sweepft init``: write the first spec."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sweepft.cli.options import JSON, output_file, writing
from sweepft.errors import Problem, SpecError, SweepftError
from sweepft.extras import require_run
from sweepft.files import write_output
from sweepft.output import make_console, say

if TYPE_CHECKING:
    from sweepft.init.draft import Draft
    from sweepft.spec import SweepSpec


@click.command()
@click.option("--model", metavar="MODEL", help="Base model: a folder, or a hub id org/name.")
@click.option(
    "--data",
    "sources",
    multiple=True,
    metavar="DATA",
    help="Training rows: a file, pattern, folder or hub id; may be repeated.",
)
@click.option(
    "--gpus", type=click.IntRange(0), help="GPUs to use; 0 trains on the CPU.  [default: all of this machine]"
)
@click.option("--lora", "method", flag_value="lora", help="Train adapters (LoRA).  [default]")
@click.option("--full", "method", flag_value="full", help="Train all weights.")
@click.option("--qlora", "method", flag_value="qlora", help="Train adapters on base weights in 4 bits.")
@click.option(
    "--from",
    "config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Config of axolotl, LLaMA-Factory or TRL, or arguments or state of transformers' Trainer.",
)
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("sweep.yaml"),
    show_default=True,
    callback=output_file,
    help="File to write.",
)
@click.option("--force", is_flag=True, help="Overwrite the file.")
@click.option("--no-files", is_flag=True, help="Do not read the model and data; do not plan.")
@JSON
def init(
    model: str | None,
    sources: tuple[str, ...],
    gpus: int | None,
    method: str | None,
    config: Path | None,
    out: Path,
    force: bool,
    no_files: bool,
    as_json: bool,
) -> None:
    """Write a spec for MODEL and DATA, or from another tool's config.

    The first trial is the setting of the config (or a rule of thumb), as the baseline to beat. The ranges lie around
    it. What the config says and a spec has no word for is listed. A config is taken to be meant for --gpus GPUs.
    """
    from sweepft.init import Request, draft_spec, read_setting

    if out.exists() and not force:
        raise SpecError([Problem(str(out), "--out", "the file exists", "name another one, or give --force")])
    setting = None if config is None else read_setting(config)
    ask = sys.stdin.isatty() and sys.stderr.isatty() and not as_json
    if ask and model is None and not (setting and setting.model):
        model = click.prompt("Base model (folder or hub id)", err=True)
    if ask and not sources and not (setting and setting.sources):
        sources = (click.prompt("Training data (file, folder or hub id)", err=True),)
    if gpus is None:
        gpus = (
            click.prompt("GPUs", default=_gpus(), type=click.IntRange(0), err=True)
            if ask and config is None
            else _gpus()
        )
    if ask and method is None and config is None:
        method = click.prompt("Train", type=click.Choice(["lora", "qlora", "full"]), default="lora", err=True)
    draft = draft_spec(Request(model, sources, gpus, method, out.parent), setting)
    with writing(out):
        write_output(out, draft.text)
    if not as_json:
        _say(out, draft, setting.tool if setting else None)
    found = _check(out, no_files, as_json)
    if as_json:
        left = [{"key": item.key, "value": item.value, "why": item.why} for item in draft.left]
        printed = {"file": str(out), "left": left, "quiet": draft.quiet, "notes": draft.notes, **found}
        say(json.dumps(printed, indent=2, default=str))


def _gpus() -> int:
    """GPUs of this machine, by nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def _say(out: Path, draft: Draft, tool: str | None) -> None:
    say(f"{out}: written" + (f" from a config of {tool}" if tool else ""))
    for note in draft.notes:
        say(f"  {note}")
    if draft.left:
        say("  not carried over:")
        for left in draft.left:
            say(f"    {left}")
    if draft.quiet:
        say(f"  of no effect on the result: {', '.join(draft.quiet)}")


def _check(out: Path, no_files: bool, as_json: bool) -> dict[str, Any]:
    """Validate the spec, and plan it if its model and data are here. Raises what validating raises."""
    from sweepft.spec import load

    loaded = load(out, check_files=not no_files)
    if no_files:
        return {"plan": None}
    require_run("sweepft init")
    plan = _plan(loaded, as_json)
    if not as_json:
        say(f"next: sweepft validate {out}; sweepft run {out} --tiny; sweepft run {out}")
    return {"plan": plan}


def _plan(loaded: SweepSpec, as_json: bool) -> dict[str, Any] | None:

    from sweepft.data import check
    from sweepft.plan import Flags, make_plan, show_plan

    check(loaded)
    try:
        found = make_plan(loaded, Flags())
    except SweepftError as error:
        if not error.key.startswith("plan."):
            raise
        say(f"  no plan: {error}", err=as_json)
        return None
    if not as_json:
        show_plan(found, make_console())
    return found.to_dict()
