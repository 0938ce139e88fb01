"""When a slot takes an error for the trial's own, which new ranks or another slot would raise too."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sweepft.errors import EnvironmentFault, RankDied, RankFailed, RankHung, RankOutOfMemory
from sweepft.evaluation import EvalTask
from sweepft.slot.checkpoints import CheckpointPolicy, mark_paused, request_pause
from sweepft.slot.eval_run import EvalRun
from sweepft.slot.group import failed_gpus, failed_nodes
from sweepft.slot.jobs import EvalItem, Judging, ObjectiveTask, TrialJob, to_tune_config
from sweepft.slot.state import PhaseClock, SlotConfig, SlotState
from sweepft.slot.trainable import ErrorMemory, Slot
from sweepft.slot.weight_retention import KeepPolicy

RAISED = RankFailed("run: rank 0 raised ValueError: no")


@pytest.mark.parametrize(
    ("before", "now", "at", "own"),
    [
        (None, RAISED, 3, False),
        (RAISED, RAISED, 3, True),
        (RAISED, RankFailed("run: rank 1 raised ValueError: no"), 3, True),  # all raise it, any is seen first
        (RAISED, RAISED, 4, False),
        (RAISED, RankFailed("run: rank 0 raised ValueError: other"), 3, False),
        (RankDied("run: rank 0 died"), RankDied("run: rank 0 died"), 3, False),
    ],
)
def test_error_memory__same_error_at_same_point_repeats(before, now, at, own):
    errors = ErrorMemory()
    if before is not None:
        assert not errors.repeats(before, 3)
    assert errors.repeats(now, at) == own


def failing(node: str) -> RankFailed:
    error = RankFailed("run: rank 1 raised RuntimeError: broken")
    error.method, error.ranks, error.nodes, error.gpus = "run", (1,), (node,), ((node, "3"),)
    return error


class Ranks:
    """Of two nodes; ``sick`` holds the samples from which on a trial of each learning rate fails, if it does."""

    def __init__(self, config: Any, sick: dict[float, int]) -> None:
        self.config, self.sick = config, sick
        self.name, self.nodes, self.clock = "slot", ("n1", "n2"), PhaseClock()
        self.gpus: list[Any] = []
        self.checkpoint_seconds: dict[str, float] | None = None
        self.asked: list[str] = []
        self.former: dict[str, Any] = {"seconds": 2.0}

    @property
    def group(self) -> Any:
        return self

    def start(self, train_config: Any) -> dict[str, Any]:
        self.rate, self.batch = train_config.learning_rate, train_config.batch_size
        return {
            "narrow": None,
            "plain_kernels": None,
            "warm": False,
            "switch_seconds": 0,
            "nodes": [],
            "from_step": 0,
        } | dict.fromkeys(("data_order", "phase_starts"))

    def run(self, until: int, timeout: float, hang_seconds: float = 60.0) -> dict[str, Any]:
        if until >= self.sick.get(self.rate, until + 1):
            raise failing("n2")
        steps = {"step": [until // self.batch], "samples_seen": [until], "seconds": [1.0]}
        return {"history": steps, "seconds": 1.0, "waited": 0.0, "diverged": None, "blocks": []}

    def evaluate(self, timeout: float) -> dict[str, Any]:
        return {"objective": 1.0, "sets": {}, "seconds": 1.0}

    def measure(self, task: EvalTask, metric: str, tokenizer: str, timeout: float) -> dict[str, Any]:
        self.asked.append(f"measure {task.name} by {task.batch_size}")
        if task.batch_size is None or task.batch_size > 2:
            raise RankOutOfMemory("measure: rank 0 raised OutOfMemoryError")
        return {"value": 0.25, "stderr": 0.1, "items": 9, "residuals": [0.75, -0.75], "seconds": 2.0}

    def halve_task_batch(self, name: str) -> str | None:
        return SlotState.halve_task_batch(self, name)  # type: ignore[arg-type]

    def save(self, folder: str, timeout: float) -> dict[str, Any]:
        self.asked.append(f"save {Path(folder).name}")
        return {
            "seconds": 0.5,
            "bytes": 1,
            "former": self.former if len(self.asked) > 1 else {"seconds": 0.0},
        }

    def settle_checkpoint(self, timeout: float, *, cancel: bool) -> dict[str, Any]:
        self.asked.append("give up" if cancel else "wait")
        return {"seconds": 2.0}

    def close_ranks(self) -> None:
        """Nothing to end."""


def slot_with(folder: Path, sick: dict[float, int], policy: Any = "none", **job: Any) -> Slot:
    """A slot between its jobs and `Ranks`."""
    config = SimpleNamespace(
        engine=SimpleNamespace(budget_samples=400, rungs=(0.25, 0.5), micro_batch=1),
        checkpoints=CheckpointPolicy(str(folder), policy), at_best=False, keep=KeepPolicy("", "", 0),
        objective=None, measured=(), patience=60.0, hang_seconds=5.0, max_faults=2,
    )  # fmt: skip
    slot = Slot.__new__(Slot)
    slot._state = Ranks(config, sick)  # type: ignore[assignment]
    given: Any = {"train_config": settings(0.1)} | job
    slot._take(to_tune_config(TrialJob("t000", 0, {}, **given)))
    return slot


def settings(rate: float) -> Any:
    return SimpleNamespace(batch_size=4, learning_rate=rate, warmup_steps=0, planned_steps=100)


@pytest.mark.parametrize(
    ("sick", "own"),
    [
        ({0.1: 4}, True),
        ({0.1: 4, 0.2: 4}, False),
        ({0.1: 20, 0.2: 8}, False),  # a GPU that fails under load, not at the first step
    ],
)
def test_slot__another_trial_shows_whether_slot_or_settings_are_the_cause(
    tmp_path: Path, sick: dict[float, int], own: bool
) -> None:
    slot = slot_with(tmp_path, sick, proven=settings(0.2))
    if own:
        assert "broken" in slot.step()["failed"]
        return
    with pytest.raises(EnvironmentFault) as caught:
        slot.step()
    assert (caught.value.certain, caught.value.control_failed, caught.value.nodes) == (True, True, ("n2",))
    assert caught.value.gpus == (("n2", "3"),)


def test_slot__a_trial_that_reported_elsewhere_is_not_failed_by_another_slot(tmp_path: Path) -> None:
    """A slot is lost, its trial goes to a node whose ranks always fail: it must run on a third one."""
    slot = slot_with(tmp_path, {0.1: 4}, reported_samples=200, proven=settings(0.2))
    with pytest.raises(EnvironmentFault) as caught:
        slot.step()
    assert (caught.value.certain, caught.value.nodes) == (True, ("n2",))
    assert caught.value.gpus == (("n2", "3"),)
    own = slot_with(tmp_path, {0.1: 220}, reported_samples=200, proven=settings(0.2))
    assert "broken" in own.step()["failed"], "it has come further than before"


def asked_of(slot: Slot) -> list[str]:
    return slot._state.asked  # type: ignore[attr-defined]


def steps_until(slot: Slot, rung: float) -> dict[str, Any]:
    while (result := slot.step()).get("rung") != rung:
        pass
    return result


def test_slot__waits_for_a_checkpoint_where_it_is_needed(tmp_path: Path) -> None:
    slot = slot_with(tmp_path, {}, "rungs")
    steps_until(slot, 0.5)
    assert asked_of(slot) == ["save 100"], "a checkpoint is begun with the training after its rung"
    assert steps_until(slot, 1.0)["faults"] == []
    assert asked_of(slot) == ["save 100", "save 200", "wait"], "the end of the trial waits"
    state: Any = slot._state
    assert state.checkpoint_seconds == {"stalled": 0.5, "written": 2.0}


def test_slot__gives_up_the_checkpoint_of_a_trial_that_was_stopped(tmp_path: Path) -> None:
    slot = slot_with(tmp_path, {}, "rungs")
    steps_until(slot, 0.25)
    slot.step()
    slot.reset_config(to_tune_config(TrialJob("t001", 1, {}, settings(0.1))))
    assert asked_of(slot) == ["save 100", "give up"]
    steps_until(slot, 0.25)
    slot.step()
    mark_paused(tmp_path / "t001")
    slot.reset_config(to_tune_config(TrialJob("t002", 2, {}, settings(0.1))))
    assert asked_of(slot)[2:] == ["save 100", "wait"], "a paused trial needs it"


def test_slot__pauses_once_the_checkpoint_is_complete_and_notes_one_that_failed(tmp_path: Path) -> None:
    slot = slot_with(tmp_path, {}, "rungs")
    state: Any = slot._state
    state.former = {"seconds": 1.0, "skipped": "disk full"}
    steps_until(slot, 0.25)
    slot.step()
    request_pause(tmp_path, True)
    result = slot.step()
    assert (result["paused"], asked_of(slot)[0], asked_of(slot)[-1]) == (True, "save 100", "wait")
    assert [(fault["error"], fault["message"]) for fault in result["faults"]] == [
        ("StateNotWritten", "disk full")
    ]


def test_failed_nodes__names_one_node_where_one_rank_is_the_cause() -> None:
    nodes = ("n1", "n2", "n2")
    assert failed_nodes(failing("n2"), nodes) == ("n2",)
    for method, expected in (("connect", ("n1", "n2")), ("start", ("n1",))):
        error = RankFailed("cannot be reached")
        error.method, error.ranks = method, (0,)
        assert failed_nodes(error, nodes) == expected
    died = RankDied("connect: rank 2 died")
    died.method, died.ranks = "connect", (2,)
    assert failed_nodes(died, nodes) == ("n2",)
    assert failed_nodes(RankFailed("no rank is known"), nodes) == ("n1", "n2")


def test_failed_gpus__are_those_of_the_ranks_that_failed() -> None:
    places = [{"node": "n1", "gpus": ["0"]}, {"node": "n2", "gpus": ["GPU-5c"]}, {"node": "n2", "gpus": []}]
    assert failed_gpus(failing("n2"), places) == (("n2", "GPU-5c"),)
    hung = RankHung("connect: rank 0 gave no answer")
    hung.method, hung.ranks = "connect", (0,)
    assert failed_gpus(hung, places) == (("n1", "0"), ("n2", "GPU-5c")), (
        "ranks that cannot meet wait for each other"
    )
    assert failed_gpus(failing("n2"), []) == (), "before the ranks have said where they are"


def a_task(name: str, place: str, batch_size: int | None = 1, **fields: Any) -> ObjectiveTask:
    return ObjectiveTask(EvalTask(name, batch_size=batch_size, place=f"{place}.task"), "acc", "", **fields)


def slot_with_task(folder: Path, *, batch_size: int | None = 1, **job: Any) -> Slot:
    """A slot whose trials are judged by a task."""
    return slot_that_measures(folder, objective=a_task("maths", "objective.maximize", batch_size), **job)


def slot_that_measures(
    folder: Path,
    *,
    objective: ObjectiveTask | None = None,
    measured: tuple[ObjectiveTask, ...] = (),
    bounded: tuple[str, ...] = (),
    **job: Any,
) -> Slot:
    """A slot whose trials are measured on tasks."""
    slot = slot_with(folder, {}, **job)
    fields = vars(slot._state.config) | {"shape": SimpleNamespace(gpus=0), "log_dir": ""}
    fields |= {"objective": objective, "measured": measured, "keep": KeepPolicy("", "", 0, bounded=bounded)}
    slot._state.config = SlotConfig(**fields)
    return slot


@pytest.mark.parametrize(("rungs", "at"), [(None, [0.25, 0.5, 1.0]), ((0.5,), [0.5, 1.0]), ((), [1.0])])
def test_slot__task_is_measured_where_it_is_due_and_at_the_end(
    tmp_path: Path, rungs: tuple[float, ...] | None, at: list[float]
) -> None:
    slot = slot_with_task(tmp_path, objective_rungs=rungs)
    found = {rung: steps_until(slot, rung) for rung in (0.25, 0.5, 1.0)}
    assert [rung for rung, result in found.items() if "objective" in result] == at
    assert all("eval_sets" in result for result in found.values()), "validation losses come at every rung"
    last = found[1.0]
    assert (last["objective"], last["objective_stderr"], last["objective_task"]["items"]) == (0.25, 0.1, 9)
    assert last["phase_seconds"]["evaluate"] == 3.0, "both evaluations"


@pytest.mark.parametrize("sizes", [(8, 4, 2), (None, 8, 4, 2)])
def test_slot__a_task_that_runs_out_of_memory_takes_smaller_batches(
    tmp_path: Path, sizes: tuple[int | None, ...]
) -> None:
    slot = slot_with_task(tmp_path, batch_size=sizes[0])
    found = steps_until(slot, 0.25)
    assert asked_of(slot) == [f"measure maths by {size}" for size in sizes]
    actions = [fault["action"] for fault in found["faults"]]
    assert actions == [
        f"objective.maximize.batch_size {a or 'auto'} -> {b}" for a, b in itertools.pairwise(sizes)
    ]
    assert slot._state.config.engine.micro_batch == 1, "training is not touched"
    steps_until(slot, 0.5)
    assert asked_of(slot)[len(sizes) :] == ["measure maths by 2"], "later measurements begin there"


def test_eval_run__every_part_takes_smaller_batches_after_running_out_of_memory() -> None:
    task, judging = EvalTask("gsm8k"), Judging(None, "", "", None)  # type: ignore[arg-type]
    parts = (
        EvalItem("mt_bench", "mt_bench", "", judging=judging), EvalItem("task", "gsm8k", "", task=task),
        EvalItem("measured", "own", "", measured=a_task("own", "objective")), EvalItem("test", "test", ""),
    )  # fmt: skip
    for first, size, action in ((0, 8, "auto -> 8"), (1, 8, "auto -> 8"), (2, None, None), (3, None, None)):
        run = EvalRun(None, SimpleNamespace(name="eval-t000", items=parts[first:]))  # type: ignore[arg-type]
        assert run.save_memory() == (action and f"evaluate.batch_size {action}")
        batched = [item.judging or item.task for item in run._items if item.judging or item.task]
        assert {one.batch_size for one in batched} <= {size}
        assert all(item.measured.task.batch_size == 1 for item in run._items if item.measured), "never raised"
    assert run.save_memory() is None, "a token set has micro-batches of its own"


def test_slot__further_tasks_are_measured_where_they_are_due(tmp_path: Path) -> None:
    gsm, errors = a_task("gsm", "objective.measure.0"), a_task("errors", "o", higher_is_better=False)
    slot = slot_that_measures(tmp_path, measured=(gsm, errors), objective_rungs=(0.5,))
    found = {rung: steps_until(slot, rung) for rung in (0.25, 0.5, 1.0)}
    assert [result["objective"] for result in found.values()] == [1.0, 1.0, 1.0], "the validation loss"
    assert "eval_tasks" not in found[0.25]
    shown = {"value": 0.25, "stderr": 0.1, "items": 9, "seconds": 2.0}
    for rung in (0.5, 1.0):
        assert found[rung]["eval_tasks"] == {
            "gsm": shown | {"higher_is_better": True, "cost": -0.25},
            "errors": shown | {"higher_is_better": False, "cost": 0.25},
        }
    assert found[1.0]["phase_seconds"]["evaluate"] == 1.0 + 2 * 2.0


@pytest.mark.parametrize("bounded", [(), ("maths",)])
def test_slot__a_bounded_objective_is_measured_once(tmp_path: Path, bounded: tuple[str, ...]) -> None:
    slot = slot_that_measures(tmp_path, objective=a_task("maths", "o"), bounded=bounded)
    found = steps_until(slot, 0.25)
    assert found["objective"] == 0.25
    costs = {name: (one["cost"], one["seconds"]) for name, one in found.get("eval_tasks", {}).items()}
    assert costs == dict.fromkeys(bounded, (-0.25, 0.0))
    assert asked_of(slot) == ["measure maths by 1"]


def test_slot__a_further_task_that_runs_out_of_memory_takes_smaller_batches(tmp_path: Path) -> None:
    tasks = a_task("a", "objective.measure.0", 2), a_task("b", "objective.measure.1", 4)
    slot = slot_that_measures(tmp_path, measured=tasks)
    found = steps_until(slot, 0.25)
    assert [fault["action"] for fault in found["faults"]] == ["objective.measure.1.batch_size 4 -> 2"]
    assert [one.task.batch_size for one in slot._state.config.measured] == [2, 2]
