"""The section that says which other tools get a copy of the curves."""
# MERGED The section that says where a copy of the run folder is kept.

from __future__ import annotations

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sweepft.spec.fields import Positive, Section, invalid

_SCHEMES: Final = ("s3", "gs", "file")


_EXAMPLE: Final = "for example s3://bucket/sweeps/my-sweep"


def check_address(uri: str) -> str:
    """The address of a mirror, where it can be one.

    Raises:
        PydanticCustomError: With rule and remedy.
    """
    try:
        parts = urlsplit(uri)
        secret = parts.username is not None or parts.password is not None
    except ValueError:
        raise invalid("must be an address", _EXAMPLE) from None
    if parts.scheme not in _SCHEMES:
        raise invalid("must begin with s3://, gs:// or file://", _EXAMPLE)
    if secret:
        remedy = "give them in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise invalid("must hold no credentials", remedy)
    folder = parts.path.strip("/")
    if not folder or ".." in folder.split("/") or (parts.scheme == "file") == bool(parts.netloc):
        raise invalid("must name a folder of its own", f"{_EXAMPLE}, file:///backup/my-sweep")
    return uri


class Mirror(Section):
    """A copy of the run folder on other storage, kept up to date by a process of its own while the sweep runs, so that
    the loss of this machine or its disk loses nothing that was finished. `sweepft fetch URI RUN` brings it back."""

    uri: Annotated[str, AfterValidator(check_address)]
    """A folder of the copy's own: `s3://bucket/path`, `gs://bucket/path` or `file:///path`. Options of the service
    follow a `?`, as pyarrow takes them (`?endpoint_override=HOST:PORT&scheme=http`); credentials come from the
    environment. May be changed on resume."""
    seconds: Annotated[Positive, Field(ge=1)] = 30.0
    """Between two looks at the run folder: rows of the ledger are on the mirror that soon; weights and states follow as
    fast as the line takes them."""


def _without_password(uri: str) -> str:
    try:
        password = urlsplit(uri).password
    except ValueError:
        raise invalid("must be an address", "for example sqlite:////data/mlflow.db") from None
    if password is not None:
        raise invalid("must hold no password", "give the address in the environment: MLFLOW_TRACKING_URI")
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
