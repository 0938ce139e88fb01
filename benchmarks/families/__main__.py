"""Train, export and read back tiny models of many families: ``python -m benchmarks.families``.

Takes some minutes on two CPU cores. ``--md`` writes the table, ``--json`` all figures; the exit status is 1 if anything
failed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.families.recipes import RECIPES, Recipe
from benchmarks.families.table import page


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks of the chosen families; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="FAMILY", help="families to run, by name; all by default")
    parser.add_argument(
        "--quick", action="store_true", help="run the families of the default test suite only"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument("--md", type=Path, metavar="FILE", help="write the page with the table to this file")
    args = parser.parse_args(arguments)
    known = {one.name: one for one in RECIPES}
    if unknown := set(args.names) - set(known):
        parser.error(f"unknown families: {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    chosen = [known[name] for name in args.names] or [one for one in RECIPES if one.quick or not args.quick]
    facts = _facts()
    outcomes = []
    for outcome in run(chosen):
        outcomes.append(outcome)
        if args.json is not None:
            args.json.write_text(json.dumps({"families": outcomes, "about": facts}, indent=1) + "\n")
    if args.md is not None:
        args.md.write_text(page(outcomes, facts))
    return 1 if any(outcome["failures"] for outcome in outcomes) else 0


def run(chosen: Sequence[Recipe]) -> Iterator[dict[str, Any]]:
    """The outcomes of these families, one after the other; each is printed."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    import deepspeed  # noqa: F401  # before gc.freeze
    import peft  # noqa: F401
    import torch
    from benchmarks.families.check import check

    from sweepft.training.distributed import join, leave
    from sweepft.training.rendezvous import open_listener

    with open_listener("127.0.0.1") as listener:
        device = join(0, 1, "127.0.0.1", listener.getsockname()[1], 1, 0, listener)
        gc.freeze()  # engines collect garbage when they are closed: not through all of the libraries each time
        for one in chosen:
            torch.manual_seed(1)
            with tempfile.TemporaryDirectory(prefix="sweepft-families-") as folder, _quiet():
                outcome = check(one, Path(folder), device)
            print(f"{one.name}: {outcome.seconds:.0f} s", *outcome.failures, sep="\n    ", flush=True)
            yield outcome.to_dict()
        leave()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what libraries say of each of two hundred models."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _facts() -> dict[str, Any]:
    from benchmarks.record import about

    facts = about()
    from importlib.metadata import version

    facts["versions"]["peft"] = version("peft")
    return facts | {"command": "python -m benchmarks.families"}


if __name__ == "__main__":
    sys.exit(main())
