"""Mailboxes in one file: mboxo, mboxrd, mboxcl and mboxcl2, streamed.

Where does a message end? At the file's end, or at a line that (1) reads ``From``, an address or none, and a
date, (2) stands after a blank line or within a header block and (3) is followed by a header. So a sentence
that begins with "From", and a separator that somebody pasted into a mail, make no new message.
A ``Content-Length`` is believed only where it ends exactly at such a line or at the file's end.
"""

import re
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from worker.intake.sources.entry import Entry, Options, Rejected, SourceError
from worker.intake.sources.files import BLANK, PIECE, reading, shown, size
from worker.intake.sources.message import Block, End, Message, read_block

_DATES = (
    rb"\w{3},?\s+\w{3}\s+\d{1,2}\s+TIME(?:\s+ZONE)?\s+\d{4}(?:\s+ZONE)?",  # asctime
    rb"(?:\w{3},\s*)?\d{1,2}\s+\w{3}\s+\d{4}\s+TIME(?:\s+ZONE)?",  # RFC 5322
    rb"\d{4}-\d\d-\d\d[T ]TIME(?:\.\d+)?\s*(?:Z|ZONE)?",  # ISO 8601
)
_DATE = (
    b"|".join(_DATES)
    .replace(b"TIME", rb"\d{1,2}:\d\d(?::\d\d)?")
    .replace(b"ZONE", rb"(?:[+-]\d\d:?\d\d|[A-Z]{1,5})")
)
SEPARATOR = re.compile(rb"From (?:.*\s)?(?:" + _DATE + rb")(?:\s+\(\w+\)|\s+remote from \S+)?\s*")
_SEPARATOR_LIMIT = 1_000  # bytes; no address and date are longer
_MAY_SEPARATE = re.compile(rb"\n\r?\n(From )")
_GIT_PATCH = re.compile(rb"From [0-9a-f]{40,64} Mon Sep 17 00:00:00 2001\s*")
_BEGINS_HEADERS = re.compile(rb"[!-9;-~]+[ \t]*:(?!//)|>*From ")
_HEADER_CUT_SHORT = re.compile(rb"[!-9;-~]*")


class Mbox:
    """The messages of an mbox file."""

    def __init__(self, path: Path, options: Options) -> None:
        """Open a mailbox.

        Args:
            path: where the file is.
            options: what the operator decided.

        Raises:
            SourceError: the file is missing, empty, unreadable, or no mbox.
        """
        self.name = shown(path)
        self.total = size(path)
        self.position = 0
        self.remarks: list[str] = []
        self._path = path
        self._options = options
        with reading(path) as file:
            first = self._first(file)
        # ``git format-patch`` writes such lines, and people attach what it wrote to mails unquoted.
        self._of_patches = bool(_GIT_PATCH.fullmatch(first))

    def __iter__(self) -> Iterator[Entry | Rejected]:
        """Read message by message; raises SourceError where the medium fails on the way."""
        with reading(self._path) as file:
            separator = self._first(file)
            self.position = file.tell() - len(separator)
            number = 0
            while separator:
                number += 1
                place = f"{self.name}: message {number} (byte {self.position})"
                block = read_block(file, lambda line: self._separates(file, line))
                message = Message(block, self._options)
                separator = self._pass_body(file, block, message)
                self.position = file.tell() - len(separator)
                yield message.result(place)
            self.position = file.tell()

    def _first(self, file: BinaryIO) -> bytes:
        line = file.readline(PIECE)
        while line in BLANK:
            line = file.readline(PIECE)
        if not _is_dated(line):
            raise SourceError(
                f"{self.name}: is no mbox file: it does not begin with a line like"
                " 'From jo@example.com Tue Nov 22 15:31:00 2011'; name its format with --format, or export it again"
            )
        return line

    def _separates(self, file: BinaryIO, line: bytes) -> bool:
        """Tell whether the line that was just read begins a message; looks at the line after it."""
        if not _is_dated(line) or (not self._of_patches and _GIT_PATCH.fullmatch(line)):
            return False
        here = file.tell()
        following = file.readline(PIECE)
        file.seek(here)
        if _BEGINS_HEADERS.match(following):
            return True
        # A file that was cut right here: better one rejection too many than a message that nobody misses.
        return not following.endswith(b"\n") and bool(_HEADER_CUT_SHORT.fullmatch(following))

    def _pass_body(self, file: BinaryIO, block: Block, message: Message) -> bytes:
        """Go to the next message; returns its separator line, empty at the file's end."""
        if block.end is End.BLANK:
            end = self._declared_end(file, message)
            if end is not None:
                _pass_to(file, end, message)
        return self._next_separator(file, message, after_blank=block.end is not End.LIMIT)

    def _next_separator(self, file: BinaryIO, message: Message, *, after_blank: bool) -> bytes:
        feed = message.digest.update if message.digest else None
        blank = whole = after_blank
        while piece := file.readline(PIECE):
            if blank and piece.startswith(b"From ") and self._separates(file, piece):
                return piece
            if feed:
                feed(piece)
            blank = whole and piece in BLANK
            whole = piece.endswith(b"\n")
            if whole and not (feed or blank):
                blank = _skip(file)
        return b""

    def _declared_end(self, file: BinaryIO, message: Message) -> int | None:
        """Return where ``Content-Length`` says that the body ends, if a message or the file ends there."""
        length = next(iter(message.values(b"content-length")), b"")
        if not length.isdigit() or len(length) > 15:
            return None
        start = file.tell()
        end = start + int(length)
        landed = end <= self.total and self._lands(file, end)
        file.seek(start)
        return end if landed else None

    def _lands(self, file: BinaryIO, end: int) -> bool:
        file.seek(end - 1)
        begins_line = file.read(1) == b"\n"
        line = file.readline(PIECE)
        for _ in range(2):
            if line in BLANK:
                line, begins_line = file.readline(PIECE), True
        return not line or (begins_line and self._separates(file, line))


def _skip(file: BinaryIO) -> bool:
    """From the beginning of a line, pass what is buffered of a body, up to the first line that may separate.

    Returns:
        Whether the last line that was passed is blank.
    """
    buffered = file.peek() if isinstance(file, BufferedReader) else b""
    if buffered.startswith(BLANK):  # it may be the line before a separator: that is not for here to tell
        return False
    found = _MAY_SEPARATE.search(buffered)
    passed = file.read(found.start(1) if found else buffered.rfind(b"\n") + 1)
    return passed.endswith((b"\n\n", b"\n\r\n"))


def _is_dated(line: bytes) -> bool:
    return line.startswith(b"From ") and len(line) <= _SEPARATOR_LIMIT and bool(SEPARATOR.fullmatch(line))


def _pass_to(file: BinaryIO, end: int, message: Message) -> None:
    if message.digest:
        left = end - file.tell()
        while left > 0 and (piece := file.readline(min(PIECE, left))):
            message.digest.update(piece)
            left -= len(piece)
    else:
        file.seek(end)
