"""The trials a sampler learns from are bounded, and the study file is readable by Optuna."""

from __future__ import annotations

import random
from pathlib import Path

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweepft.search.samplers import SamplerHistory, sampler_for
from sweepft.search.study import open_study
from sweepft.spec import Search


def trial(number: int, value: float | None, state: TrialState = TrialState.COMPLETE) -> FrozenTrial:
    made = create_trial(value=value, state=state)
    made.number = number
    return made


@settings(deadline=None, max_examples=50)
@given(values=st.lists(st.floats(0, 10) | st.none(), max_size=60), seed=st.integers(0, 9))
def test_sampler_history__keeps_best_and_latest_in_any_order(values: list[float | None], seed: int) -> None:
    trials = [
        trial(n, v) if v is not None else trial(n, None, TrialState.FAIL if n % 2 else TrialState.PRUNED)
        for n, v in enumerate(values)
    ]
    one, other = SamplerHistory(latest=10, best=3), SamplerHistory(latest=10, best=3)
    for t in trials:
        one.add(t)
    for t in random.Random(seed).sample(trials, len(trials)):
        other.add(t)
    numbers = [t.number for t in one.trials()]
    taught = [t for t in trials if t.state != TrialState.FAIL]
    assert numbers == [t.number for t in other.trials()] == sorted(numbers)
    assert len(numbers) <= 13
    assert {t.number for t in taught[-10:]} <= set(numbers)
    best = sorted((t.value, t.number) for t in taught if t.value is not None)[:3]
    assert {n for _, n in best} <= set(numbers)
    if len(taught) <= 10:
        assert numbers == [t.number for t in taught]
    highest = SamplerHistory(latest=10, best=3, maximize=True)
    for t in trials:
        highest.add(t)
    best = sorted((-t.value, t.number) for t in taught if t.value is not None)[:3]
    assert {n for _, n in best} <= {t.number for t in highest.trials()}


def test_study__written_by_one_driver_reads_as_optunas_own(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study, storage = open_study(path, "s")
    space = {"x": optuna.distributions.FloatDistribution(0, 1)}
    for n in range(5):
        asked = study.ask(space)
        asked.report(n / 2, 3)
        asked.set_user_attr("note", "yes")
        study.tell(asked, float(n)) if n else study.tell(asked, state=TrialState.FAIL)
    theirs = optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))
    again, _ = open_study(path, "s")
    assert study.trials == theirs.trials == again.trials
    assert storage.get_all_trials(0, deepcopy=False, states=(TrialState.FAIL,)) == study.trials[:1]


def test_study__sampler_sees_only_the_trials_shown() -> None:
    study, storage = open_study(None, "s")
    for n in range(4):
        study.add_trial(create_trial(value=float(n)))
    few = study.trials[1:3]
    with storage.showing(few):
        assert study.get_trials(deepcopy=False) == few
    assert len(study.trials) == 4


def test_tpe__reads_parameters_of_trials_as_optuna_does() -> None:
    """Ours takes for granted that every trial has every parameter; Optuna's own asks."""
    space = {
        "lr": optuna.distributions.FloatDistribution(1e-5, 1e-3, log=True),
        "size.index": optuna.distributions.IntDistribution(0, 5),
        "schedule": optuna.distributions.CategoricalDistribution(("linear", "cosine", None)),
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    for _ in range(20):
        study.tell(study.ask(space), 1.0)
    study.ask(space)
    ours = sampler_for(
        Search.model_construct(space={}, sampler="tpe", seed=0, trials=None), 0, 0, parallel=True, space=space
    )
    theirs = optuna.samplers.TPESampler(seed=0)
    for trials in (study.trials, []):
        one, other = (s._get_internal_repr(trials, space, study) for s in (ours, theirs))
        assert {k: (v.dtype, v.tolist()) for k, v in one.items()} == {
            k: (v.dtype, v.tolist()) for k, v in other.items()
        }
