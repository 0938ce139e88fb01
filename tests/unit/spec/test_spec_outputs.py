"""The mirror and track sections: addresses without credentials, trackers off by default."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sweepft.errors import Problem
from sweepft.spec import Mirror, MlflowTrack, Track


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/sweeps/x",
        "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http",
        "gs://bucket/x",
        "file:///backup/x",
    ],
)
def test_mirror__accepts_addresses(uri: str) -> None:
    assert Mirror(uri=uri).uri == uri


@pytest.mark.parametrize(
    "uri",
    [
        "/backup/x",
        "http://host/x",
        "s3://bucket",
        "s3://bucket/",
        "s3:///x",
        "file://host/x",
        "file:///a/../../etc",
        "s3://key:secret@bucket/x",
        "s3://key@bucket/x",
        "s3://[bucket/x",
    ],
)
def test_mirror__refuses_other_schemes_bare_buckets_and_credentials(
    uri: str, problems: Callable[..., list[Problem]]
) -> None:
    (problem,) = problems(f"mirror.uri={uri!r}")
    assert problem.key == "mirror.uri"
    assert "secret" not in problem.rule + problem.remedy


def test_track__is_off_by_default() -> None:
    assert Track().names == ()


def test_track__empty_section_uses_the_defaults() -> None:
    track = Track.model_validate({"tensorboard": True, "wandb": {}, "mlflow": {}, "trackio": {}})
    assert track.names == ("tensorboard", "wandb", "mlflow", "trackio")
    assert Track.model_validate(track.model_dump(exclude_none=True)) == track


@pytest.mark.parametrize("uri", ["https://me:secret@host", "postgresql://me:secret@host/db"])
def test_mlflow__refuses_passwords(uri: str, problems: Callable[..., list[Problem]]) -> None:
    (problem,) = problems(f"track.mlflow.tracking_uri={uri!r}")
    assert problem.key == "track.mlflow.tracking_uri"


@pytest.mark.parametrize("uri", ["https://host", "sqlite:////data/mlflow.db", "databricks", "/data/mlruns"])
def test_mlflow__accepts_addresses(uri: str) -> None:
    assert MlflowTrack(tracking_uri=uri).tracking_uri == uri
