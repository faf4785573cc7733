"""JSONL: one job object a line, by the same wire names as at every other door."""

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from worker.intake.sources.entry import RAW_LIMIT, Entry, Options, Rejected
from worker.intake.sources.files import LINE_LIMIT, Line, Lines, reading, shown, size

_POSITION = re.compile(r"^(?:JSON is malformed: )?(.*?) \(byte (\d+)\)")


class JsonLines:
    """The jobs of a JSONL file; blank lines are passed over."""

    def __init__(self, path: Path, options: Options) -> None:
        """Open a file of jobs.

        Args:
            path: where the file is.
            options: what the operator decided.

        Raises:
            SourceError: the file is missing, empty or unreadable.
        """
        self.name = shown(path)
        self.total = size(path)
        self.position = 0
        self.remarks: list[str] = []
        if options.externalid_from:
            self.remarks.append(f"{options.externalid_from} is not looked at: a JSONL job has its externalid")
        self._path = path
        self._options = options
        with reading(path):
            pass

    def __iter__(self) -> Iterator[Entry | Rejected]:
        """Read line by line; raises SourceError where the medium fails on the way."""
        with reading(self._path) as file:
            lines = Lines(file)
            for line in lines:
                self.position = lines.position
                if line.raw.strip() or not line.whole:
                    yield self._read(line)

    def _read(self, line: Line) -> Entry | Rejected:
        place = f"{self.name}: line {line.number}"
        if not line.whole:
            return Rejected(place, f"is longer than {LINE_LIMIT:,} bytes", line.raw)
        try:
            job = msgspec.json.decode(line.raw)
        except (ValueError, RecursionError) as error:
            return Rejected(place, _reason(line.raw, error), line.raw[:RAW_LIMIT])
        if not isinstance(job, dict):
            return Rejected(place, "is no JSON object", line.raw[:RAW_LIMIT])
        return Entry(place, self._options.completed(job))


def _reason(raw: bytes, error: Exception) -> str:
    """Say what is wrong with the JSON, and in which column, counted in bytes from 1."""
    if isinstance(error, RecursionError):
        return "is no job: nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"is no JSON: not UTF-8 in column {_decoding_error(raw, error).start + 1}"
    found = _POSITION.search(str(error))
    if found:
        return f"is no JSON: {found[1]} in column {int(found[2]) + 1}"
    if isinstance(error, msgspec.ValidationError):
        return "is no job: a number out of range"
    return f"is no JSON: it breaks off, or has half a character, before column {len(raw.rstrip()) + 1}"


def _decoding_error(raw: bytes, error: UnicodeDecodeError) -> UnicodeDecodeError:
    """Return the error with its position in the line: msgspec's is counted within the JSON string."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as found:
        return found
    return error  # pragma: no cover - Python is no more lenient
