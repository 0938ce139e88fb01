"""Reads compressed files of others with limits: a small file must not fill memory."""

from __future__ import annotations

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from sweepft.files import open_to_read

UNPACKING_ERRORS: Final = (OSError, EOFError, zlib.error, lzma.LZMAError)
"""What the readers of compressed files raise for a damaged one; OSError where it cannot be read at all."""

MOST_LINE: Final = 64 << 20
"""Bytes of a line."""

_RATIO: Final = 100
_SMALL: Final = 256 << 20
_MOST_BLANK: Final = 1_000_000


class TooLarge(ValueError):
    """A file breaks a limit; the text says which."""


class Bounded(io.RawIOBase):
    """The unpacked bytes of a file, not more than a hundred times its size (256 MiB of a small file).

    Args:
        stream: Gives the unpacked bytes.
        packed: Bytes of the file.
    """

    def __init__(self, stream: BinaryIO, packed: int) -> None:
        super().__init__()
        self._stream = stream
        self._most = max(_SMALL, _RATIO * packed)
        self._read = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; raises `TooLarge` beyond the limit."""
        found = self._stream.read(len(buffer))
        self._read += len(found)
        if self._read > self._most:
            raise TooLarge(
                f"it unpacks to more than {self._most >> 20:,} MiB, over {_RATIO} times its size on disk"
            )
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Close the stream below, too."""
        self._stream.close()
        super().close()


def bounded(stream: BinaryIO, file: Path) -> BinaryIO:
    """The unpacked bytes of a file, buffered and limited; see `Bounded`."""
    return io.BufferedReader(Bounded(stream, file.stat().st_size), 1 << 16)


def lines_of(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of each line, blank ones too.

    Raises:
        TooLarge: If a line has more than 64 MiB, or a million blank lines follow each other.
    """
    number = blank = 0
    while line := stream.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            raise TooLarge(f"line {number} has more than {MOST_LINE >> 20} MiB")
        blank = 0 if line.strip() else blank + 1
        if blank > _MOST_BLANK:
            raise TooLarge(f"more than {_MOST_BLANK:,} blank lines follow each other")
        yield number, line


def open_maybe_gzip(file: Path) -> BinaryIO:
    """A file, unpacked with limits if its name ends in ``.gz``."""
    stream = open_to_read(file, links=True)
    if not file.name.endswith(".gz"):
        return stream
    stream.close()  # it is a regular file
    return bounded(gzip.open(file), file)  # type: ignore[arg-type]
