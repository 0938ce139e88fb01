"""Objects below an address: on S3, on Google Cloud Storage, or in a folder, all by pyarrow.

One idea: there are names and bytes, and no more. Nothing is renamed, locked or appended to, for object stores cannot.
"""
# MERGED What a mirror holds: a small file that names every object that counts, with its digest.

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem
from pydantic_core import PydanticCustomError

from sweepft.errors import MirrorError
from sweepft.redact import redact
from sweepft.spec.outputs import check_address

STORE_ERRORS: Final = (OSError, ArrowException)


"""What a store that cannot be reached, or refuses, raises."""


_CHUNK: Final = 8 << 20


_REMEDIES: Final = (
    (("NO_SUCH_BUCKET", "bucket does not exist", "Bucket not found"), "make the bucket, or name another one"),
    (
        ("ACCESS_DENIED", "Access Denied", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH", "HTTP status 40", "403"),
        "credentials that may read, write, list and delete there come from the environment: AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or GOOGLE_APPLICATION_CREDENTIALS",
    ),
    (
        ("NETWORK_CONNECTION", "resolve", "connect"),
        "is it reachable from here? another service is named by AWS_ENDPOINT_URL or ?endpoint_override=HOST:PORT",
    ),
)  # fmt: skip


def refused(uri: str, what: str, error: BaseException) -> MirrorError:
    """An error of a store in words, with the remedy where the cause is known."""
    text = redact(" ".join(str(error).split()))
    known = (remedy for marks, remedy in _REMEDIES if any(mark in text for mark in marks))
    return MirrorError(f"{uri}: {what}: {text}\n  {next(known, 'see docs/how-to/cluster.md on mirrors')}")


class Store:
    """Objects named by paths with slashes, below one address.

    Args:
        uri: ``s3://bucket/path``, ``gs://bucket/path`` or ``file:///path``.
    Raises:
        MirrorError: If it cannot be an address.

    Methods raise ``STORE_ERRORS``; for an object that is not there, ``FileNotFoundError``.
    """

    def __init__(self, uri: str) -> None:
        self.uri = redact(uri)
        try:
            check_address(uri)
            self._fs, root = FileSystem.from_uri(uri)
        except PydanticCustomError as error:
            said = error.context or {}
            raise MirrorError(f"{self.uri}: {said.get('rule')}\n  {said.get('remedy')}") from None
        except STORE_ERRORS as error:
            raise refused(self.uri, "cannot be opened", error) from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def names(self, folder: str) -> list[str]:
        """The objects below a folder, or the one of that name, sorted; none where there is nothing."""
        place = self._path(folder)
        found = [self._fs.get_file_info(place)]
        if found[0].type != FileType.File:
            found = self._fs.get_file_info(FileSelector(place, recursive=True, allow_not_found=True))
        return sorted(i.path[len(self._root) + 1 :] for i in found if i.type == FileType.File)

    def read(self, name: str) -> bytes:
        """An object's bytes."""
        with self._fs.open_input_stream(self._path(name)) as source:
            return bytes(source.read())

    def write(self, name: str, data: bytes) -> None:
        """Make an object, or replace it."""
        with self._fs.open_output_stream(self._made(name)) as target:
            target.write(data)

    def send(self, name: str, source: BinaryIO, between: Callable[[], object]) -> str:
        """Make an object of what a file holds, whatever its size; ``between`` is called now and then meanwhile.

        Returns:
            SHA-256 of what was sent.
        """
        digest = hashlib.sha256()
        with self._fs.open_output_stream(self._made(name)) as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
                between()
        return digest.hexdigest()

    def bring(self, name: str, file: Path) -> str:
        """Append an object to a file; returns the SHA-256 of what came."""
        digest = hashlib.sha256()
        with self._fs.open_input_stream(self._path(name)) as source, file.open("ab") as target:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                target.write(chunk)
        return digest.hexdigest()

    def remove(self, name: str) -> None:
        """Remove an object; one that is gone is fine."""
        try:
            self._fs.delete_file(self._path(name))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _made(self, name: str) -> str:
        """Where an object is written; object stores need no folders, and get none."""
        path = self._path(name)
        if self._local:
            if not Path(self._root).is_dir():
                Path(self._root).mkdir(mode=0o700, parents=True)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        return path


FOLDER: Final = "mirror"


_VERSION: Final = 1


_NAME: Final = re.compile(rf"{FOLDER}/(\d{{10}})-([0-9a-f]{{64}})\.json")


_PATH: Final = re.compile(r"(?!\.)[^/\\\0]+(/(?!\.)[^/\\\0]+)*")


TOPS: Final = ("spec.yaml", "study.journal", "ledger", "weights", "checkpoints", "items")


"""Where in a run folder the files of a manifest lie."""


@dataclass(frozen=True)
class Chunk:
    """A piece of a file that grows.

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
    """A file that was written once, under its own name.

    Attributes:
        size: In bytes.
        sha256: Of its bytes.
        modified: When it was last written in the run folder, nanoseconds of unix time.
    """

    size: int
    sha256: str
    modified: int


@dataclass(frozen=True)
class Manifest:
    """The state of a mirror.

    Attributes:
        number: Of this manifest, from 1 on; 0 before the first.
        writer: Which process wrote it; a name drawn by lot.
        time: Unix seconds.
        grown: Files that grow, each as its parts one after another.
        kept: Files that are written once.
    """

    number: int = 0
    writer: str = ""
    time: float = 0.0
    grown: Mapping[str, tuple[Chunk, ...]] = field(default_factory=dict)
    kept: Mapping[str, FileEntry] = field(default_factory=dict)

    @property
    def objects(self) -> set[str]:
        """Names of the objects that it needs."""
        return {part.name for parts in self.grown.values() for part in parts} | self.kept.keys()

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        parts = [part.size for parts in self.grown.values() for part in parts]
        return sum(parts) + sum(file.size for file in self.kept.values())

    def encode(self) -> tuple[str, bytes]:
        """Name and bytes of its object."""
        data = json.dumps({"version": _VERSION, **asdict(self)}, indent=1).encode()
        return f"{FOLDER}/{self.number:010d}-{hashlib.sha256(data).hexdigest()}.json", data


def newest(store: Store) -> Manifest | None:
    """The newest whole manifest, or None where there is none.

    Raises:
        MirrorError: If another version of sweepft wrote it, or it names what would lead out of a run folder.
        STORE_ERRORS: If the store cannot be read.
    """
    for name in reversed(store.names(FOLDER)):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        try:
            data = store.read(name)
        except FileNotFoundError:  # a newer one has come since
            return newest(store)
        if hashlib.sha256(data).hexdigest() == match[2]:
            return _decode(store, name, data)
    return None


def _decode(store: Store, name: str, data: bytes) -> Manifest:
    found = json.loads(data)
    version = found.get("version") if isinstance(found, dict) else None
    if version != _VERSION:
        raise MirrorError(
            f"{store.uri}: {name}: mirror version {version!r}, only {_VERSION} is known\n"
            "  use the sweepft that wrote it"
        )
    try:
        manifest = Manifest(
            number=int(found["number"]),
            writer=str(found["writer"]),
            time=float(found["time"]),
            grown={path: tuple(Chunk(**part) for part in parts) for path, parts in found["grown"].items()},
            kept={path: FileEntry(**file) for path, file in found["kept"].items()},
        )
        strange = [
            path
            for path in sorted({*manifest.grown, *manifest.objects})
            if _PATH.fullmatch(path) is None or path.split("/")[0] not in TOPS
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        strange = [f"{type(error).__name__}: {error}"]
    if strange:
        raise MirrorError(
            f"{store.uri}: {name}: this is no file of a run folder: {strange[0]!r}\n"
            "  this mirror was not written by sweepft: do not use it"
        )
    return manifest
