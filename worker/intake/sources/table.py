"""CSV: a header line that names the columns, then one job a record."""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.intake.sources.columns import read_header
from worker.intake.sources.entry import RAW_LIMIT, Entry, Options, Rejected, SourceError
from worker.intake.sources.files import LINE_LIMIT, Line, Lines, reading, shown, size
from worker.intake.sources.message import message_id

_OF_A_RELEASE = {"action", "externalid", "requestid"}
_SPARE = 4 * LINE_LIMIT
"""Bytes, besides those of the table itself, that are read a second time at most: a table of nothing but quotes without
end would be read again and again for each of its lines."""
_OF_A_DISPATCH = _OF_A_RELEASE | {"route", "provider", "lane"}


class Table:
    """The jobs of a CSV file with comma, semicolon or tab between the fields."""

    def __init__(self, path: Path, options: Options) -> None:
        """Open a table and read its header line.

        Args:
            path: where the file is.
            options: what the operator decided.

        Raises:
            SourceError: the file is missing, empty or unreadable, has no header line, or lacks a column.
        """
        self.name = shown(path)
        self.total = size(path)
        self.position = 0
        self.remarks: list[str] = []
        self._path = path
        self._options = options
        with reading(path) as file:
            header = _header(Lines(file))
        try:
            self._columns = read_header(header.raw.decode("utf-8", "surrogateescape"), options)
        except SourceError as error:
            raise SourceError(f"{self.name}: {error}") from None
        if self._columns.ignored:
            self.remarks.append(f"columns ignored: {self._columns.ignored}")

    def __iter__(self) -> Iterator[Entry | Rejected]:
        """Read record by record; raises SourceError where the medium fails on the way."""
        with reading(self._path) as file:
            lines = Lines(file)
            _header(lines)
            feed = _Feed(lines)
            while read := self._next(feed):
                self.position = lines.position
                yield read
            self.position = lines.position

    def _next(self, feed: "_Feed") -> Entry | Rejected | None:
        """Read one record; None at the end."""
        fields: list[str] = []
        while not fields:  # a blank line is an empty record
            feed.begin()
            try:
                fields = next(csv.reader(feed, delimiter=self._columns.delimiter, strict=True))
            except StopIteration:
                return None
            except csv.Error as error:
                said = str(error).partition(" - ")[0]  # advice to programmers follows
                reason = f"is no CSV: {said}{feed.give_back_all_but_first()}"
                return Rejected(f"{self.name}: line {feed.number}", reason, feed.raw)
        place = f"{self.name}: line {feed.number}"
        wrong = self._refusal(fields)
        return Rejected(place, wrong, feed.raw) if wrong else Entry(place, self._job(fields))

    def _refusal(self, fields: list[str]) -> str | None:
        if len(fields) != self._columns.width:
            return f"has {len(fields)} field(s) where the header line has {self._columns.width}"
        if any("\0" in field for field in fields):
            return "has a NUL byte"
        if any("\udc80" <= character <= "\udcff" for field in fields for character in field):
            return "has bytes that are no UTF-8; save the file as UTF-8"
        return None if self._externalid(fields) else "has no externalid"

    def _externalid(self, fields: list[str]) -> str:
        text = fields[self._columns.index["externalid"]].strip()
        return message_id(text) if self._columns.holds_message_ids else text

    def _job(self, fields: list[str]) -> dict[str, Any]:
        given = {name: fields[at].strip() for name, at in self._columns.index.items() if fields[at].strip()}
        given["externalid"] = self._externalid(fields)
        given["action"] = given.get("action", "dispatch").lower()
        release = given["action"] == "release"
        job: dict[str, Any] = {
            k: v for k, v in given.items() if k in (_OF_A_RELEASE if release else _OF_A_DISPATCH)
        }
        if not release and (linked := _linkeddata(given)):
            job["linkeddata"] = linked
        if not release and "interactiontype" in given:
            job["routingdata"] = {"interactiontype": given["interactiontype"]}
        return self._options.completed(job)


def _linkeddata(given: dict[str, str]) -> list[dict[str, str]]:
    labels = {"url": {"label": "Open"}}
    kinds = [kind for kind in ("clid", "url", "name", "mediatype") if kind in given]
    return [{"type": kind, **labels.get(kind, {}), "value": given[kind]} for kind in kinds]


def _header(lines: Lines) -> Line:
    return next((line for line in lines if line.raw.strip()), Line(1, b""))


class _Feed:
    """Lines on their way into csv.reader; remembers those of the current record, to read them again."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._again: deque[Line] = deque()
        self._spare = _SPARE
        self.begin()

    def begin(self) -> None:
        """Forget the last record."""
        self._taken: list[Line] = []
        self._length = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._fresh()
        self._taken.append(line)
        self._length += len(line.raw)
        if not line.whole or self._length > LINE_LIMIT:
            raise csv.Error(f"longer than {LINE_LIMIT:,} bytes")
        return line.raw.decode("utf-8", "surrogateescape")

    def _fresh(self) -> Line:
        line = next(self._lines)
        self._spare += len(line.raw)
        return line

    def give_back_all_but_first(self) -> str:
        """Save the good records that a quote without its end swallowed: only the line that opened it is lost.

        Returns:
            What there is to say of lines that are not saved, in a table that is made of nothing but such quotes.
        """
        rest = self._taken[1:]
        length = self._length - len(self._taken[0].raw)
        if length > self._spare:
            return f", nor are the {len(rest):,} lines after it; mend the quotes there and import them again"
        self._spare -= length
        self._again.extendleft(reversed(rest))
        del self._taken[1:]
        return ""

    @property
    def number(self) -> int:
        """The number of the record's first line."""
        return self._taken[0].number

    @property
    def raw(self) -> bytes:
        """The record as it stands in the file, cut."""
        return b"".join(line.raw for line in self._taken)[:RAW_LIMIT]
