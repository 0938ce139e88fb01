"""Packages that not everybody needs, and the extra of sweepft that installs each.

``pip install sweepft`` is enough for the scheduler, the pruner, replays and reports. Everything that trains needs
``sweepft[run]``; single features need an extra of their own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Final

from sweepft.errors import Problem, ProblemsError

EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "run": (
        "torch", "transformers", "datasets", "deepspeed", "accelerate", "safetensors", "huggingface_hub", "ninja",
        "peft", "tensorboardX", "cmaes", "greenlet",
    ),
    "eval": ("lm_eval", "openai"),
    "8bit": ("bitsandbytes",),
    "qlora": ("bitsandbytes",),
    "liger": ("liger_kernel",),
    "dashboard": ("optuna_dashboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow",),
    "trackio": ("trackio",),
    "cluster": ("aiohttp",),  # of ray[default]
}  # fmt: skip
"""Modules by the extra that brings them."""
_OF_KEY: Final = {"train.lora.quantize": "qlora"}
"""The extra to name for a key of a spec, where several bring its module."""


class MissingPackages(ProblemsError):
    """A feature needs packages that are not installed; the message names the extra that brings them."""


def is_installed(module: str) -> bool:
    """Whether a module can be imported; it is not imported."""
    return importlib.util.find_spec(module) is not None


def missing(module: str, where: str, key: str) -> Problem | None:
    """What to say of a module that is needed, or None if it is installed.

    Args:
        module: One of `EXTRAS`.
        where: What needs it: a spec, a command.
        key: Its key in the spec, or the command's name.
    """
    if is_installed(module):
        return None
    name = module.replace("_", "-")
    return Problem(where, key, f"needs the package {name}, which is not installed", install(module, key=key))


def install(*modules: str, key: str = "") -> str:
    """The command that installs modules, by their extras.

    Args:
        *modules: Of `EXTRAS`.
        key: What needs them; some keys have an extra of their own.
    """
    if key in _OF_KEY:
        return f"pip install 'sweepft[{_OF_KEY[key]}]'"
    own = {extra: members for extra, members in EXTRAS.items() if extra not in _OF_KEY.values()}
    extras = [extra for extra, members in own.items() if set(members) & set(modules)]
    return f"pip install 'sweepft[{','.join(extras)}]'"


def require_run(command: str) -> None:
    """Refuse a command that trains, or prepares training, where ``sweepft[run]`` is not installed.

    Raises:
        MissingPackages: With the key ``packages.run``.
    """
    absent = [module for module in EXTRAS["run"] if not is_installed(module)]
    if absent:
        names = ", ".join(absent)
        rule = f"needs packages for training that are not installed: {names}"
        raise MissingPackages([Problem(command, "packages.run", rule, install(*absent))])


def import_error(module: str, key: str) -> ImportError:
    """What a rank raises where a module that its trial needs is not installed on its node."""
    return ImportError(f"{key} needs the package {module.replace('_', '-')}: {install(module, key=key)}")


def problems_of(needs: Iterable[tuple[str, str, bool]], where: str) -> list[Problem]:
    """Problems for what is needed and not installed.

    Args:
        needs: Key of a spec, the module it needs, and whether the spec uses it.
        where: The spec.
    """
    found = (missing(module, where, key) for key, module, used in needs if used)
    return [problem for problem in found if problem is not None]
