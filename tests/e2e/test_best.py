"""The winner trained again from ``best/``: equal results from sweepft, and equal up to rounding from the plain script."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import transformers
from click.testing import CliRunner
from rich.console import Console

from support.exported_script import run_script
from support.sweeps import run_spec, write_spec
from sweepft.cli.main import cli
from sweepft.driver.train_alone import spec_of, train_alone
from sweepft.errors import SweepftError
from sweepft.ledger import winner

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def finished(ray_here, tiny_model_dir, tiny_data_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    space = {"learning_rate": {"log_uniform": [1.0e-4, 1.0e-2]}, "batch_size": {"choice": [8, 12]}}
    start = [{"learning_rate": 3.0e-3, "batch_size": 12}]
    train = {"warmup": 0.2, "schedule": "cosine", "min_lr_ratio": 0.1, "gradient_clipping": 0.5}
    spec = write_spec(
        folder, tiny_model_dir, tiny_data_file,
        train={"budget": {"samples": 100}, "optimizer": {"weight_decay": 0.1}} | train,
        search={"trials": 3, "start_with": start, "space": space},
    )  # fmt: skip
    return folder / "run", run_spec(spec, folder / "run")


def assert_same_weights(one, other):
    """Both folders load, and hold the same model."""
    a, b = (transformers.AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (one, other))
    assert a.keys() == b.keys()
    assert all((a[name] - b[name]).abs().max() < 1e-3 for name in a)


@pytest.mark.full
@pytest.mark.parametrize("ranks", [1, 2])
def test_export__script_meets_the_trials_losses(finished, tmp_path, ranks):
    _, done = finished
    losses, validation = run_script(done.best, tmp_path / "out", ranks)
    assert losses == pytest.approx(winner(done.view).history["loss"].tolist(), abs=1e-4)
    assert validation["own"] == pytest.approx(winner(done.view).objective, abs=1e-4)
    assert_same_weights(tmp_path / "out", done.best)
    for name in ("generation_config.json", "chat_template.jinja", "tokenizer.json"):
        assert (tmp_path / "out" / name).read_text() == (done.best / name).read_text()


@pytest.mark.full
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning:peft")
def test_export__script_meets_the_losses_of_packed_adapters(
    ray_here, tiny_model_dir, tiny_data_file, tmp_path
):
    pytest.importorskip("peft")
    spec = write_spec(
        tmp_path, tiny_model_dir, tiny_data_file,
        train={"micro_batch": {"tokens": 256}, "lora": {"rank": 4, "target_modules": ["q_proj", "v_proj"]}},
        search={"trials": 2, "start_with": [{"learning_rate": 1.0e-2, "batch_size": 8}]},
    )  # fmt: skip
    done = run_spec(spec, tmp_path / "run")
    losses, validation = run_script(done.best, tmp_path / "out")
    assert losses == pytest.approx(winner(done.view).history["loss"].tolist(), abs=1e-4)
    assert validation["own"] == pytest.approx(winner(done.view).objective, abs=1e-4)
    assert_same_weights(tmp_path / "out", done.best)
    assert (tmp_path / "out/adapter/adapter_config.json").is_file()


@pytest.mark.full
def test_export__two_scripts_run_at_once(finished, tmp_path):
    _, done = finished
    with ThreadPoolExecutor(2) as both:
        one, other = both.map(lambda name: run_script(done.best, tmp_path / name), ("one", "other"))
    assert one == other


@pytest.mark.full
def test_train__best_trained_alone_gives_the_same_numbers(finished, tmp_path):
    _, done = finished
    best = winner(done.view)
    with (tmp_path / "said.txt").open("w") as said:
        alone = train_alone(done.best / "spec.yaml", (), tmp_path / "run", console=Console(file=said)).view
    alone = winner(alone)
    assert alone.history["loss"].tolist() == best.history["loss"].tolist()
    assert alone.history["lr"].tolist() == best.history["lr"].tolist()
    assert alone.objective == best.objective
    assert f"in the sweep {best.trial_id} had {best.objective:.4f}" in (tmp_path / "said.txt").read_text()


@pytest.mark.full
def test_train__any_trial_is_trained_again_by_its_name(finished, tmp_path):
    run, done = finished
    other = next(t for t in done.view.trials.values() if t.trial_id != winner(done.view).trial_id)
    with spec_of(run, other.trial_id) as path:
        alone = winner(train_alone(path, (), tmp_path / "run").view)
    went = len(other.history["loss"])  # it may have been stopped on its way
    assert alone.history["loss"][:went].tolist() == other.history["loss"].tolist()
    assert other.objective is None or alone.objective == other.objective


def test_train__refuses_a_sweep(finished, tmp_path):
    run, _ = finished
    with pytest.raises(SweepftError) as caught:
        train_alone(run / "spec.yaml", (), tmp_path / "run")
    assert caught.value.key.startswith("search.space.")


def test_report__makes_best_again_from_a_copied_folder(finished, tmp_path):
    run, done = finished
    copy = tmp_path / "copy"
    (copy / "ledger").mkdir(parents=True)
    (copy / "ledger/ledger.jsonl").write_bytes((run / "ledger/ledger.jsonl").read_bytes())
    said = CliRunner().invoke(cli, ["report", str(copy)])
    assert said.exit_code == 0, said.output
    assert not (copy / "best").exists(), "no weights, no folder"
    shutil.copytree(run / "weights", copy / "weights")
    said = CliRunner().invoke(cli, ["report", str(copy)])
    assert str(copy / "best") in said.output
    assert (copy / "best/spec.yaml").read_text() == (done.best / "spec.yaml").read_text()
