"""Trackers are off unless asked for, and no password gets into a spec."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sweepft.spec import MlflowTrack, Track


def test_trackers_are_off_by_default() -> None:
    assert Track().names == ()


def test_an_empty_section_asks_for_a_tracker_with_its_defaults() -> None:
    track = Track.model_validate({"tensorboard": True, "wandb": {}, "mlflow": {}})
    assert track.names == ("tensorboard", "wandb", "mlflow")
    assert Track.model_validate(track.model_dump(exclude_none=True)) == track


@pytest.mark.parametrize("uri", ["https://me:secret@host", "postgresql://me:secret@host/db"])
def test_an_address_with_a_password_is_refused(uri: str) -> None:
    with pytest.raises(ValidationError, match="must hold no password"):
        MlflowTrack(tracking_uri=uri)


@pytest.mark.parametrize("uri", ["https://host", "sqlite:////data/mlflow.db", "databricks", "/data/mlruns"])
def test_other_addresses_are_taken(uri: str) -> None:
    assert MlflowTrack(tracking_uri=uri).tracking_uri == uri
