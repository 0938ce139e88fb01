"""A mirror has an address that can be one, without credentials in it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from sweepft.spec import Mirror


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/sweeps/x",
        "s3://bucket/x?endpoint_override=127.0.0.1:9000&scheme=http",
        "gs://bucket/x",
        "file:///backup/x",
    ],
)
def test_addresses(uri: str) -> None:
    assert Mirror(uri=uri).uri == uri


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("/backup/x", "must begin with s3://"),
        ("http://host/x", "must begin with s3://"),
        ("s3://bucket", "must name a folder of its own"),
        ("s3://bucket/", "must name a folder of its own"),
        ("s3:///x", "must name a folder of its own"),
        ("file://host/x", "must name a folder of its own"),
        ("file:///a/../../etc", "must name a folder of its own"),
        ("s3://key:secret@bucket/x", "must hold no credentials"),
        ("s3://key@bucket/x", "must hold no credentials"),
        ("s3://[bucket/x", "must be an address"),
    ],
)
def test_no_addresses(uri: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Mirror(uri=uri)
