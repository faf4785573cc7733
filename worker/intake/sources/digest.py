"""The id of a message that has none: a digest that survives export from one mail program to another.

It covers the header block and the body, without what mail programs change while the message stays the
same:

- left out: ``Status``, every ``X-`` header, ``Content-Length``, ``Lines`` (written on export), ``Return-Path``,
  ``Delivered-To``, ``Envelope-To`` (written on delivery to one mailbox of several). ``Received`` counts: often
  nothing else tells two automatic messages of the same second apart;
- normalised: the case of header names, folding and whitespace in headers, CRLF, ``>From `` at the beginning
  of a line of the body (any number of ``>``), blank lines at the end.
"""

import hashlib
import re
from collections.abc import Iterable

_QUOTED_FROM = re.compile(rb">+From ")
_LEFT_OUT = {b"status", b"content-length", b"lines", b"return-path", b"delivered-to", b"envelope-to"}


class Digest:
    """A digest to which the body is fed piece by piece.

    Args:
        fields: the header fields, each a lower-case name and an unfolded value.
    """

    def __init__(self, fields: Iterable[tuple[bytes, bytes]]) -> None:
        self._hash = hashlib.sha256()
        for name, value in fields:
            if name not in _LEFT_OUT and not name.startswith(b"x-"):
                self._hash.update(name + b":" + b" ".join(value.split()) + b"\n")
        self._newlines = 1
        self._begins_line = True
        self._held = b""

    def update(self, piece: bytes) -> None:
        """Take in the next piece of the body: a line, or a part of one."""
        piece, self._held = self._held + piece, b""
        if piece.endswith(b"\r"):  # the LF may come with the next piece
            piece, self._held = piece[:-1], b"\r"
        ends_line = piece.endswith(b"\n")
        if ends_line:
            piece = piece[:-2] if piece.endswith(b"\r\n") else piece[:-1]
        if piece:
            self._line(piece)
        self._newlines += ends_line
        self._begins_line = ends_line

    def _line(self, piece: bytes) -> None:
        if self._begins_line and _QUOTED_FROM.match(piece):
            piece = piece.lstrip(b">")
        # Newlines are held back until text follows, so that blank lines at the end don't count.
        self._hash.update(b"\n" * self._newlines + piece)
        self._newlines = 0

    def id(self) -> str:
        """Return ``sha256-`` and 40 hexadecimal digits."""
        return f"sha256-{self._hash.hexdigest()[:40]}"
