"""Header text made readable: RFC 2047 words, wrong charsets, raw 8-bit bytes. Never raises.

The stdlib's own decoding is not used: ``decode_header`` takes quadratic time on hostile headers and returns
pieces in ``raw-unicode-escape``, which can't be told from a backslash in the text; the header parser
of ``policy.default`` raises on odd input.
"""

import base64
import binascii
import codecs
import re
from typing import NamedTuple

_WORD = re.compile(r"=\?([^?\s]+)\?([bBqQ])\?([^?]*)\?=")
_BETWEEN_WORDS = re.compile(r"(?<=\?=)\s+(?==\?[^?\s]+\?[bBqQ]\?)")
# What may not be stored (jsonb refuses NUL and lone surrogates) or not be shown (a terminal obeys controls).
_UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Python's, no mail program's: slow, or made to run on program text.
_NO_CHARSETS = {"unicode-escape", "raw-unicode-escape", "idna", "punycode"}

_NAME_LIMIT = 40  # characters

REPLACED = "unreadable characters replaced"
UNKNOWN = f"unknown charset; {REPLACED}"
EIGHT_BIT = "raw 8-bit bytes that are no UTF-8, read as Windows-1252"
BROKEN = "an encoded word that can't be decoded, left as it is"


class Text(NamedTuple):
    """Readable text, and what had to be repaired."""

    text: str
    notes: tuple[str, ...] = ()


def raw_text(value: bytes) -> Text:
    """Read header bytes as they stand: UTF-8, else Windows-1252; on one line, fit to be stored."""
    text, notes = _eight_bit(value)
    return _storable(text, notes)


def decoded(value: bytes) -> Text:
    """Read header bytes with their RFC 2047 words decoded; on one line, fit to be stored."""
    text, notes = _eight_bit(value)
    return _storable(*_words(text, notes)) if "=?" in text else _storable(text, notes)


def _eight_bit(value: bytes) -> tuple[str, list[str]]:
    try:
        return value.decode("utf-8"), []
    except UnicodeDecodeError:
        return value.decode("cp1252", "replace"), [EIGHT_BIT]


def _words(text: str, notes: list[str]) -> tuple[str, list[str]]:
    """Decode the encoded words; neighbours in one charset together, as some mailers cut characters in two."""
    text = _BETWEEN_WORDS.sub("", text)
    read: list[str] = []
    pending, charset, end = b"", "", 0
    for word in _WORD.finditer(text):
        content = _content(word[2], word[3])
        named = word[1].partition("*")[0].lower()
        if pending and (word.start() > end or named != charset or content is None):
            read.append(_in_charset(pending, charset, notes))
            pending = b""
        read.append(text[end : word.start()])
        end = word.end()
        if content is None:
            notes.append(BROKEN)
            read.append(word[0])
        else:
            pending, charset = pending + content, named
    if pending:
        read.append(_in_charset(pending, charset, notes))
    return "".join([*read, text[end:]]), notes


def _content(encoding: str, text: str) -> bytes | None:
    raw = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(raw, header=True)
    try:
        return base64.b64decode(raw + b"===")
    except binascii.Error:
        return None


def _in_charset(content: bytes, charset: str, notes: list[str]) -> str:
    try:
        # a long name is none, and Python remembers every name that it was asked for
        if len(charset) > _NAME_LIMIT or codecs.lookup(charset).name in _NO_CHARSETS:
            raise LookupError(charset)
        return _strictly(content, charset, notes)
    except (LookupError, ValueError):
        notes.append(UNKNOWN)
        return _eight_bit(content)[0]


def _strictly(content: bytes, charset: str, notes: list[str]) -> str:
    try:
        return content.decode(charset)
    except UnicodeDecodeError:
        notes.append(REPLACED)
        return content.decode(charset, "replace")


def _storable(text: str, notes: list[str]) -> Text:
    line = " ".join(text.split())
    if not notes and line.isprintable():  # as nearly all are
        return Text(line)
    line, count = _UNUSABLE.subn("\ufffd", line)
    return Text(line, tuple(dict.fromkeys([*notes, REPLACED] if count else notes)))
