"""Files read in bounded pieces, so that no line, however long, has to fit into memory."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from worker.domain.job import printable
from worker.intake.sources.entry import RAW_LIMIT, SourceError

PIECE = 65_536
"""The longest part of a line that is held at once, in bytes."""

LINE_LIMIT = 1_000_000
"""The longest line (or CSV record) that can be a job, in bytes; a job itself is limited to 100 KB."""

_PATH_SHOWN = 500
"""Characters of a path that are shown; it is part of an index, which takes 2,700 bytes."""

BLANK = (b"\n", b"\r\n")
BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def shown(path: str | os.PathLike[str]) -> str:
    """Return a path as text that can be stored and shown anywhere: what is unreadable is replaced, its end kept."""
    text = printable(os.fsencode(path).decode("utf-8", "replace"))
    return text if len(text) <= _PATH_SHOWN else f"…{text[-_PATH_SHOWN:]}"


def cause(error: OSError) -> str:
    """Say why a file can't be read, without its name."""
    return f"can't be read: {error.strerror or type(error).__name__}"


def size(path: Path) -> int:
    """Return the size of a regular file in bytes; raises SourceError where it is missing, none, or empty."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = cause(error) if isinstance(error, OSError) else "is no path"
        raise SourceError(f"{shown(path)}: {reason}; check the path") from None
    if not stat.S_ISREG(status.st_mode):
        raise SourceError(f"{shown(path)}: is no regular file; save it to a file first")
    if not status.st_size:
        raise SourceError(f"{shown(path)}: is empty; export it again, or leave it out")
    return status.st_size


@contextmanager
def reading(path: Path) -> Iterator[BinaryIO]:
    """Open a file, behind its byte order mark; raises SourceError for whatever the medium refuses."""
    try:
        with path.open("rb", PIECE) as file:
            start = file.read(len(BOM))
            if start.startswith(_UTF_16):
                raise SourceError(f"{shown(path)}: is written in UTF-16; save it as UTF-8")
            if start != BOM:
                file.seek(0)
            yield file
    except OSError as error:
        raise SourceError(f"{shown(path)}: {cause(error)}; check the file and its permissions") from None


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a text file; ``raw`` is only its beginning where it is not ``whole``."""

    number: int
    raw: bytes
    whole: bool = True


class Lines:
    """The lines of an open file, numbered from 1; ``position`` is how many bytes have been read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._number = 0
        self.position = file.tell()

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        raw = self._read(LINE_LIMIT)
        if not raw:
            raise StopIteration
        self._number += 1
        if len(raw) < LINE_LIMIT or raw.endswith(b"\n"):
            return Line(self._number, raw)
        piece = self._read(PIECE)
        whole = not piece
        while piece and not piece.endswith(b"\n"):
            piece = self._read(PIECE)
        return Line(self._number, raw if whole else raw[:RAW_LIMIT], whole)

    def _read(self, limit: int) -> bytes:
        piece = self._file.readline(limit)
        self.position += len(piece)
        return piece
