"""The packages outside ``sweepft[run]`` that a spec needs."""

from __future__ import annotations

from sweepft.errors import Problem
from sweepft.extras import problems_of
from sweepft.spec.objective import TaskMetric
from sweepft.spec.sweep import SweepSpec


def missing_packages(spec: SweepSpec) -> list[Problem]:
    """A problem, with what to install, for each key that needs a package which is not installed here."""
    names = [spec.train.optimizer.name, *getattr(spec.search.space.get("optimizer.name"), "choices", ())]
    quantized = spec.train.lora is not None and spec.train.lora.quantize is not None
    needs = [
        *(
            (f"{place}.task", "lm_eval", isinstance(wanted, TaskMetric))
            for place, wanted in spec.objective.measured.items()
        ),
        ("train.lora.quantize", "bitsandbytes", quantized),
        ("train.optimizer.name", "bitsandbytes", "adamw_8bit" in names),
        ("train.liger", "liger_kernel", spec.train.liger is True),
        ("track.wandb", "wandb", spec.track.wandb is not None),
        ("track.mlflow", "mlflow", spec.track.mlflow is not None),
        ("track.trackio", "trackio", spec.track.trackio is not None),
    ]
    return problems_of(needs, spec.name)
