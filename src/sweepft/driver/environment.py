"""What the driver's machine must offer before Ray starts: a folder for sockets, a home for caches and the token."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from sweepft.errors import ResourceError
from sweepft.training.writable_home import can_write, use_writable_caches

_MOST_BYTES: Final = 31
"""The path of a socket has at most 107 bytes, of which Ray's names below its temporary folder take 64, and its private
folder there 12."""

_CANDIDATES: Final = ("/tmp", "/var/tmp", "/dev/shm")


def use_short_temp_folder(say: Callable[[str], None]) -> None:
    """Replace a temporary folder that Ray cannot put its sockets in, for this process and its children.

    Args:
        say: Takes a line if that was done.
    Raises:
        ResourceError: If there is none.
    """
    name = "RAY_TMPDIR" if os.environ.get("RAY_TMPDIR") else "TMPDIR"
    given = os.environ.get(name) or _CANDIDATES[0]
    problem = _problem(given)
    if problem is None:
        return
    private = [f"{folder}/sweepft-{os.getuid()}" for folder in _CANDIDATES]  # /tmp/ray may be another user's
    for folder in (*_CANDIDATES, *private):
        if _problem(folder) is None:
            break
    else:
        raise ResourceError(
            f"{name}={given}: {problem}, and no other temporary folder can be used: {', '.join(_CANDIDATES)}\n"
            f"  set TMPDIR to a folder with a path of at most {_MOST_BYTES} characters that can be written",
            key="temp_dir",
        )
    os.environ["TMPDIR"] = folder
    os.environ.pop("RAY_TMPDIR", None)
    tempfile.tempdir = None
    say(f"{name}={given}: {problem}; temporary files go to {folder}")


def _problem(folder: str) -> str | None:
    """Why Ray cannot use a folder for its sockets, or None."""
    if len(os.fsencode(folder)) > _MOST_BYTES:
        return f"too long for the paths of Ray's sockets ({len(os.fsencode(folder))} bytes, at most {_MOST_BYTES})"
    if not os.path.isabs(folder):
        return "is not an absolute path"
    if not can_write(Path(folder)) or not can_write(Path(folder) / "ray"):
        return "cannot be written"
    return None


def use_writable_home(run_dir: Path, say: Callable[[str], None]) -> None:
    """Keep caches and Ray's token out of a home folder that cannot be written.

    Args:
        run_dir: Takes the caches, in the private folder ``home``. The token stays in this process and its children.
        say: Takes a line if that was done.
    """
    moved = use_writable_caches(run_dir / "home")
    if moved is not None:
        say(moved)
    token = Path.home() / ".ray" / "auth_token"
    given = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not given and not token.is_file() and not can_write(token.parent):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
