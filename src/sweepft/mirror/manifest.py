"""What a mirror holds: a small file that names every object that counts, with its digest.

One idea: manifests are numbered and carry their own digest in their name. The newest whole one is the truth; one that
was torn while it was written is not whole, and the one before it still holds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from sweepft.errors import MirrorError
from sweepft.mirror.store import Store

__all__ = ["FOLDER", "TOPS", "Kept", "Manifest", "Part", "newest"]

FOLDER: Final = "mirror"
_VERSION: Final = 1
_NAME: Final = re.compile(rf"{FOLDER}/(\d{{10}})-([0-9a-f]{{64}})\.json")
_PATH: Final = re.compile(r"(?!\.)[^/\\\0]+(/(?!\.)[^/\\\0]+)*")
TOPS: Final = ("spec.yaml", "study.journal", "ledger", "weights", "checkpoints", "items")
"""Where in a run folder the files of a manifest lie."""


@dataclass(frozen=True)
class Part:
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
class Kept:
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
    grown: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    kept: Mapping[str, Kept] = field(default_factory=dict)

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
            grown={path: tuple(Part(**part) for part in parts) for path, parts in found["grown"].items()},
            kept={path: Kept(**file) for path, file in found["kept"].items()},
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
