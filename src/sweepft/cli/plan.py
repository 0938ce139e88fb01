"""``sweepft plan``: estimate a sweep before it runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sweepft.cli.options import NO_FILES, SET, SPEC, output_file, writing
from sweepft.extras import require_run
from sweepft.files import write_output
from sweepft.output import make_console, say


def _count(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    from sweepft.plan.model_shape import parse_count

    try:
        return parse_count(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _gpu(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    if text is None:
        return None
    from sweepft.plan.gpus import GPUS

    name = text.lower().replace("_", "-").replace(" ", "-")
    if name not in GPUS:
        raise click.BadParameter(
            f"{text!r} is not known; use one of {', '.join(sorted(GPUS))}, or --gpu-memory"
        )
    return name


_POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@SPEC
@SET
@click.option("--gpu", metavar="NAME", callback=_gpu, help="Kind of GPU, e.g. h100: sets memory and peak.")
@click.option("--gpu-memory", type=_POSITIVE, metavar="GIB", help="Memory of a GPU in GiB.  [default: 80]")
@click.option(
    "--gpus-per-node", type=click.IntRange(1), metavar="N", help="GPUs per node.  [default: up to 8]"
)
@click.option(
    "--nodes", type=click.IntRange(1), metavar="N", help="Number of nodes.  [default: as many as SPEC needs]"
)
@click.option(
    "--cpus-per-node", type=click.IntRange(1), metavar="N", help="CPUs per node.  [default: enough]"
)
@click.option("--peak-tflops", type=_POSITIVE, metavar="T", help="Peak of a GPU in TFLOP/s.  [default: 312]")
@click.option(
    "--network",
    type=_POSITIVE,
    metavar="GBIT",
    help="Gbit/s between nodes, for trials on several.  [default: 100]",
)
@click.option(
    "--mfu",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.4,
    show_default=True,
    help="Fraction of the peak that training reaches.",
)
@click.option(
    "--params", callback=_count, metavar="N", help="Parameters, e.g. 3B, if the model is not available."
)
@click.option("--tokens-per-sample", type=_POSITIVE, metavar="N", help="Mean tokens per training row.")
@click.option(
    "--rows", type=click.IntRange(1), metavar="N", help="Training rows, if the data are not available."
)
@click.option(
    "--measure", is_flag=True, help="Time ten real optimizer steps of each batch size on this machine."
)
@NO_FILES
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, allow_dash=True),
    callback=output_file,
    help="Write the plan to this file as JSON; - prints it.",
)
def plan(
    spec: Path,
    overrides: tuple[str, ...],
    gpu: str | None,
    gpu_memory: float | None,
    gpus_per_node: int | None,
    nodes: int | None,
    cpus_per_node: int | None,
    peak_tflops: float | None,
    network: float | None,
    mfu: float,
    params: int | None,
    tokens_per_sample: float | None,
    rows: int | None,
    measure: bool,
    no_files: bool,
    json_file: Path | None,
) -> None:
    """Estimate steps, memory, disk and GPU-hours; list warnings."""

    from sweepft.plan import Flags, make_plan, show_plan
    from sweepft.spec import load

    if measure and no_files:
        raise click.UsageError("--measure needs the files that --no-files leaves out")
    if not no_files:
        require_run("sweepft plan")
    loaded = load(spec, overrides, check_files=not no_files)
    flags = Flags(
        gpu=gpu,
        gpu_memory=gpu_memory,
        gpus_per_node=gpus_per_node,
        nodes=nodes,
        cpus_per_node=cpus_per_node,
        mfu=mfu,
        peak_tflops=peak_tflops,
        network=network,
        parameters=params,
        tokens=tokens_per_sample,
        rows=rows,
        files=not no_files,
        measure=measure,
    )
    found = make_plan(loaded, flags)
    if json_file == Path("-"):
        say(json.dumps(found.to_dict(), indent=2))
        return
    show_plan(found, make_console())
    if json_file is not None:
        with writing(json_file):
            write_output(json_file, json.dumps(found.to_dict(), indent=2) + "\n")
