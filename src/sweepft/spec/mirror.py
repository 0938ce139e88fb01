"""The section that says where a copy of the run folder is kept."""

from __future__ import annotations

from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sweepft.spec.fields import Positive, Section, broken

__all__ = ["Mirror", "check_address"]

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
        raise broken("must be an address", _EXAMPLE) from None
    if parts.scheme not in _SCHEMES:
        raise broken("must begin with s3://, gs:// or file://", _EXAMPLE)
    if secret:
        remedy = "give them in the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        raise broken("must hold no credentials", remedy)
    folder = parts.path.strip("/")
    if not folder or ".." in folder.split("/") or (parts.scheme == "file") == bool(parts.netloc):
        raise broken("must name a folder of its own", f"{_EXAMPLE}, file:///backup/my-sweep")
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
