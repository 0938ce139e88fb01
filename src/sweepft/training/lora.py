"""Low-rank adapters on a frozen base model: attach, detach, change in place, and compare.

Rank and target modules are fixed when an adapter is built; alpha, dropout and weights can be set in place. Adapters of
one shape all start from the same seed, so that trials differ only in what is swept. Names, scales and merging are
peft's: layers that it adapts as parameters (fused mixture-of-experts weights) have a rank of their own.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from sweepft.extras import import_error
from sweepft.spec import Lora

_NAME = "default"


def attach_adapter(model: Any, lora: Lora, model_path: str, new_tokens: Sequence[int] = ()) -> Any:
    """The model with all its weights frozen and a fresh adapter attached.

    Args:
        model: A transformers model; changed in place.
        lora: Shape and scale of the adapter.
        model_path: The base model's folder or hub id, for the adapter's config.
        new_tokens: Ids of tokens that the base model has not seen. Their embeddings are trained with the adapter, in
            the output layer too where it has weights of its own; not where ``lora.modules_to_save`` trains the layer.
    Raises:
        ImportError: If ``peft`` is not installed.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise import_error("peft", "train.lora") from error
    saved = [name for name in embedding_names(model) if is_named(name, lora.modules_to_save)]
    tied = model.get_output_embeddings() is not None and len(embedding_names(model)) == 1
    rows = [name for name in embedding_names(model) if name not in saved] if new_tokens else []
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules
        if isinstance(lora.target_modules, str)
        else list(lora.target_modules),
        trainable_token_indices={name: list(new_tokens) for name in rows} or None,
        use_rslora=lora.scaling == "rslora",
        modules_to_save=list(lora.modules_to_save) or None,
        ensure_weight_tying=bool(saved) and tied,
        task_type="CAUSAL_LM",
        base_model_name_or_path=model_path,
    )
    torch.manual_seed(0)
    with _embeddings_gathered(model if rows else None):
        adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    adapted.train()
    return adapted


def detach_adapter(adapted: Any) -> Any:
    """The base model without its adapter."""
    return adapted.unload()


def set_in_place(adapted: Any, lora: Lora) -> None:
    """Set alpha, scaling and dropout of an adapter of the same shape."""
    config = adapted.peft_config[_NAME]
    config.lora_alpha, config.lora_dropout = lora.alpha, lora.dropout
    config.use_rslora = stabilized = lora.scaling == "rslora"
    # A layer with a rank of its own has an alpha in the same proportion.
    config.alpha_pattern = {
        layer: lora.alpha * (rank / lora.rank) for layer, rank in (config.rank_pattern or {}).items()
    }
    for _, layer in lora_layers(adapted):
        rank = layer.r[_NAME]
        layer.use_rslora[_NAME] = stabilized
        layer.lora_alpha[_NAME] = alpha = lora.alpha * (rank / lora.rank)
        layer.scaling[_NAME] = alpha / (math.sqrt(rank) if stabilized else rank)
        layer.lora_dropout[_NAME] = torch.nn.Dropout(lora.dropout) if lora.dropout else torch.nn.Identity()
        layer.lora_dropout[_NAME].train(layer.training)


def by_saved_name(adapted: Any, parameters: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """An adapter's parameters by the names under which peft saves them.

    Args:
        adapted: The model with its adapter.
        parameters: Its trained parameters by their names in memory, or other tensors under these names.
    """
    from peft import get_peft_model_state_dict

    every = dict(parameters)
    names: dict[int, str] = {}
    for name, parameter in adapted.named_parameters(remove_duplicate=False):
        first = names.setdefault(id(parameter), name)
        if first in every:  # layers with the same weight, trained whole, are saved under each name
            every[name] = every[first]
    found: dict[str, torch.Tensor] = get_peft_model_state_dict(
        adapted, state_dict=every, adapter_name=_NAME, save_embedding_layers=False
    )
    return found


def save_adapter(adapted: Any, trained: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the adapter as ``peft.PeftModel.from_pretrained`` loads it.

    Args:
        adapted: The model with its adapter.
        trained: The whole trained parameters by their names in memory, on the CPU.
        folder: Made here.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    saved = by_saved_name(adapted, trained)
    tensors = {name: t.clone(memory_format=torch.contiguous_format) for name, t in saved.items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    adapted.peft_config[_NAME].save_pretrained(folder)


def scales(adapted: Any) -> dict[str, tuple[int, float]]:
    """Rank and scale of each adapted layer."""
    return {name: (layer.r[_NAME], layer.scaling[_NAME]) for name, layer in lora_layers(adapted)}


def lora_layers(adapted: Any) -> list[tuple[str, Any]]:
    """The adapted layers by name."""
    from peft.tuners.lora import LoraLayer

    return [(name, module) for name, module in adapted.named_modules() if isinstance(module, LoraLayer)]


def is_named(module: str, names: Sequence[str]) -> bool:
    """Whether peft takes a module for one of ``modules_to_save``: by the end of its name."""
    return module.endswith(tuple(names))


def base_name(name: str) -> str:
    """The name of a frozen parameter, the same for adapters on any layers."""
    for inserted in (".base_layer", ".token_adapter", ".original_module"):
        name = name.replace(inserted, "")
    return name


def embedding_names(model: Any) -> list[str]:
    """The names of the input embeddings and, where it has weights of its own, of the output layer."""
    layers = [model.get_input_embeddings()]
    output = model.get_output_embeddings()
    if output is not None and output.weight is not layers[0].weight:
        layers.append(output)
    return [next(name for name, module in model.named_modules() if module is layer) for layer in layers]


def untie_adapted_output(model: Any, adapter: Path) -> None:
    """Give the output layer weights of its own if the adapter changes them: merged, it differs from the embeddings."""
    from peft import PeftConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    if len(embedding_names(model)) > 1 or model.get_output_embeddings() is None:
        return
    output = model.get_output_embeddings()
    name = next(name for name, module in model.named_modules() if module is output)
    config = PeftConfig.from_pretrained(str(adapter))
    if config.target_modules and check_target_module_exists(config, name):
        output.weight = torch.nn.Parameter(output.weight.detach().clone())
        model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False


@contextlib.contextmanager
def _embeddings_gathered(model: Any) -> Iterator[None]:
    """Whole embeddings while new rows are copied from them; ZeRO-3 may have partitioned them on loading."""
    layers = [] if model is None else [model.get_input_embeddings(), model.get_output_embeddings()]
    weights = [layer.weight for layer in layers if layer is not None and hasattr(layer.weight, "ds_id")]
    if not weights:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(list({id(w): w for w in weights}.values())):
        yield
