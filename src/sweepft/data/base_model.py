"""Check the base model and the adapters on it before any GPU is used, on a skeleton without weights.

transformers builds the model on the meta device and maps the names in the weight files; peft attaches each adapter that
a trial can have. What either refuses, a rank would refuse as well, hours later.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sweepft.data.weight_files import weight_names
from sweepft.errors import DataError, Problem
from sweepft.spec.base_model import config_problems
from sweepft.spec.sections import Lora, Model
from sweepft.spec.sweep import SweepSpec

_KEY: Final = "model.path"
_SHOWN: Final = 3


def check_base_model(spec: SweepSpec, new_ids: Sequence[int]) -> tuple[str, ...]:
    """Refuse a base model, or adapters on it, that cannot be trained and exported.

    Args:
        spec: The sweep.
        new_ids: Ids of tokens that the base model has never seen.
    Returns:
        Warnings, one sentence each.
    Raises:
        DataError: With every problem found.
    """
    skeleton, problems = _skeleton(spec.model)
    info: Mapping[str, Any] = {}
    if not problems and skeleton is not None:
        info = _loading_info(spec.model)
        problems = [
            *_weight_problems(spec.model, info),
            *_adapter_problems(spec, skeleton, new_ids),
            *_whole_problems(spec.train.lora, skeleton),
        ]
        if not problems and spec.train.lora is not None and spec.train.lora.quantize:
            problems += _quantizer_problems(spec.train.lora, skeleton)
    if problems:
        raise DataError(problems)
    return (*_not_loaded(spec.model, skeleton, info), *_not_trained(skeleton))


def _not_loaded(model: Model, skeleton: Any, info: Mapping[str, Any]) -> Iterator[str]:
    """Weights in the files that the model has no place for: a vision part, layers that predict further tokens."""
    groups = [sorted(info.get("unexpected_keys", ()))]
    own = [name for name, _ in skeleton.named_parameters()] if skeleton is not None else []
    for pattern in getattr(skeleton, "_keys_to_ignore_on_load_unexpected", None) or ():
        if not any(re.search(pattern, name) for name in own):
            groups.append(sorted(name for name in weight_names(Path(model.path)) if re.search(pattern, name)))
    for names in groups:
        weights = [name for name in names if name.endswith(".weight")]  # the rest are computed tables
        if weights:
            more = f" and {len(weights) - 1} more" if len(weights) > 1 else ""
            yield (
                f"transformers loads no part of the model for {weights[0]}{more}: these weights are neither trained "
                "nor exported"
            )


def _not_trained(skeleton: Any) -> Iterator[str]:
    """A loss that the model's config asks for, and that is not part of the training loss."""
    if skeleton is None:
        return
    for config in {id(c): c for c in (skeleton.config, skeleton.config.get_text_config())}.values():
        if getattr(config, "output_router_logits", None) is True:
            weight = getattr(config, "router_aux_loss_coef", None)
            yield (
                "config.json asks for the load-balancing loss of the experts' router (output_router_logits: true"
                + (f", router_aux_loss_coef: {weight:g}" if isinstance(weight, int | float) else "")
                + "), which is not computed: trials learn the answers alone. To keep the routing as it is, train "
                "adapters on other layers (train.lora.target_modules); set output_router_logits: false to accept it"
            )
            return


def _skeleton(model: Model) -> tuple[Any, list[Problem]]:
    """The model on the meta device; None where only a rank can build it (code of the model's own)."""
    import torch
    from transformers import (
        MODEL_FOR_CAUSAL_LM_MAPPING,
        MODEL_FOR_MASKED_LM_MAPPING,
        AutoConfig,
        AutoModelForCausalLM,
    )

    where = {"revision": model.revision, "trust_remote_code": model.trust_remote_code}
    config = AutoConfig.from_pretrained(model.path, **{k: v for k, v in where.items() if v is not None})
    remote = model.trust_remote_code and "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    problems = [Problem(model.path, _KEY, *found) for found in config_problems(config.to_dict())]
    another = "name a causal language model (AutoModelForCausalLM)"
    if problems:
        return None, problems
    if not remote and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        rule = f"a {config.model_type} model is not a causal language model that transformers can load"
        problems.append(Problem(model.path, _KEY, rule, another, type(config).__name__))
    elif type(config) in MODEL_FOR_MASKED_LM_MAPPING and getattr(config, "is_decoder", None) is False:
        rule = f"a {config.model_type} model attends to later tokens, so that its loss means nothing here"
        problems.append(Problem(model.path, _KEY, rule, another, type(config).__name__))
    if problems:
        return None, problems
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code), []
    except Exception as error:  # whatever a model's constructor raises
        if remote:
            return None, []
        rule = f"the model cannot be built from its config.json: {_first_line(error)}"
        return None, [Problem(model.path, _KEY, rule, "check config.json, or name another model")]


def _loading_info(model: Model) -> Mapping[str, Any]:
    """What transformers says of the weight files; nothing of those on the hub, or pickled: a rank loads them."""
    from transformers import AutoModelForCausalLM

    if not any(Path(model.path).glob("*.safetensors")):
        return {}
    with _quiet():
        _, info = AutoModelForCausalLM.from_pretrained(
            model.path,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            device_map="meta",
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    return dict(info)


def _weight_problems(model: Model, info: Mapping[str, Any]) -> Iterator[Problem]:
    """Weights that the model has and its files lack; transformers would fill them with random numbers."""
    if not info:
        return
    shapes = [key[0] if isinstance(key, tuple) else key for key in info["mismatched_keys"]]
    for names, what in ((info["missing_keys"], "lack"), (shapes, "have another shape for")):
        if names:
            shown = ", ".join(sorted(names)[:_SHOWN])
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            rule = f"the weight files {what} {shown}{more}, so that training would start from random numbers there"
            remedy = "name a complete causal language model; check that all its files are there and match config.json"
            yield Problem(model.path, _KEY, rule, remedy)


def _adapter_problems(spec: SweepSpec, skeleton: Any, new_ids: Sequence[int]) -> Iterator[Problem]:
    """What is wrong with the adapters that trials can have."""
    for key, lora in _adapters(spec):
        problems = list(_target_problems(key, lora, skeleton, new_ids))
        if not problems:
            problems = list(_peft_problems(key, lora, skeleton, new_ids))
        yield from problems


def _adapters(spec: SweepSpec) -> list[tuple[str, Lora]]:
    """Adapters that differ in what a model can refuse, with the spec's key for their target modules."""
    if spec.train.lora is None and not any(key.split(".")[0] == "lora" for key in spec.search.space):
        return []
    fixed = spec.train.lora or Lora()
    found = []
    for path, targets in spec.search.candidates("lora.target_modules", fixed.target_modules):
        dropouts = [value for _, value in spec.search.candidates("lora.dropout", fixed.dropout)]
        lora = Lora(
            target_modules=targets, dropout=max(dropouts), rank=1, modules_to_save=fixed.modules_to_save
        )
        found.append((".".join(map(str, path)), lora))
    return found


def _target_problems(key: str, lora: Lora, skeleton: Any, new_ids: Sequence[int]) -> Iterator[Problem]:
    import torch
    from transformers.pytorch_utils import Conv1D

    modules = dict(skeleton.named_modules())
    output = skeleton.get_output_embeddings()
    tied = output is not None and output.weight is skeleton.get_input_embeddings().weight
    for target in () if isinstance(lora.target_modules, str) else lora.target_modules:
        matched = [m for name, m in modules.items() if name == target or name.endswith(f".{target}")]
        if not matched and not _is_fused(target, lora, skeleton):
            linear = {
                n.rpartition(".")[2] for n, m in modules.items() if isinstance(m, torch.nn.Linear | Conv1D)
            }
            remedy = f"name layers of the model: {', '.join(sorted(linear))}; or write all-linear"
            yield Problem("train", key, "the model has no layer of this name", remedy, target)
        elif any(isinstance(m, torch.nn.Embedding) for m in matched):
            remedy = "leave it out; to train embeddings, name them in train.lora.modules_to_save"
            yield Problem("train", key, "embeddings get no adapters", remedy, target)
        elif new_ids and not tied and any(m is output for m in matched):
            remedy = "leave it out, or use a template without new tokens (model.chat_template: plain)"
            rule = "the output layer cannot have an adapter while its rows for added tokens are trained"
            yield Problem("train", key, rule, remedy, target)
    if new_ids and not tied and getattr(output, "bias", None) is not None:
        rule = "the model's output layer has a bias, with which peft cannot train the rows of added tokens"
        remedy = "use a template without new tokens (model.chat_template: plain), or train without train.lora"
        yield Problem("train", key, rule, remedy)


def _whole_problems(lora: Lora | None, skeleton: Any) -> Iterator[Problem]:
    """Names of ``modules_to_save`` that no layer has; peft takes a layer by the end of its name."""
    modules = [name for name, _ in skeleton.named_modules() if name]
    for name in lora.modules_to_save if lora is not None else ():
        if not any(module.endswith(name) for module in modules):
            known = [skeleton.get_input_embeddings(), skeleton.get_output_embeddings()]
            names = [n.rpartition(".")[2] for n, m in skeleton.named_modules() if any(m is k for k in known)]
            remedy = f"name layers of the model, for example {', '.join(names)}"
            key = "train.lora.modules_to_save"
            yield Problem("train", key, "the model has no layer of this name", remedy, name)


_LEAST_QUANTIZED: Final = 0.9


def _quantizer_problems(lora: Lora, skeleton: Any) -> Iterator[Problem]:
    """Matrices that bitsandbytes leaves in 16 bits, where they are more than a small part of the model.

    It quantizes plain linear layers. Embeddings, the output layer and layers that are trained whole stay as they are
    in any model; fused weights of mixture-of-experts layers are no linear layers.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    apart = [skeleton.get_output_embeddings()]
    apart += [m for m in skeleton.modules() if isinstance(m, torch.nn.Embedding)]
    apart += [m for name, m in skeleton.named_modules() if name.endswith(tuple(lora.modules_to_save))]
    meant = {id(p) for module in apart if module is not None for p in module.parameters()}
    quantized = {
        id(m.weight) for m in skeleton.modules() if type(m) is torch.nn.Linear or isinstance(m, Conv1D)
    }
    matrices = [(n, p) for n, p in skeleton.named_parameters() if p.dim() >= 2 and id(p) not in meant]
    left = {name: p.numel() for name, p in matrices if id(p) not in quantized}
    share = sum(left.values()) / max(1, sum(p.numel() for _, p in matrices))
    if not matrices or share > 1 - _LEAST_QUANTIZED:
        shown = ", ".join(sorted(left, key=lambda name: -left[name])[:_SHOWN]) or "all of them"
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        rule = (
            f"bitsandbytes quantizes plain linear layers only, and {share:.0%} of the model's matrices are none: "
            f"{shown}{more} would stay in 16 bits"
        )
        remedy = "remove train.lora.quantize, or name a model without fused mixture-of-experts weights"
        yield Problem("train", "train.lora.quantize", rule, remedy, lora.quantize)


def _is_fused(target: str, lora: Lora, skeleton: Any) -> bool:
    """Whether peft knows a name as a part of fused mixture-of-experts weights, which it then adapts as a whole."""
    from peft import LoraConfig
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    config = LoraConfig(target_modules=list(lora.target_modules))
    try:
        convert_peft_config_for_transformers(config, model=skeleton, conversions=None)
    except ValueError:  # only a part of what is fused: peft says so when the adapter is attached
        return True
    return target not in (config.target_modules or ())


def _peft_problems(key: str, lora: Lora, skeleton: Any, new_ids: Sequence[int]) -> Iterator[Problem]:
    """Attach the adapter to a copy of the skeleton."""
    import copy

    from peft import LoraConfig, get_peft_model

    targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
    config = LoraConfig(
        r=1,
        lora_dropout=lora.dropout,
        target_modules=targets,
        modules_to_save=list(lora.modules_to_save) or None,
        task_type="CAUSAL_LM",
    )
    try:
        with _quiet():
            get_peft_model(copy.deepcopy(skeleton), config, autocast_adapter_dtype=False)
    except Exception as error:  # peft has no error class of its own for most of these
        if "lora_dropout" in str(error):
            rule = "adapters on fused mixture-of-experts weights have no dropout"
            remedy = (
                "set train.lora.dropout: 0, or name layers outside the experts in train.lora.target_modules"
            )
            yield Problem("train", key.replace("target_modules", "dropout"), rule, remedy, lora.dropout)
        else:
            remedy = "name other layers in target_modules, or write all-linear"
            yield Problem(
                "train", key, f"peft cannot adapt these layers: {_first_line(error)}", remedy, targets
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' warnings and progress bars: what matters becomes a problem."""
    import warnings

    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
