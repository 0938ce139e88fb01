"""The section that says which other tools get a copy of the curves."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sweepft.spec.fields import Section, broken

__all__ = ["MlflowTrack", "Track", "WandbTrack"]


def _without_password(uri: str) -> str:
    try:
        password = urlsplit(uri).password
    except ValueError:
        raise broken("must be an address", "for example sqlite:////data/mlflow.db") from None
    if password is not None:
        raise broken("must hold no password", "give the address in the environment: MLFLOW_TRACKING_URI")
    return uri


class WandbTrack(Section):
    """Weights & Biases: a run for every trial, grouped by sweep; `{}` takes all defaults. Needs `pip install
    'sweepft[wandb]'`; the key comes from the environment (`WANDB_API_KEY`) or `wandb login`."""

    project: Annotated[str, Field(min_length=1)] | None = None
    """Project; by default `WANDB_PROJECT`, else the sweep's name."""
    entity: Annotated[str, Field(min_length=1)] | None = None
    """User or team; by default `WANDB_ENTITY`, else your own."""
    mode: Literal["online", "offline"] | None = None
    """`offline` writes to the run folder's `wandb/` only, for `wandb sync`; by default `WANDB_MODE`, else `online`."""


class MlflowTrack(Section):
    """MLflow: a run for every trial, in one experiment; `{}` takes all defaults. Needs `pip install
    'sweepft[mlflow]'`."""

    tracking_uri: Annotated[str, Field(min_length=1), AfterValidator(_without_password)] | None = None
    """Where runs are kept: the address of a server, or of a database; by default `MLFLOW_TRACKING_URI`, else the run
    folder's `mlflow.db`. Name and password of a server come from the environment (`MLFLOW_TRACKING_USERNAME`,
    `MLFLOW_TRACKING_PASSWORD`, `MLFLOW_TRACKING_TOKEN`)."""
    experiment: Annotated[str, Field(min_length=1)] | None = None
    """Experiment; by default the sweep's name."""


class Track(Section):
    """Copies of the curves for other tools, against samples, sent by a process of its own: what goes wrong there is
    told once and never harms the sweep. `sweepft track RUN` sends what is missing."""

    tensorboard: bool = False
    """Whether event files are written into the run folder's `tensorboard/`, one folder a trial:
    `tensorboard --logdir RUN/tensorboard`."""
    wandb: WandbTrack | None = None
    """Weights & Biases."""
    mlflow: MlflowTrack | None = None
    """MLflow."""

    @property
    def names(self) -> tuple[str, ...]:
        """Which are asked for."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) not in (None, False))
