"""At which learning rates bf16 weights follow fp32 ones: ``python -m benchmarks.bf16_rates``.

The optimizer steps fp32 master weights, and forward passes use their bf16 copies. A copy changes only once its master
has moved by half the distance between two bf16 numbers: up to |w| x 2^-8. The reach of a trial is rate x steps over
rms(w) x 2^-8: how many such distances a typical weight can move if every step goes the same way.
Tiny models of several weight scales are trained in both precisions at rates of the same reach.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.record import about, add_options, finish

REACHES = (0.5, 1, 2, 4, 8, 16, 32)
SCALES = (0.05, 0.15)
STEPS = (60,)
BATCH = 6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    args = parser.parse_args()
    facts = about()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import deepspeed  # noqa: F401  # before gc.freeze
    import peft  # noqa: F401

    from sweepft.training.distributed import join, leave
    from sweepft.training.rendezvous import open_listener

    gc.freeze()  # engines collect garbage when they are closed: not through all of the libraries each time
    rows: list[dict[str, Any]] = []
    with open_listener("127.0.0.1") as listener, tempfile.TemporaryDirectory() as folder:
        device = join(0, 1, "127.0.0.1", listener.getsockname()[1], 1, 0, listener)
        for scale in SCALES:
            model, rms = _model(Path(folder) / f"model-{scale}", scale)
            for lora in (False, True):
                for steps in STEPS:
                    rows += _trials(Path(folder), model, rms, steps, lora, device)
        leave()
    header = (
        "| weights (rms) | trained | steps | rate | reach | base | fp32 | bf16 | share of the fp32 progress |"
    )
    lines = [header, "| --- " * 9 + "|"]
    lines += [
        f"| {r['rms']:.3f} | {'LoRA' if r['lora'] else 'all weights'} | {r['steps']} | {r['rate']:.1e} "
        f"| {r['reach']:g} "
        f"| {r['base']:.3f} | {r['fp32']:.3f} | {r['bf16']:.3f} | {r['share']:.2f} |"
        for r in rows
    ]
    finish(args, "bf16 at low learning rates", facts, {"rows": rows}, "\n".join(lines))


def _model(folder: Path, scale: float) -> tuple[Path, float]:
    """A random Llama whose matrices have this standard deviation, as bf16 numbers."""
    import torch
    from benchmarks.families.material import make_tokenizer
    from benchmarks.families.recipes import config_of, recipe
    from transformers import AutoModelForCausalLM

    one = recipe("Llama 3.2")
    tokenizer = make_tokenizer(one)
    config = config_of(one, {"eos_token_id": tokenizer.eos_token_id}, len(tokenizer))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        for p in matrices:
            p.normal_(std=scale)
            p.copy_(p.to(torch.bfloat16))
        rms = float(torch.cat([p.flatten() for p in matrices]).square().mean().sqrt())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, rms


def _trials(
    folder: Path, model: Path, rms: float, steps: int, lora: bool, device: Any
) -> list[dict[str, Any]]:
    from benchmarks.families.material import prepare_trial, write_data

    from sweepft.spec import TrainConfig
    from sweepft.training.trainer import TrialRunner

    train, validation = write_data(folder)
    samples = steps * BATCH
    spec, _, engine = prepare_trial(
        folder / f"{model.name}-{steps}", model, train, validation, samples=samples, batch_size=BATCH
    )
    losses: dict[tuple[str, float], tuple[float, float]] = {}
    rates = {reach: reach * rms * 2**-8 / steps for reach in REACHES}
    for precision in ("fp32", "bf16"):
        runner = TrialRunner(replace(engine, precision=precision, micro_batch=BATCH), device)
        for reach, rate in rates.items():
            fields = spec.train_config({}, samples).model_dump() | {
                "learning_rate": rate, "precision": precision, "lora": {"rank": 8} if lora else None,
            }  # fmt: skip
            runner.start(TrainConfig.model_validate(fields))
            base = runner.evaluate()["objective"]
            runner.run(samples)
            losses[precision, reach] = base, runner.evaluate()["objective"]
        runner.close()
    rows = []
    for reach, rate in rates.items():
        (base, fp32), (start, bf16) = losses["fp32", reach], losses["bf16", reach]
        share = (start - bf16) / (base - fp32)
        rows.append(
            {
                "rms": rms, "lora": lora, "steps": steps, "rate": rate, "reach": reach, "base": base, "fp32": fp32,
                "bf16": bf16, "share": share,
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
