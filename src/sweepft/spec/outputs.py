"""The ``mirror``, ``track`` and ``notify`` sections: what leaves this machine, and where it goes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from sweepft.spec.fields import Positive, Section, invalid

_SCHEMES: Final = ("s3", "gs", "file")
_EXAMPLE: Final = "for example s3://bucket/sweeps/my-sweep"


def check_address(uri: str) -> str:
    """Check the address of a mirror and return it.

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
        remedy = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, in the environment"
        raise invalid("must not contain credentials", remedy)
    folder = parts.path.strip("/")
    if not folder or ".." in folder.split("/") or (parts.scheme == "file") == bool(parts.netloc):
        raise invalid("must name a folder", f"{_EXAMPLE}, file:///backup/my-sweep")
    return uri


class Mirror(Section):
    """Copy of the run folder on other storage, updated by a separate process while the sweep runs. If this machine or
    its disk is lost, `sweepft fetch URI RUN` restores the run folder."""

    uri: Annotated[str, AfterValidator(check_address)]
    """Folder used by this copy only: `s3://bucket/path`, `gs://bucket/path` or `file:///path`. Service options follow a
    `?`, as in pyarrow (`?endpoint_override=HOST:PORT&scheme=http`); credentials come from the environment. May be
    changed
    on resume."""
    seconds: Annotated[Positive, Field(ge=1)] = 30.0
    """Seconds between two scans of the run folder. Ledger rows are copied at each scan; weights and checkpoints follow
    as fast as the connection allows."""


def _without_password(uri: str) -> str:
    try:
        password = urlsplit(uri).password
    except ValueError:
        raise invalid("must be an address", "for example sqlite:////data/mlflow.db") from None
    if password is not None:
        raise invalid(
            "must not contain a password", "set the address in the environment: MLFLOW_TRACKING_URI"
        )
    return uri


class WandbTrack(Section):
    """Weights & Biases: one run per trial, grouped by sweep; `{}` uses the defaults. Needs `pip install
    'sweepft[wandb]'`. The API key comes from `WANDB_API_KEY` or `wandb login`."""

    project: Annotated[str, Field(min_length=1)] | None = None
    """Project; by default `WANDB_PROJECT`, otherwise the sweep's name."""
    entity: Annotated[str, Field(min_length=1)] | None = None
    """User or team; by default `WANDB_ENTITY`, otherwise your user."""
    mode: Literal["online", "offline"] | None = None
    """`offline` only writes to the run folder's `wandb/`, for `wandb sync`; by default `WANDB_MODE`, otherwise
    `online`."""


class MlflowTrack(Section):
    """MLflow: one run per trial, in one experiment; `{}` uses the defaults. Needs `pip install
    'sweepft[mlflow]'`."""

    tracking_uri: Annotated[str, Field(min_length=1), AfterValidator(_without_password)] | None = None
    """Address of the tracking server or database; by default `MLFLOW_TRACKING_URI`, otherwise the run folder's
    `mlflow.db`. Server credentials come from the environment (`MLFLOW_TRACKING_USERNAME`, `MLFLOW_TRACKING_PASSWORD`,
    `MLFLOW_TRACKING_TOKEN`)."""
    experiment: Annotated[str, Field(min_length=1)] | None = None
    """Experiment; by default the sweep's name."""


class TrackioTrack(Section):
    """Trackio: one run per trial, grouped by sweep; `{}` uses the defaults. Needs `pip install 'sweepft[trackio]'`."""

    project: Annotated[str, Field(min_length=1)] | None = None
    """Project; by default the sweep's name."""
    space: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")] | None = None
    """Hugging Face Space that takes the runs, created private where there is none; by default `TRACKIO_SPACE_ID` or
    `TRACKIO_SERVER_URL`, otherwise a database in the run folder's `trackio/`. The token comes from `HF_TOKEN` or
    `hf auth login`."""


class Track(Section):
    """Experiment trackers. A separate process sends the curves, against samples; its errors are logged once and do not
    affect the sweep. `sweepft track RUN` uploads what is missing."""

    tensorboard: bool = False
    """Write event files to the run folder's `tensorboard/`, one folder per trial; view them with
    `tensorboard --logdir RUN/tensorboard`."""
    wandb: WandbTrack | None = None
    """Weights & Biases."""
    mlflow: MlflowTrack | None = None
    """MLflow."""
    trackio: TrackioTrack | None = None
    """Trackio."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the trackers in use."""
        return tuple(name for name in type(self).model_fields if getattr(self, name) not in (None, False))


def _webhook(address: str) -> str:
    if re.fullmatch(r"\$([A-Za-z_]\w*|\{[A-Za-z_]\w*\})", address):
        return address
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.username is None
    except ValueError:
        usable = False
    if not usable or any(sign.isspace() for sign in address):
        raise invalid(
            "must be an address that begins with https:// or http://, or name a variable",
            "for example $SLACK_WEBHOOK",
        )
    return address


def _command(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_Word = Annotated[str, Field(min_length=1)]


class Notify(Section):
    """Message when a sweep ends: finished, failed or interrupted. Give `command`, `webhook` or both. A message that
    cannot be sent within 20 seconds is a warning."""

    command: (
        Annotated[
            _Word | Annotated[tuple[_Word, ...], Field(min_length=1)],
            BeforeValidator(_command, json_schema_input_type=str | list[str]),
        ]
        | None
    ) = None
    """Command to run: a text for the shell, or a list of words. It gets the message as JSON on standard input, and
    `SWEEPFT_TEXT`, `SWEEPFT_STATUS`, `SWEEPFT_NAME`, `SWEEPFT_RUN` and `SWEEPFT_REASON` in its environment."""
    webhook: Annotated[str, AfterValidator(_webhook)] | None = Field(default=None, repr=False)
    """Address that takes the message as JSON by POST (Slack, Mattermost and Discord show its text), or better the
    environment variable that holds the address: `$SLACK_WEBHOOK`. An address is not written to the run folder: for a
    resume, set it in `SWEEPFT_WEBHOOK`."""

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.command is None and self.webhook is None:
            raise invalid("must have command, webhook or both", "for example webhook: $SLACK_WEBHOOK")
        return self
