"""The sweep's YAML file as a frozen, validated :class:`SweepSpec`.

``load`` reads a file and either gives a spec in which everything holds, or raises one error with every
problem: file and line, key, rule, value and remedy. Needs no torch, no Ray and no network.
"""

from __future__ import annotations

from sweepft.spec.checks import check_budget
from sweepft.spec.curriculum import Curriculum, domain_faults, of_data
from sweepft.spec.evaluation import Confirm, Evaluate, Finalists, HarnessTask, MtBench
from sweepft.spec.fields import CheckpointEvery, MicroTokens, WarmupSteps, is_hub_id, is_template_file
from sweepft.spec.hardware import PACKABLE, packing_note
from sweepft.spec.loader import dump, from_dict, load
from sweepft.spec.outputs import Mirror, MlflowTrack, Track, WandbTrack
from sweepft.spec.presets import FEWEST_STEPS, NAMED_SETTINGS, NamedSetting, setting_text
from sweepft.spec.reference import json_schema, reference
from sweepft.spec.sections import (
    Budget,
    Data,
    EarlyStop,
    Faults,
    HeldOut,
    Keep,
    Limit,
    Lora,
    Model,
    Optimizer,
    Resources,
    Search,
    TestSource,
    Train,
    TrainSettings,
    TrainSource,
)
from sweepft.spec.space import Dimension
from sweepft.spec.sweep import SWEEPABLE, Plan, SweepSpec, plan

__all__ = [
    "FEWEST_STEPS",
    "NAMED_SETTINGS",
    "PACKABLE",
    "SWEEPABLE",
    "Budget",
    "CheckpointEvery",
    "Confirm",
    "Curriculum",
    "Data",
    "Dimension",
    "EarlyStop",
    "Evaluate",
    "Faults",
    "Finalists",
    "HarnessTask",
    "HeldOut",
    "Keep",
    "Limit",
    "Lora",
    "MicroTokens",
    "Mirror",
    "MlflowTrack",
    "Model",
    "MtBench",
    "NamedSetting",
    "Optimizer",
    "Plan",
    "Resources",
    "Search",
    "SweepSpec",
    "TestSource",
    "Track",
    "Train",
    "TrainSettings",
    "TrainSource",
    "WandbTrack",
    "WarmupSteps",
    "check_budget",
    "domain_faults",
    "dump",
    "from_dict",
    "is_hub_id",
    "is_template_file",
    "json_schema",
    "load",
    "of_data",
    "packing_note",
    "plan",
    "reference",
    "setting_text",
]
