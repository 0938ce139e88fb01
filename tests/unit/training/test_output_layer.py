"""A vocabulary padded in the output layer's product changes neither losses nor what is exported."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from support.engine_material import changed, engine_config, train_config
from support.ranks import on_ranks
from support.tiny import tiny_model
from sweepft.training.output_layer import pad_output_layer

VOCAB = 389
A = train_config(batch_size=16, weight_decay=0.1, gradient_checkpointing=True)
B = changed(A, learning_rate=1e-2)


def trained(runner, trials, folder, padded):
    """Losses and norms of the trials, validation losses, the exported tensors, and how often the product was padded."""
    from sweepft.training import output_layer

    pads = []
    plain_pad = output_layer.F.pad

    def pad(tensor, sides):
        pads.append(sides)
        return plain_pad(tensor, sides)

    output_layer.pads_vocabulary = lambda device: padded
    output_layer._FEWEST_ROWS = 1
    output_layer.F.pad = pad
    numbers = []
    for trial in trials:
        runner.start(trial)
        pads.clear()
        history = runner.run(64)["history"]
        assert (pads.count((0, 0, 0, 448 - VOCAB)) > 0) == padded
        pads.clear()
        numbers.append([history["loss"], history["grad_norm"], [runner.evaluate()["objective"]]])
        assert not pads, "without gradients the weights are used as they are"
    (folder / "tokenizer").mkdir(exist_ok=True)
    runner.export(str(folder / f"weights-{padded}"), str(folder / "tokenizer"))
    return numbers


@pytest.mark.full
@pytest.mark.parametrize(
    ("stage", "ranks", "model", "trial", "packed"),
    [
        (2, 1, {}, {}, False),
        (1, 2, {"tie_word_embeddings": True}, {}, True),
        (3, 2, {}, {}, False),
        (3, 2, {}, {"lora": {"rank": 2}}, False),
        (2, 1, {}, {"lora": {"rank": 2, "modules_to_save": ["lm_head"]}}, False),
        (2, 1, {}, {"lora": {"rank": 2, "target_modules": ["q_proj", "lm_head"]}}, True),
        (0, 1, {}, {"lora": {"rank": 2, "quantize": "nf4"}}, False),
    ],
)
def test_output_layer__padded_equals_plain(tmp_path, stage, ranks, model, trial, packed):
    made = tiny_model(tmp_path / "model", vocab=VOCAB, **model)
    lora = trial.get("lora", {})
    config = engine_config(
        made, tmp_path, zero_stage=stage, packed=packed, micro_batch=60 if packed else 4,
        quantize=lora.get("quantize"), kept_whole=tuple(lora.get("modules_to_save", ())),
    )  # fmt: skip
    trials = [changed(one, **trial) for one in (A, B)]
    plain, padded = (on_ranks(trained, ranks, config, trials, tmp_path, way) for way in (False, True))
    for one, other in zip(plain, padded, strict=True):
        for expected, found in zip(one, other, strict=True):
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    kept, alike = (
        {
            (file.parent.name == "adapter", name): tensor
            for file in (tmp_path / f"weights-{way}").rglob("*.safetensors")
            for name, tensor in load_file(file).items()
        }
        for way in (False, True)
    )
    assert {name: t.shape for name, t in kept.items()} == {name: t.shape for name, t in alike.items()}
    assert VOCAB in {length for tensor in kept.values() for length in tensor.shape}
    for name, tensor in kept.items():
        assert torch.allclose(tensor, alike[name], rtol=1e-3, atol=1e-5), name


def test_output_layer__gradients_are_those_of_the_plain_product():
    torch.manual_seed(0)
    layer, plain = (torch.nn.Linear(16, 13) for _ in range(2))
    plain.load_state_dict(layer.state_dict())
    model = torch.nn.Module()
    model.get_output_embeddings = lambda: layer
    assert pad_output_layer(model)
    hidden = torch.randn(300, 16, requires_grad=True)
    other = hidden.detach().clone().requires_grad_()
    found, expected = layer(hidden), plain(other)
    assert found.shape == expected.shape
    for loss in (found.square().sum(), expected.square().sum()):
        loss.backward()
    pairs = [
        (hidden.grad, other.grad),
        (layer.weight.grad, plain.weight.grad),
        (layer.bias.grad, plain.bias.grad),
    ]
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in pairs)


@pytest.mark.parametrize(
    ("features", "expected"), [(13, True), (50_257, True), (32_001, True), (32_000, False)]
)
def test_output_layer__padded_only_where_it_pays(features, expected):
    model = torch.nn.Module()
    with torch.device("meta"):
        layer = torch.nn.Linear(4, features)
    model.get_output_embeddings = lambda: layer
    assert pad_output_layer(model) is expected


@pytest.mark.parametrize("layer", [None, torch.nn.Identity()])
def test_output_layer__others_stay(layer):
    model = torch.nn.Module()
    model.get_output_embeddings = lambda: layer
    assert not pad_output_layer(model)


@pytest.mark.gpu
def test_gpu__padded_vocabulary_equals_cpu(tmp_path):
    config = engine_config(tiny_model(tmp_path / "model", vocab=VOCAB), tmp_path)
    (tmp_path / "gpu").mkdir()
    here = on_ranks(trained, 1, config, [A], tmp_path, False)
    there = on_ranks(trained, 1, config, [A], tmp_path / "gpu", True, gpus=1)
    assert there[0][0] == pytest.approx(here[0][0], abs=1e-4)
