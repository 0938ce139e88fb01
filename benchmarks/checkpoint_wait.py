"""How long training waits for a checkpoint written in its way or behind it: ``python -m benchmarks.checkpoint_wait``.

One rank trains a random Llama of 30 M parameters (fp32: a checkpoint of 12 bytes a parameter). In pairs, in turn first
and second: a checkpoint that training waits for (copy, write, fsync, a second read for the digest), and one that is
written behind it. The time of the steps after it is measured, too: the write shares the machine with them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.material import SIZES, random_llama
from benchmarks.record import about, add_options, finish, table

BATCH = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps between two checkpoints (default: 4)")
    parser.add_argument("--size", choices=SIZES, default="30M")
    parser.add_argument("--folder", type=Path, help="where checkpoints go (default: the system's)")
    add_options(parser)
    args = parser.parse_args()
    facts = about()
    import deepspeed  # noqa: F401

    from sweepft.training.distributed import join, leave
    from sweepft.training.rendezvous import open_listener

    with open_listener("127.0.0.1") as listener, tempfile.TemporaryDirectory(dir=args.folder) as folder:
        device = join(0, 1, "127.0.0.1", listener.getsockname()[1], 1, 0, listener)
        found = _measure(Path(folder), args, device)
        leave()
    rows = [
        [
            what,
            median(one["waited"] for one in found[what]),
            median(one["step"] for one in found[what]),
            median(one["written"] for one in found[what]),
        ]
        for what in found
    ]
    text = table(["checkpoint", "training waits, s", "a step after it, s", "written in, s"], rows)
    pairs = [
        before["waited"] / now["waited"]
        for before, now in zip(found["in the way"], found["behind"], strict=True)
    ]
    text += f"\n\nMedian over {args.pairs} pairs: training waits {median(pairs):.1f} times shorter."
    finish(args, "What training waits for a checkpoint", facts, {"rows": found}, text)


def _measure(folder: Path, args: argparse.Namespace, device: Any) -> dict[str, list[dict[str, float]]]:
    import numpy as np

    from sweepft.data.cache import write_token_set
    from sweepft.spec import TrainConfig
    from sweepft.training.config import EngineConfig
    from sweepft.training.trainer import TrialRunner

    shape, rng = SIZES[args.size], np.random.default_rng(0)
    random_llama(shape).save_pretrained(folder / "model")
    lines = [(rng.integers(4, shape.vocab, 32), np.arange(32) > 8, "any") for _ in range(64)]
    write_token_set(folder / "train", lines, digest="0" * 64, vocab_size=shape.vocab)
    budget = BATCH * args.steps * (2 * args.pairs + 2)
    config = EngineConfig(
        model_path=str(folder / "model"), train_cache=str(folder / "train"), validation=(), budget_samples=budget,
        micro_batch=BATCH, scratch=str(folder / "base"), rungs=(0.5,), zero_stage=2, precision="fp32",
    )  # fmt: skip
    runner = TrialRunner(config, device)
    fields = {
        "batch_size": BATCH, "learning_rate": 1e-3, "budget": {"samples": budget}, "micro_batch": BATCH,
        "budget_samples": budget,
    }  # fmt: skip
    runner.start(TrainConfig.model_validate(fields))
    done = BATCH * args.steps
    runner.run(done)
    found: dict[str, list[dict[str, float]]] = {"in the way": [], "behind": []}
    for pair in range(args.pairs):
        for what in ("in the way", "behind") if pair % 2 else ("behind", "in the way"):
            begin = time.perf_counter()
            if what == "behind":
                runner.save(str(folder / "trial" / str(done)))
            else:
                _write_and_wait(runner, folder / "waited.safetensors")
            waited = time.perf_counter() - begin
            done += BATCH * args.steps
            steps = runner.run(done)["history"]["seconds"]
            written = runner.settle_checkpoint()["seconds"] or waited
            found[what].append({"waited": waited, "step": median(steps), "written": written})
            print(what, found[what][-1], flush=True)
    runner.close()
    return found


def _write_and_wait(runner: Any, file: Path) -> None:
    """As sweepft did before checkpoints were written behind training."""
    from safetensors.torch import save_file

    save_file({name: t.detach().cpu().contiguous() for name, t in runner.zero.state().items()}, file)
    with file.open("rb") as f:
        os.fsync(f.fileno())
        hashlib.file_digest(f, "sha256")


if __name__ == "__main__":
    main()
