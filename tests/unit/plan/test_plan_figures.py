"""Steps, placement, time, disk space and warnings of a plan."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from support.errors import raises
from support.planning import shape_3b, spec_to_plan
from sweepft.errors import SweepftError
from sweepft.plan.cluster import Cluster, place, smallest_cluster
from sweepft.plan.cost import SAVED, estimated_cost, measured_cost, objective_cost
from sweepft.plan.estimate import Flags, SweepPlan, make_plan
from sweepft.plan.measure import Measured
from sweepft.plan.memory import GIB
from sweepft.plan.row_counts import RowCount
from sweepft.plan.show import show_plan
from sweepft.plan.trial_shapes import trial_count, trial_shapes
from sweepft.spec import Resources

ROOT = Path(__file__).parents[3]
TASK, OTHER = {"task": "gsm", "metric": "acc"}, {"task": "arc", "metric": "acc"}
ROWS = RowCount(100_000, 1000, 600.0, 300.0, 1024, "a test", True)


def cluster(nodes: int, per_node: int = 8) -> Cluster:
    return Cluster(nodes, per_node, 80 * GIB, gpu=True)


def planned(flags: Flags | None = None, **sections: Any) -> SweepPlan:
    return make_plan(spec_to_plan(**sections), flags or Flags(files=False, rows=100_000))


class TestTrialShapes:
    def test_trial_shapes__steps_warmup_and_rungs_by_batch_size(self) -> None:
        space = {"batch_size": {"choice": [512, 128]}, "warmup": {"choice": [0.0, {"steps": 12}]}}
        small, large = trial_shapes(spec_to_plan(search={"space": space}), 51_200)
        assert (small.batch_size, small.steps, small.micro_batches, small.warmup) == (128, 400, 8, (0, 12))
        assert (large.batch_size, large.steps, large.micro_batches, large.warmup) == (512, 100, 32, (0, 12))
        assert small.rung_steps == {"10%": 40, "25%": 100, "50%": 200}
        assert small.judged == ("10%", "25%", "50%")
        assert large.judged == ("25%", "50%")  # 10 steps at 10%, and its warmup takes 12
        assert large.judged_at_best == ("10%", "25%", "50%")

    def test_trial_shapes__packed_micro_batches_are_unknown(self) -> None:
        packed = {"budget": {"samples": 51_200}, "micro_batch": {"tokens": 16_384}}
        plan = planned(train=packed)
        assert [trial.micro_batches for trial in plan.trial_shapes] == [None] * len(plan.trial_shapes)
        assert plan.micro_batch == 16_384
        assert plan.memory is not None
        halved = planned(train=packed | {"micro_batch": {"tokens": 8192}})
        assert halved.memory is not None
        assert halved.memory.activations < plan.memory.activations
        assert planned(train=packed | {"lora": {}}).memory.states < plan.memory.states

    @given(budget=st.integers(512, 10**7), batch=st.sampled_from([16, 128, 512]))
    def test_trial_shapes__steps_cover_the_budget(self, budget: int, batch: int) -> None:
        spec = spec_to_plan(
            search={"space": {"batch_size": {"choice": [batch]}}},
            train={"budget": {"samples": budget}, "micro_batch": 4},
        )
        (trial,) = trial_shapes(spec, budget)
        assert (trial.steps - 1) * batch < budget <= trial.steps * batch

    @pytest.mark.parametrize(
        ("search", "trials"),
        [
            ({"trials": 32}, 32),
            (
                {
                    "trials": 32,
                    "space": {"batch_size": {"choice": [128, 512]}, "seed": {"int_uniform": [0, 4]}},
                },
                10,
            ),
            ({"trials": None, "sampler": "grid", "space": {"batch_size": {"choice": [128, 512]}}}, 2),
            ({"trials": None, "limit": {"hours": 2}}, None),
        ],
    )
    def test_trial_count__bounded_by_spec_and_space(self, search: dict, trials: int | None) -> None:
        assert (
            trial_count(
                spec_to_plan(search=search, train={"learning_rate": 1e-5} if "space" in search else {})
            )
            == trials
        )

    def test_space_size__continuous_space_is_infinite(self) -> None:
        assert spec_to_plan().space_size is None


class TestPlacement:
    @pytest.mark.parametrize(
        ("nodes", "ranks", "concurrent", "placement", "slots", "fit", "inside", "idle"),
        [
            (1, 8, 1, "node", 1, 1, 1, 0),
            (1, 4, 2, "node", 2, 2, 2, 0),
            (1, 4, 3, "node", 2, 2, 2, 0),  # one trial does not fit
            (2, 4, 2, "node", 2, 4, 4, 8),  # half of the GPUs idle
            (2, 6, 2, "node", 2, 2, 2, 4),  # two GPUs per node are idle
            (3, 6, 4, "node", 3, 3, 3, 6),  # the fourth trial would span the rest of three nodes
            (3, 6, 4, "any", 4, 4, 3, 0),
            (2, 16, 1, "any", 1, 1, 0, 0),  # larger than a node
            (2, 16, 1, "node", 0, 0, 0, 16),
            (1, 16, 1, "any", 0, 0, 0, 8),  # does not fit
        ],
    )
    def test_place__packs_slots_on_nodes(
        self, nodes: int, ranks: int, concurrent: int, placement: str,
        slots: int, fit: int, inside: int, idle: float,
    ) -> None:  # fmt: skip
        found = place(
            Resources(
                workers_per_trial=ranks, gpus_per_worker=1, concurrent_trials=concurrent, placement=placement
            ),
            cluster(nodes),
        )
        assert (found.slots, found.fit, found.inside_node, found.idle) == (slots, fit, inside, idle)
        assert found.across_nodes == (slots > inside)

    def test_place__half_a_gpu_per_rank(self) -> None:
        found = place(Resources(workers_per_trial=2, gpus_per_worker=0.5, concurrent_trials=8), cluster(1))
        assert (found.units_per_trial, found.slots, found.idle) == (1.0, 8, 0.0)

    @pytest.mark.parametrize(
        ("ranks", "concurrent", "nodes"), [(4, 2, 1), (4, 3, 2), (16, 1, 2), (16, 2, 4), (6, 2, 2)]
    )
    def test_smallest_cluster__holds_all_trials(self, ranks: int, concurrent: int, nodes: int) -> None:
        resources = Resources(
            workers_per_trial=ranks, gpus_per_worker=1, concurrent_trials=concurrent, placement="any"
        )
        asked = smallest_cluster(resources, 8, 80 * GIB)
        assert asked.nodes == nodes
        assert place(resources, asked).slots == concurrent


class TestTime:
    def test_estimated_cost__from_flops(self) -> None:
        """6 FLOPs per parameter and training token, 2 per validation token at each rung and the end, on four GPUs."""
        spec = spec_to_plan()
        cost = estimated_cost(
            spec, shape_3b(), ROWS, 51_200, place(spec.resources, cluster(1)), 32, peak_tflops=312, mfu=0.4
        )
        shape = shape_3b()
        each = 3e9 + shape.layers * shape.attention * 600  # attention over half a row, on average
        flops = 6 * each * 51_200 * 600 + 4 * 2 * each * 1000 * 600
        assert cost.trial_seconds == pytest.approx(flops / (4 * 312e12 * 0.4))
        assert cost.unit_hours == pytest.approx(32 * 4 * cost.trial_seconds / 3600)
        assert cost.hours == pytest.approx(16 * cost.trial_seconds / 3600)  # two at once
        low, high = cost.after_stopping(cost.unit_hours)
        most, least = (1 - share for share in SAVED["calibrated"])
        assert (low, high) == (pytest.approx(least * cost.unit_hours), pytest.approx(most * cost.unit_hours))

    def test_estimated_cost__checkpointing_adds_a_forward_pass(self) -> None:
        plain, again = (
            planned(train={"budget": {"samples": 51_200}, "micro_batch": 4, "gradient_checkpointing": c}).cost
            for c in (False, True)
        )
        assert plain is not None
        assert again is not None
        assert 1.25 < again.trial_seconds / plain.trial_seconds < 8 / 6

    def test_estimated_cost__adapters_save_gradients_and_states(self) -> None:
        train = {"budget": {"samples": 51_200}, "micro_batch": 4}
        whole, lora = planned(train=train), planned(train=train | {"lora": {"rank": 16}})
        assert whole.cost is not None
        assert lora.cost is not None
        assert lora.cost.trial_seconds / whole.cost.trial_seconds == pytest.approx(4 / 6, rel=0.02)
        states = [next(u.size for u in found.disk if "checkpoints" in u.what) for found in (whole, lora)]
        assert states[1] < 0.02 * states[0]

    def test_measured_cost__from_seconds(self) -> None:
        """A switch, the steps and evaluations at rungs and end per trial; one start per slot."""
        spec = spec_to_plan(resources={"workers_per_trial": 1, "gpus_per_worker": 0})
        found = Measured({128: 1.0, 512: 3.0}, 5.0, 10.0, 0, 4, 10, 2, switch_seconds=0.5)
        cost = measured_cost(
            spec,
            trial_shapes(spec, 51_200),
            found,
            place(spec.resources, Cluster(1, 2, GIB, gpu=False)),
            32,
            points=(0.1, 0.25, 0.5),
        )
        assert cost.trial_seconds == (400 * 1.0 + 100 * 3.0) / 2 + 4 * 5.0 + 0.5
        assert cost.unit == "slot"
        assert cost.unit_hours == pytest.approx((32 * cost.trial_seconds + 2 * 10.0) / 3600)
        assert cost.hours == pytest.approx((16 * cost.trial_seconds + 10.0) / 3600)

    @pytest.mark.parametrize(
        ("objective", "rungs"),
        [
            ({"maximize": TASK}, (0.1, 0.25, 0.5)),
            ({"maximize": TASK, "at": "best"}, (0.1, 0.25, 1 / 3, 0.5, 2 / 3)),
            ({"measure": [TASK, OTHER], "at": "best"}, (0.1, 0.25, 1 / 3, 0.5, 2 / 3)),
            ({"maximize": TASK, "at": "best", "max_share": 0.1}, (0.5, 2 / 3)),
            ({"minimize": "validation_loss", "at": "best"}, None),
        ],
    )
    def test_cost__counts_a_task_at_rungs_and_ends_of_epochs(
        self, objective: dict[str, Any], rungs: tuple[float, ...] | None
    ) -> None:
        """Three epochs: two of their ends lie before the end of the trial."""
        spec = spec_to_plan(objective={"max_share": 1.0} | objective)
        points = spec.evaluation_points(3000, 1000)
        cost = objective_cost(spec, 90.0, 3.0, points)
        unknown = objective_cost(spec, 90.0, None, points)
        if rungs is None:
            assert cost is unknown is None
            return
        assert cost is not None
        assert unknown is not None
        assert cost.rungs == pytest.approx(rungs)
        seconds = 3.0 * (len(rungs) + 1)
        assert cost.share == pytest.approx(seconds / (90.0 + seconds))
        assert (unknown.rungs, unknown.share) == (points, spec.objective.max_share)

    def test_make_plan__notes_very_short_steps(self) -> None:
        tiny = planned(Flags(files=False, rows=100_000, parameters=2_500_000))
        assert any("ms by their FLOPs" in sentence for sentence in tiny.assumptions)
        assert not any("by their FLOPs" in sentence for sentence in planned().assumptions)

    def test_show_plan__replicates_are_listed_separately(self) -> None:
        plain = planned()
        found = planned(evaluate={"tasks": ["mmlu"], "replicates": {"top": 2, "seeds": 3}})
        assert plain.cost is not None
        assert found.cost is not None
        assert plain.cost.replicate_hours == 0
        assert found.cost.replicate_hours == pytest.approx(6 * 4 * found.cost.trial_seconds / 3600)
        assert found.cost.unit_hours == plain.cost.unit_hours
        out = io.StringIO()
        show_plan(found, Console(file=out, width=80))
        text = " ".join(out.getvalue().split())
        assert "6 replicates; 10 models scored on 1 test" in text
        assert "replicates" in text.partition("Time")[2]

    def test_show_plan__says_what_counts_and_when_the_search_ends(self) -> None:
        bounds = {"gsm8k": {"at_most": 0.05, "below": "base"}, "own": {"at_most": 2.5}}
        objective = {"at": "best", "measure": [{"task": "gsm8k", "metric": "exact_match", "limit": 200}]}
        found = planned(
            objective=objective,
            search={"subject_to": bounds, "enough": {"gain": 0.01}},
            early_stop={"patience": 2},
        )
        out = io.StringIO()
        show_plan(found, Console(file=out, width=100))
        text = " ".join(out.getvalue().split())
        points = len(found.spec.evaluation_points(found.budget, found.rows.train)) + 1
        assert f"the best of a trial's {points} evaluations" in text
        assert "ends after 2 evaluations without a better one" in text
        assert "gsm8k at most 0.05 below the base model; own at most 2.5" in text
        assert "when a further trial is expected to gain less than 0.01, after 12 or more" in text
        assert not any("will refuse" in warning for warning in found.warnings)
        never = planned(objective={"at": "best"}, early_stop={"patience": 9})
        assert any("sweepft run will refuse this: early_stop.patience" in text for text in never.warnings)

    def test_estimated_cost__trials_within_the_limit(self) -> None:
        found = planned(search={"limit": {"gpu_hours": 10.0}})
        assert found.cost is not None
        each = 4 * found.cost.trial_seconds / 3600
        assert found.cost.trials_in_limit == -(-10 // each)

    def test_saved__agrees_with_the_benchmark(self) -> None:
        """Lowest and highest share over the kinds of curves in benchmarks/results/stopping.md."""
        page = (
            (ROOT / "benchmarks" / "results" / "stopping.md").read_text().partition("## What each signal")[0]
        )
        saved: dict[str, list[float]] = {}
        for rule, share in re.findall(
            r"^\| (?:peft_sft|algoperf|taskset) \| ([^|]+) \| \d+ \| ([\d.]+) ", page, re.M
        ):
            saved.setdefault(rule, []).append(float(share))
        for rule in ("median", "recipe", "asha"):
            assert SAVED[rule] == (min(saved[rule]), max(saved[rule])), rule

    def test_saved__of_the_default_rule_agrees_with_its_calibration(self) -> None:
        """Lowest and highest share over the kinds with enough runs in benchmarks/results/calibration.json."""
        cells = json.loads((ROOT / "benchmarks" / "results" / "calibration.json").read_text())["cells"]
        saved = [
            round(c["saved"], 2)
            for c in cells
            if (c["form"], c["runs"], c["asked"]) == ("as it is", 20, 0.1)
            and c["group"] in ("fine-tune", "from scratch")
            and c["kind"] != "image adapters"  # studies of seven runs
        ]
        assert SAVED["calibrated"] == (min(saved), max(saved))


class TestDisk:
    def test_disk_uses__sizes(self) -> None:
        sizes = {use.what.split(" (")[0]: use.size for use in planned().disk}
        p = 3_000_000_000
        assert sizes["checkpoints of running trials"] == 2 * 2 * 12 * p
        assert sizes["weights of the best trials"] == 2 * 2 * p
        assert sizes["base weights for resets"] == 2 * p
        assert sizes["tokenised data"] == pytest.approx(101_000 * (600 * 3 + 20), rel=0.02)

    def test_disk_uses__no_checkpoints_if_disabled(self) -> None:
        assert not any("checkpoints" in use.what for use in planned(checkpoint="none").disk)


class TestWarnings:
    def test_plan_warnings__none_for_a_good_sweep(self) -> None:
        assert planned().warnings == ()

    @pytest.mark.parametrize(
        ("sections", "flags", "words"),
        [
            ({"train": {"budget": {"samples": 10_240}, "micro_batch": 4}, "early_stop": {"rungs": [0.5]}}, {}, "batch size 512 takes 20 optimizer steps, fewer than 40"),
            ({"early_stop": {"rungs": [0.05], "min_steps": 8}}, {}, "early_stop.min_steps 8"),
            ({"early_stop": {"rungs": [0.05, 0.5], "min_steps": 8}}, {}, "512 from 50% on"),
            ({"train": {"budget": {"samples": 51_200}, "micro_batch": 4, "warmup": 0.01}}, {}, "batch size 512: a warmup of one step"),
            ({"train": {"budget": {"samples": 51_200}, "micro_batch": 4, "warmup": {"steps": 60}}}, {}, "batch size 512 warms up for 60 of 100 steps"),
            ({}, {"nodes": 2}, "8 of 16 GPUs are idle: set resources.concurrent_trials: 4"),
            ({"resources": {"concurrent_trials": 1, "workers_per_trial": 4, "gpus_per_worker": 1}}, {"nodes": 1, "gpus_per_node": 6}, "2 of 6 GPUs are idle: change workers_per_trial"),
            ({"resources": {"concurrent_trials": 3, "workers_per_trial": 4, "gpus_per_worker": 1}}, {"nodes": 1}, "2 of 3 concurrent trials fit 8 GPUs"),
            ({"resources": {"workers_per_trial": 16, "gpus_per_worker": 1}}, {"nodes": 1}, "16 x 1 = 16 GPUs on one node, the cluster has 8"),
            ({"resources": {"workers_per_trial": 16, "gpus_per_worker": 1}}, {"nodes": 2}, "no trial fits one node: a trial needs 16 x 1 = 16 CPUs"),
            ({"resources": {"workers_per_trial": 16, "gpus_per_worker": 1, "placement": "any"}}, {}, "ranks on several nodes"),
            ({}, {"cpus_per_node": 7, "nodes": 1}, "only 1 of 2 concurrent trials fit 8 GPUs and 7 CPUs (CPUs are short)"),
            ({}, {"cpus_per_node": 3}, "a trial needs 4 x 1 = 4 CPUs and 4 x 1 = 4 GPUs on one node, the cluster has 8 GPUs and 3 CPUs; lower resources.cpus_per_worker"),
            ({}, {"gpu_memory": 24.0}, "memory: a GPU needs about"),
            ({"train": {"budget": {"samples": 307_200}, "micro_batch": 4}, "early_stop": {"rungs": [0.005, 0.01]}}, {"gpu": "h100", "rows": 200_000}, "checkpoint: auto writes none: 36 GB take about 36 s"),
            ({"search": {"trials": 8}, "resources": {"workers_per_trial": 1, "gpus_per_worker": 1, "concurrent_trials": 8}}, {}, "all 8 trials are proposed before tpe"),
            ({"search": {"trials": 8}, "resources": {"workers_per_trial": 1, "gpus_per_worker": 1, "concurrent_trials": 8}}, {}, "all 8 trials run at once: calibrated"),
            ({"search": {"trials": 24}, "resources": {"workers_per_trial": 1, "gpus_per_worker": 1, "concurrent_trials": 8}}, {}, "24 trials, 8 at a time, are 3 waves"),
            ({"search": {"trials": 4}}, {}, "early_stop.min_peers is 4 of 4 trials"),
            ({"search": {"trials": 32, "space": {"batch_size": {"choice": [128, 512]}}}, "train": {"budget": {"samples": 51_200}, "micro_batch": 4}}, {}, "2 combinations, fewer than search.trials 32"),
            ({"search": {"limit": {"gpu_hours": 1.0}}}, {}, "search.limit ends the sweep after about"),
            ({"data": {"phases": [{"domains": ["a"]}, {"domains": ["b"]}]}, "search": {"space": {"batch_size": {"choice": [128, 512]}, "data.strategy": {"choice": ["stacked", "phased"]}}}}, {}, "data.strategy is swept and early_stop.rule is calibrated"),
            ({}, {"rows": 10_000}, "the budget is 5.1 passes over 10,000 rows"),
        ],
    )  # fmt: skip
    def test_plan_warnings__warns_with_a_remedy(self, sections: dict, flags: dict, words: str) -> None:
        found = planned(Flags(**{"files": False, "rows": 100_000, **flags}), **sections)
        assert any(words in warning for warning in found.warnings), found.warnings


class TestMicroBatchAuto:
    def test_micro_batch_auto__is_the_power_of_two_that_fits(self) -> None:
        train = {"budget": {"samples": 51_200}, "micro_batch": "auto"}
        found = {gib: planned(Flags(files=False, gpu_memory=gib), train=train) for gib in (40.0, 80.0)}
        assert found[40.0].micro_batch < found[80.0].micro_batch
        for gib, plan in found.items():
            twice = planned(
                Flags(files=False, gpu_memory=gib), train=train | {"micro_batch": 2 * plan.micro_batch}
            )
            assert plan.memory is not None
            assert twice.memory is not None
            assert plan.memory.total <= 0.9 * gib * GIB < twice.memory.total
            assert f"micro_batch auto is {plan.micro_batch}" in plan.assumptions

    def test_micro_batch_auto__respects_the_share_of_the_gpu(self) -> None:
        train = {"micro_batch": "auto", "zero_stage": 1, "lora": {}}
        found = {}
        for share in (1, 0.5):
            resources = {"workers_per_trial": 1, "gpus_per_worker": share, "concurrent_trials": 2}
            plan = planned(train=train, resources=resources)
            assert plan.memory is not None
            assert plan.memory.total <= 0.9 * share * plan.cluster.memory
            found[share] = plan.micro_batch
        assert found[0.5] < found[1]


class TestUnknowns:
    def test_measure__needs_a_trial_that_fits_one_node(self) -> None:
        with raises(SweepftError, "plan.measure"):
            planned(Flags(measure=True), resources={"workers_per_trial": 16, "gpus_per_worker": 1})

    def test_make_plan__trials_within_the_limit(self) -> None:
        found = planned(search={"trials": None, "limit": {"gpu_hours": 10.0}})
        assert found.trials is None
        assert found.cost is not None
        assert found.cost.trials_in_limit is not None
        each = 4 * found.cost.trial_seconds / 3600
        assert found.cost.unit_hours == pytest.approx(found.cost.trials_in_limit * each)

    def test_make_plan__budget_in_epochs_needs_rows(self) -> None:
        train = {"budget": {"epochs": 0.5}, "micro_batch": 4}
        assert planned(train=train).budget == 50_000
        with raises(SweepftError, "plan.rows"):
            planned(Flags(files=False), train=train)

    def test_make_plan__budget_in_tokens_assumes_half_are_targets(self) -> None:
        found = planned(
            Flags(files=False, tokens=500.0), train={"budget": {"tokens": 12_800_000}, "micro_batch": 4}
        )
        assert found.budget == 51_200
        assert "half of the tokens of a row have a loss" in found.assumptions

    def test_make_plan__unknown_model_size_leaves_steps(self) -> None:
        found = planned(model={"path": "org/nameless"})
        assert (found.memory, found.cost) == (None, None)
        assert found.trial_shapes
        assert any("--params" in text for text in found.assumptions)

    def test_make_plan__flags_replace_assumptions(self) -> None:
        flags = Flags(
            gpu="h100",
            gpu_memory=40,
            gpus_per_node=4,
            nodes=2,
            cpus_per_node=32,
            peak_tflops=989,
            parameters=3_200_000_000,
            tokens=400,
            rows=100_000,
            files=False,
        )
        found = make_plan(spec_to_plan(), flags)
        assert [text for text in found.assumptions if "--mfu" not in text and "parameters" not in text] == []
        assert found.rows.tokens == 400

    def test_make_plan__no_time_for_cpus(self) -> None:
        found = planned(resources={"workers_per_trial": 1, "gpus_per_worker": 0, "concurrent_trials": 1})
        assert found.cost is None
        assert found.memory is not None
        assert any("--measure" in text for text in found.assumptions)
