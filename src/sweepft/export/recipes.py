"""A trial's train config as a spec of one trial, and as a DeepSpeed config; ``trl`` has the one for TRL.

All are plain dictionaries, so that tests can check each key against the tool that reads it.
"""

from __future__ import annotations

from typing import Any

from sweepft.export.facts import BestFacts
from sweepft.ledger import is_baseline
from sweepft.training.config import deepspeed_offload


def one_trial_spec(facts: BestFacts) -> dict[str, Any]:
    """A sweep spec with this trial as its only point, for ``sweepft train``.

    The learning rate is the only dimension of the space; everything else is fixed in ``train``.
    """
    spec, patience = facts.spec.to_dict(), facts.spec.early_stop.patience
    baseline = is_baseline(facts.trial.number, facts.trial.origin)
    spec.pop("evaluate", None)  # there are no finalists
    spec.pop("mirror", None)  # the mirror belongs to the sweep
    train = facts.train_config.model_dump(mode="json", exclude={"budget_samples"}, exclude_none=True)
    rate = train.pop("learning_rate")
    data = {**spec["data"], **train.pop("data", {})}
    return {
        **spec,
        "name": f"{facts.spec.name[:74]}-best",
        "data": data,
        "train": train,
        "search": {
            "trials": 1,
            "sampler": "random",
            "seed": facts.spec.search.seed,
            "space": {"learning_rate": {"choice": [rate]}},
        },
        "early_stop": {
            "rule": "none",
            "rungs": list(facts.spec.early_stop.rungs),
            **({"patience": patience} if patience is not None and not baseline else {}),
        },
        "resources": {**spec["resources"], "concurrent_trials": 1},
        "keep": {"top": 1},
    }


def deepspeed_config(facts: BestFacts) -> dict[str, Any]:
    """A DeepSpeed config for the trial's number of ranks; gradient accumulation is rounded up."""
    s = facts.train_config
    ranks = facts.spec.resources.workers_per_trial
    return {
        "train_micro_batch_size_per_gpu": facts.micro_batch,
        "gradient_accumulation_steps": -(-s.batch_size // (facts.micro_batch * ranks)),
        "gradient_clipping": s.gradient_clipping,
        "bf16": {"enabled": s.precision == "bf16"},
        "zero_optimization": {"stage": s.zero_stage, **deepspeed_offload(s.offload)},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }
