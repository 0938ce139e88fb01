"""How sweepft writes files: as a whole, never through a link, and never outside the folder that is meant.

A run folder may be a copy that somebody else has made: it may hold links, and names in its ledger may be paths. What
is written below it goes to a path of `inside`, by one of the functions here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, cast

from sweepft.errors import UnsafePath

PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
"""Names that may become folders: of sweeps and trials."""

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def inside(folder: str | os.PathLike[str], *parts: str) -> Path:
    """The path of ``parts`` below a folder; it need not exist.

    Args:
        folder: Itself not checked.
        parts: Names, or relative paths with ``/``.
    Raises:
        UnsafePath: If a part leads out of the folder, or anything on the way below it is a symbolic link.
    """
    path = Path(folder)
    for name in (name for part in parts for name in part.split("/")):
        if name in ("", ".", "..") or "\0" in name or len(name.encode("utf-8", "replace")) > 255:
            raise UnsafePath(
                f"{folder}: {'/'.join(parts)!r} is not a path inside this folder\n"
                "  it was not written by sweepft: do not use it",
                key="run_dir.path",
            )
        path /= name
        if path.is_symlink():
            raise UnsafePath(
                f"{path}: is a symbolic link\n"
                "  sweepft does not follow links in a run folder: put the file itself, or a mount, in its place",
                key="run_dir.link",
            )
    return path


def atomic_write(
    path: str | os.PathLike[str], data: bytes | str, *, mode: int = 0o600, sync: bool = True
) -> None:
    """Create or replace a file as a whole: readers see the old bytes or the new ones.

    A symbolic link at ``path`` is replaced, not followed.

    Args:
        path: In a folder that exists.
        data: Text is written as UTF-8, lone surrogates as question marks.
        mode: Permissions, from which the umask is taken.
        sync: Whether the file must survive a power cut.
    Raises:
        OSError: If it cannot be written; the old file is then unchanged.
    """
    path = Path(path)
    temporary = path.with_name(f".new-{secrets.token_hex(8)}")
    descriptor = os.open(temporary, _NEW, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.encode("utf-8", "replace") if isinstance(data, str) else data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if sync:
        sync_folder(path.parent)


def write_output(path: str | os.PathLike[str], data: str) -> None:
    """Write a file that the user named on the command line.

    A link is followed, and a device or pipe (``/dev/stdout``) is written to.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        with path.open("w", encoding="utf-8", errors="replace") as file:
            file.write(data)
        return
    atomic_write(path.resolve(), data, mode=0o666, sync=False)


@contextlib.contextmanager
def atomic_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to fill, private to the user, which takes the place of ``folder`` when the block ends.

    If the block raises, ``folder`` stays as it was. A symbolic link at ``folder`` is replaced, not followed.

    Raises:
        OSError: If it cannot be made or renamed.
    """
    folder = Path(folder)
    new, old = (folder.with_name(f".{word}-{secrets.token_hex(8)}") for word in ("new", "old"))
    new.mkdir(mode=0o700)
    try:
        yield new
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
        try:
            new.rename(folder)
        except OSError:
            with contextlib.suppress(OSError):
                old.rename(folder)
            raise
    finally:
        for left in (new, old):
            remove_tree(left)


def remove_tree(path: Path) -> None:
    """Remove a folder, or the link that is in its place. What cannot be removed stays."""
    if path.is_symlink():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def open_to_append(path: str | os.PathLike[str], *, mode: int = 0o600, new: bool = False) -> int:
    """The descriptor of a regular file, open for reading and for writing at its end; created if missing.

    Args:
        path: The file.
        mode: Permissions of a new file.
        new: Whether to empty it.
    Raises:
        OSError: If it is a symbolic link, is not a regular file, or cannot be opened.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = _regular(path, flags, mode)
    if new:
        os.ftruncate(descriptor, 0)
    return descriptor


def open_to_change(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file that exists, open to overwrite parts of it.

    Raises:
        OSError: If it is a symbolic link, is not a regular file, or cannot be opened.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return cast(BinaryIO, os.fdopen(_regular(path, flags), "r+b"))


def open_to_read(path: str | os.PathLike[str], *, links: bool = False) -> BinaryIO:
    """A regular file, open for reading.

    Args:
        path: The file.
        links: Whether a symbolic link is followed.
    Raises:
        OSError: If it is a pipe, device or folder, or (unless ``links``) a symbolic link.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    return cast(BinaryIO, os.fdopen(_regular(path, flags), "rb"))


def open_named(path: str | os.PathLike[str]) -> BinaryIO:
    """A file that the user named on the command line, open for reading: a regular one, or a stream of the shell.

    Raises:
        OSError: If it is another pipe, a device or a folder: reading it might not end, or not begin.
    """
    if os.path.abspath(path).startswith(("/dev/fd/", "/dev/stdin", "/proc/self/fd/")):
        return open(path, "rb")
    return open_to_read(path, links=True)


def _regular(path: str | os.PathLike[str], flags: int, mode: int = 0) -> int:
    """The descriptor of a regular file. O_NONBLOCK has no effect on one, and keeps a pipe from blocking."""
    try:
        descriptor = os.open(path, flags, mode)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise OSError(errno.ELOOP, "is a symbolic link", os.fspath(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is not a regular file", os.fspath(path))
    return descriptor


def sync_folder(folder: Path) -> None:
    """Make new names in a folder survive a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
