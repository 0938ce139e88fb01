"""What a wheel with [run,eval] must do on GPUs, here on CPUs: ``python zero3_finalist.py FOLDER [RANKS]``.

Ranks (two by default) load a model the way of ZeRO-3 on GPUs, which has transformers partition each weight on loading
and needs accelerate; train a trial of all weights and one of adapters; and score both on a task of the harness. Losses
must be those of the way of CPUs.
"""

import json
import multiprocessing
import sys
from pathlib import Path

import yaml


def rank_of(rank: int, world: int, port: int, listener, spec_file: Path, folder: Path, queue) -> None:
    """One rank: two trials both ways, then an exam of each of those loaded like on GPUs."""
    import deepspeed  # noqa: F401  # before transformers, as ranks do
    from transformers.integrations import HfDeepSpeedConfig

    from sweepft.evaluation import EvalTask
    from sweepft.evaluation.harness import score
    from sweepft.training.deepspeed_engine import ZeroEngine
    from sweepft.training.distributed import join
    from sweepft.training.inference import gathered_weights, plain_model
    from sweepft.training.trainer import TrialRunner

    prepared, trials, engine = material(spec_file, folder)
    device = join(rank, world, "127.0.0.1", port, 1, 0, listener=listener)
    task = EvalTask("words", (str(folder / "tasks"),), limit=8, batch_size=4)
    found = {}
    for way in ("cpu", "gpu"):
        if way == "gpu":
            ZeroEngine._partition_while_loading = lambda self, settings: HfDeepSpeedConfig(settings)
        runner = TrialRunner(engine, device)
        for name, trial in trials.items():
            runner.start(trial)
            losses = runner.run(engine.budget_samples)["history"]["loss"]
            found[way, name] = [*losses, runner.evaluate()["objective"]]
            if way == "gpu":
                with gathered_weights(runner.zero) as whole, plain_model(runner.zero) as model:
                    scores = score(model, prepared.tokenizer, task, sharded=not whole)
                runner.export(str(folder / "weights" / name), prepared.tokenizer)
                if rank == 0:
                    found["score", name] = scores["metrics"]["acc"]["value"]
        runner.close()
    queue.put((rank, found))


def material(spec_file: Path, folder: Path):
    """The prepared data, the train configs, and the ranks' config."""
    from sweepft.data import prepare
    from sweepft.driver.configs import slot_config
    from sweepft.spec import load

    spec = load(spec_file)
    prepared = prepare(spec, folder / "cache")
    engine = slot_config(spec, prepared, folder).engine
    whole = spec.train_config({"batch_size": 8}, prepared.budget_samples)
    adapters = whole.model_validate(whole.model_dump() | {"lora": {"rank": 4}})
    return prepared, {"whole": whole, "lora": adapters}, engine


def write(folder: Path) -> Path:
    """A model whose matrices are large enough to be partitioned, data, a task, and the spec."""
    import torch
    from transformers import AutoModelForCausalLM

    from sweepft.demo.skills import NEW_SKILLS, skill_rows
    from sweepft.demo.twin import twin_config, twin_tokenizer

    tokenizer = twin_tokenizer()
    torch.manual_seed(0)
    config = twin_config("llama", len(tokenizer), hidden_size=512, intermediate_size=512)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = "".join(json.dumps(row) + "\n" for row in skill_rows(NEW_SKILLS, 96, 0))
    (folder / "rows.jsonl").write_text(rows)
    (folder / "tasks").mkdir()
    items = "".join(json.dumps({"q": f"word {i}", "a": i % 2}) + "\n" for i in range(16))
    (folder / "tasks" / "items.jsonl").write_text(items)
    task = {
        "task": "words", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
        "output_type": "multiple_choice", "test_split": "test", "doc_to_text": "{{q}}", "doc_to_target": "a",
        "doc_to_choice": ["yes", "no"], "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (folder / "tasks" / "words.yaml").write_text(yaml.safe_dump(task))
    spec = {
        "name": "wheel",
        "model": {"path": str(folder / "model")},
        "data": {
            "train": [{"path": str(folder / "rows.jsonl")}],
            "validation": [{"name": "own", "fraction": 0.2}],
            "max_length": 128,
        },
        "train": {
            "budget": {"samples": 16}, "micro_batch": 4, "precision": "fp32", "zero_stage": 3,
            "learning_rate": 1e-3,
        },
        "search": {"trials": 1, "space": {"batch_size": {"choice": [8]}}},
        "early_stop": {"rule": "none"},
        "resources": {"workers_per_trial": 2, "concurrent_trials": 1},
    }  # fmt: skip
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(spec))
    return file


def main(folder: Path, world: int) -> None:
    """Run the ranks, and compare."""
    from sweepft.training.rendezvous import open_listener

    folder.mkdir(parents=True)
    spec_file = write(folder)
    material(spec_file, folder)  # once, not by each rank
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    with open_listener("127.0.0.1") as listener:
        port = listener.getsockname()[1]
        ranks = [
            context.Process(
                target=rank_of, args=(i, world, port, None if i else listener, spec_file, folder, queue)
            )
            for i in range(world)
        ]
        for process in ranks:
            process.start()
    found = dict(queue.get(timeout=900) for _ in ranks)
    for process in ranks:
        process.join(timeout=60)
    for name in ("whole", "lora"):
        cpu, gpu = found[0]["cpu", name], found[0]["gpu", name]
        assert cpu == gpu, f"{name}: losses differ: {cpu} and {gpu}"
        assert 0 <= found[0]["score", name] <= 1
        assert (folder / "weights" / name).is_dir()
        sys.stdout.write(f"{name}: loss {gpu[-1]:.4f} both ways, score {found[0]['score', name]:.2f}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), int(sys.argv[2]) if len(sys.argv) > 2 else 2)
