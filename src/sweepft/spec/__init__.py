"""The sweep's YAML file as a frozen, validated :class:`SweepSpec`.

:func:`load` returns a valid spec or raises a single :class:`~sweepft.errors.SpecError` with all problems, each with
place, key, rule, value and remedy. It needs neither torch nor Ray nor the network.
"""

from __future__ import annotations

from sweepft.spec.checks import check_budget
from sweepft.spec.curriculum import Curriculum, domain_problems, is_data_key
from sweepft.spec.evaluation import Evaluate, Finalists, HarnessTask, MtBench, Replicates
from sweepft.spec.fields import (
    CheckpointEvery,
    MicroTokens,
    WarmupSteps,
    flat,
    has_pattern,
    is_hub_id,
    is_template_file,
)
from sweepft.spec.hardware import PACKABLE, packing_note
from sweepft.spec.loader import dump, from_dict, load
from sweepft.spec.objective import Objective, OwnMetric, TaskMetric
from sweepft.spec.outputs import Mirror, MlflowTrack, Notify, Track, TrackioTrack, WandbTrack
from sweepft.spec.packages import missing_packages
from sweepft.spec.presets import FEWEST_STEPS, PRESETS, Preset, format_value, presets_for
from sweepft.spec.rate_rules import RateRule, place_range, rate_rule, rate_warnings, rule_of
from sweepft.spec.reference import json_schema, reference
from sweepft.spec.sections import (
    Bound,
    Budget,
    Data,
    EarlyStop,
    Enough,
    Faults,
    Keep,
    Limit,
    Lora,
    Model,
    Optimizer,
    Resources,
    Search,
    TestSource,
    Train,
    TrainSource,
    Validation,
)
from sweepft.spec.space import Dimension
from sweepft.spec.sweep import SWEEPABLE, SweepSpec, TrainConfig

__all__ = [
    "FEWEST_STEPS",
    "PACKABLE",
    "PRESETS",
    "SWEEPABLE",
    "Bound",
    "Budget",
    "CheckpointEvery",
    "Curriculum",
    "Data",
    "Dimension",
    "EarlyStop",
    "Enough",
    "Evaluate",
    "Faults",
    "Finalists",
    "HarnessTask",
    "Keep",
    "Limit",
    "Lora",
    "MicroTokens",
    "Mirror",
    "MlflowTrack",
    "Model",
    "MtBench",
    "Notify",
    "Objective",
    "Optimizer",
    "OwnMetric",
    "Preset",
    "RateRule",
    "Replicates",
    "Resources",
    "Search",
    "SweepSpec",
    "TaskMetric",
    "TestSource",
    "Track",
    "TrackioTrack",
    "Train",
    "TrainConfig",
    "TrainSource",
    "Validation",
    "WandbTrack",
    "WarmupSteps",
    "check_budget",
    "domain_problems",
    "dump",
    "flat",
    "format_value",
    "from_dict",
    "has_pattern",
    "is_data_key",
    "is_hub_id",
    "is_template_file",
    "json_schema",
    "load",
    "missing_packages",
    "packing_note",
    "place_range",
    "presets_for",
    "rate_rule",
    "rate_warnings",
    "reference",
    "rule_of",
]
