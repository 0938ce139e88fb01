"""An object store (S3, Google Cloud Storage or a folder, all by pyarrow), and the manifest of a mirror in it.

The store has names and bytes only: no renames, locks or appends, which object stores lack. The manifest lists every
object that belongs to the mirror, with its digest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem
from pydantic_core import PydanticCustomError

from sweepft.bounded_json import MOST_BYTES, read_json
from sweepft.errors import MirrorError
from sweepft.files import open_to_append
from sweepft.ledger.rows import is_time
from sweepft.redact import redact
from sweepft.spec.outputs import check_address

STORE_ERRORS: Final = (OSError, ArrowException)  # raised by a store that is unreachable or refuses
FOLDER: Final = "mirror"
_VERSION: Final = 1
_NAME: Final = re.compile(rf"{FOLDER}/(\d{{10}})-([0-9a-f]{{64}})\.json")
_PATH: Final = re.compile(r"(?!\.)[^/\\\0]+(/(?!\.)[^/\\\0]+)*")
# The first part of every path in a manifest.
TOPS: Final = ("spec.yaml", "study.journal", "ledger", "weights", "checkpoints", "items")
_CHUNK: Final = 8 << 20

_REMEDIES: Final = (
    (
        "mirror.no_bucket",
        ("NO_SUCH_BUCKET", "bucket does not exist", "Bucket not found"),
        "create the bucket, or name another one",
    ),
    (
        "mirror.denied",
        ("ACCESS_DENIED", "Access Denied", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "HTTP status 40", "403"),
        "set credentials with permission to read, write, list and delete in the environment: AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    (
        "mirror.unreachable",
        ("NETWORK_CONNECTION", "resolve", "connect"),
        "check the network; name another endpoint by AWS_ENDPOINT_URL or ?endpoint_override=HOST:PORT",
    ),
)  # fmt: skip


def refused(uri: str, what: str, error: BaseException) -> MirrorError:
    """The error of a store as a `MirrorError`, with key and remedy where the cause is known."""
    text = redact(" ".join(str(error).split()))
    known = ((key, remedy) for key, marks, remedy in _REMEDIES if any(mark in text for mark in marks))
    key, remedy = next(known, ("mirror.refused", "see docs/how-to/cluster.md on mirrors"))
    return MirrorError(f"{uri}: {what}: {text}\n  {remedy}", key=key)


class Store:
    """Objects named by slash-separated paths, below one address.

    Args:
        uri: ``s3://bucket/path``, ``gs://bucket/path`` or ``file:///path``.
    Raises:
        MirrorError: If it is not a valid address.

    Methods raise ``STORE_ERRORS``; for a missing object, ``FileNotFoundError``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = redact(uri)
        try:
            check_address(uri)
            self._fs, root = FileSystem.from_uri(uri)
        except PydanticCustomError as error:
            found = error.context or {}
            raise MirrorError(
                f"{self.uri}: {found.get('rule')}\n  {found.get('remedy')}", key="mirror.address"
            ) from None
        except STORE_ERRORS as error:
            raise refused(self.uri, "cannot be opened", error) from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def names(self, folder: str) -> list[str]:
        """Sorted names of the objects below a folder, or the object of that name."""
        place = self._path(folder)
        found = [self._fs.get_file_info(place)]
        if found[0].type != FileType.File:
            found = self._fs.get_file_info(FileSelector(place, recursive=True, allow_not_found=True))
        return sorted(i.path[len(self._root) + 1 :] for i in found if i.type == FileType.File)

    def read(self, name: str) -> bytes:
        """The bytes of a small object; of a larger one, the first of them."""
        with self._fs.open_input_stream(self._path(name)) as source:
            return bytes(source.read(MOST_BYTES + 1))

    def write(self, name: str, data: bytes) -> None:
        """Create or replace an object."""
        with self._fs.open_output_stream(self._writable(name)) as target:
            target.write(data)

    def send(self, name: str, source: BinaryIO, between: Callable[[], object]) -> str:
        """Create an object from a file of any size; ``between`` is called after each chunk.

        Returns:
            SHA-256 of what was sent.
        """
        digest = hashlib.sha256()
        with self._fs.open_output_stream(self._writable(name)) as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
                between()
        return digest.hexdigest()

    def fetch(self, name: str, file: Path, size: int) -> str:
        """Append an object to a file; returns the SHA-256 of the object, or of what was read of it.

        Args:
            name: Of the object.
            file: Created if missing.
            size: Its bytes by its manifest; of a larger object, no more than one chunk too many is read.
        """
        digest, left = hashlib.sha256(), size
        with (
            self._fs.open_input_stream(self._path(name)) as source,
            os.fdopen(open_to_append(file), "ab") as target,
        ):
            while left >= 0 and (chunk := source.read(_CHUNK)):
                digest.update(chunk)
                target.write(chunk)
                left -= len(chunk)
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Remove an object, if it exists."""
        try:
            self._fs.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _writable(self, name: str) -> str:
        """The path of a new object; folders are created on a local file system only."""
        path = self._path(name)
        if self._local:
            if not Path(self._root).is_dir():
                Path(self._root).mkdir(mode=0o700, parents=True)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True)
class Chunk:
    """A chunk of an append-only file.

    Attributes:
        name: Of the object.
        size: In bytes.
        sha256: Of its bytes.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class FileEntry:
    """A file that is written once, under its own name.

    Attributes:
        size: In bytes.
        sha256: Of its bytes.
        modified: Its modification time in the run folder, Unix nanoseconds.
    """

    size: int
    sha256: str
    modified: int


@dataclass(frozen=True)
class Manifest:
    """The contents of a mirror.

    Attributes:
        number: Of this manifest, from 1; 0 before the first.
        writer: Random name of the process that wrote it.
        time: Unix seconds.
        grown: Append-only files, each as its chunks in order.
        kept: Files that are written once.
    """

    number: int = 0
    writer: str = ""
    time: float = 0.0
    grown: Mapping[str, tuple[Chunk, ...]] = field(default_factory=dict)
    kept: Mapping[str, FileEntry] = field(default_factory=dict)

    @property
    def objects(self) -> set[str]:
        """Names of its objects."""
        return {chunk.name for chunks in self.grown.values() for chunk in chunks} | self.kept.keys()

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        sizes = [chunk.size for chunks in self.grown.values() for chunk in chunks]
        return sum(sizes) + sum(file.size for file in self.kept.values())

    def encode(self) -> tuple[str, bytes]:
        """Name and bytes of its object."""
        data = json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()
        return f"{FOLDER}/{self.number:010d}-{hashlib.sha256(data).hexdigest()}.json", data


def newest(store: Store) -> Manifest | None:
    """The newest complete manifest, or None.

    Raises:
        MirrorError: If another version of sweepft wrote it, or it names a path outside of a run folder.
        STORE_ERRORS: If the store cannot be read.
    """
    for name in reversed(store.names(FOLDER)):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        try:
            data = store.read(name)
        except FileNotFoundError:  # replaced by a newer one meanwhile
            return newest(store)
        if hashlib.sha256(data).hexdigest() == match[2]:
            return _decode(store, name, data)
    return None


def _read(store: Store, name: str, data: bytes) -> Any:
    try:
        return read_json(data, finite=True)
    except ValueError as error:
        raise MirrorError(
            f"{store.uri}: {name}: cannot be read: {error}\n"
            "  this mirror was not written by sweepft; do not use it",
            key="mirror.foreign",
        ) from error


def _decode(store: Store, name: str, data: bytes) -> Manifest:
    found = _read(store, name, data)
    version = found.get("version") if isinstance(found, dict) else None
    if version != _VERSION:
        raise MirrorError(
            f"{store.uri}: {name}: mirror version {version!r}, expected {_VERSION}\n"
            "  use the sweepft version that wrote it",
            key="mirror.version",
        )
    try:
        manifest = Manifest(
            number=int(found["number"]),
            writer=str(found["writer"]),
            time=float(found["time"]),
            grown={
                path: tuple(Chunk(**chunk) for chunk in chunks) for path, chunks in found["grown"].items()
            },
            kept={path: FileEntry(**file) for path, file in found["kept"].items()},
        )
        entries: list[Chunk | FileEntry] = [
            *manifest.kept.values(),
            *(chunk for chunks in manifest.grown.values() for chunk in chunks),
        ]
        numbers = [manifest.number, *(e.size for e in entries), *(e.modified for e in manifest.kept.values())]
        if not all(type(n) is int and 0 <= n < 2**63 for n in numbers) or not is_time(manifest.time):
            raise ValueError("a number is out of range")
        if not all(isinstance(entry.sha256, str) for entry in entries):
            raise TypeError("a digest is no text")
        strange = [
            path
            for path in sorted({*manifest.grown, *manifest.objects})
            if _PATH.fullmatch(path) is None or path.split("/")[0] not in TOPS
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        strange = [f"{type(error).__name__}: {error}"]
    if strange:
        raise MirrorError(
            f"{store.uri}: {name}: not a file of a run folder: {strange[0]!r}\n"
            "  this mirror was not written by sweepft; do not use it",
            key="mirror.foreign",
        )
    return manifest
