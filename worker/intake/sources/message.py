"""One email: its header block read from a file, and the job made of it. Bodies are never parsed."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from io import BufferedReader
from typing import Any, BinaryIO
from urllib.parse import quote

from worker.intake.sources.charsets import decoded, raw_text
from worker.intake.sources.digest import Digest
from worker.intake.sources.entry import RAW_LIMIT, Entry, Options, Rejected
from worker.intake.sources.files import BLANK, PIECE

BLOCK_LIMIT = 1_048_576
"""The longest header block that is read, in bytes."""

# Bytes of a header that are looked at: enough for SUBJECT_LIMIT however encoded, and for any address. They
# bound the time that a hostile header can take.
_VALUE_LIMIT = 8_000
_SENDER_LIMIT = 2_000
_REPEATS = 5  # of a header that should stand there once
SUBJECT_LIMIT = 1_000
"""So many characters of a subject are shown to the agent."""

_BLANK_LINE = re.compile(rb"\n\r?\n")
_MAY_SEPARATE = b"\nFrom "
# a field, and the lines after it that begin none; possessive, so that a hostile block takes neither time nor memory
_FIELDS = re.compile(rb"^([!-9;-~]+)[ \t]*:(.*+(?:\n(?![!-9;-~]+[ \t]*:).*+)*+)", re.MULTILINE)
_BRACKETED = re.compile(r"<([^<>]*)>")
_COMMENT = re.compile(r"\([^()]*\)")
_QUOTED_NAME = re.compile(r'"(?:[^"\\]|\\.)*"(?!@)')
_BARE_ADDRESS = re.compile(r'(?<![^\s<>()\[\],;:"@])[^\s<>()\[\],;:"@]+@[^\s<>(),;:"@]+')
_ADDRESS = re.compile(r'(?:"[^"]*"|[^\s"@]+)@[^\s"@]+')

Fields = list[tuple[bytes, bytes]]


class End(Enum):
    """What a header block ended with."""

    BLANK = auto()  # a blank line, as it should
    NEXT = auto()  # the beginning of the next message
    FILE = auto()  # the file's end
    LIMIT = auto()  # BLOCK_LIMIT, in mid header


@dataclass(frozen=True, slots=True)
class Block:
    """A header block as it stands in the file, and what ended it."""

    raw: bytes
    end: End


def read_block(file: BinaryIO, separates: Callable[[bytes], bool] = lambda _: False) -> Block:
    """Read a header block; what follows the blank line is left in the file.

    Args:
        file: stands at the block's first byte.
        separates: whether a line begins the next message; such a line is left in the file too.
    """
    if near := _near_end(file):
        return Block(near, End.BLANK)
    raw = bytearray()
    whole = True
    while piece := file.readline(PIECE):
        if whole and piece in BLANK:
            return Block(bytes(raw), End.BLANK)
        if whole and raw and separates(piece):
            file.seek(-len(piece), 1)
            return Block(bytes(raw), End.NEXT)
        raw += piece
        if len(raw) > BLOCK_LIMIT:
            return Block(bytes(raw[:RAW_LIMIT]), End.LIMIT)
        whole = piece.endswith(b"\n")
    return Block(bytes(raw), End.FILE)


def _near_end(file: BinaryIO) -> bytes:
    """Read the block where it ends within what is buffered, as nearly all do; else nothing: it is read by lines."""
    buffered = file.peek() if isinstance(file, BufferedReader) else b""
    end = _BLANK_LINE.search(buffered)
    if end is None or buffered.startswith(BLANK) or _MAY_SEPARATE in buffered[: end.start()]:
        return b""
    return file.read(end.end())[: end.start() + 1]


def split(raw: bytes) -> Fields:
    """Split a header block into fields: lower-case names, unfolded values. Lines that are none are left out."""
    return [(name, _unfolded(value)) for name, value in _folded(raw)]


def _folded(raw: bytes) -> Fields:
    return [(name.lower(), value) for name, value in _FIELDS.findall(raw)]


def _unfolded(value: bytes) -> bytes:
    if b"\n" not in value:
        return value.strip()
    first, *others = value.split(b"\n")
    return b" ".join([first, *(line.strip() for line in others if line[:1] in (b" ", b"\t"))]).strip()


class Message:
    """One email on its way to a job: the header block is known, the body passes by for the digest."""

    def __init__(self, block: Block, options: Options) -> None:
        """Take the header block.

        Args:
            block: the header block.
            options: what the operator decided for the source.
        """
        self._block = block
        self._options = options
        self._notes: list[str] = []
        raw = _complete_lines(block)
        self._fields = _folded(raw)
        self._id = self._identify(options.externalid_from or "Message-ID")
        self.digest = None if self._id or block.end is End.LIMIT else Digest(split(raw))

    def result(self, place: str) -> Entry | Rejected:
        """Return the job, or why there is none; to be called when the whole body has been seen."""
        reason = self._refusal()
        if reason:
            return Rejected(place, reason, self._block.raw[:RAW_LIMIT])
        job = self._job(self._id or self._digested())
        return Entry(place, job, tuple(self._notes))

    def _refusal(self) -> str | None:
        if self._block.end is End.LIMIT:
            return f"its headers are longer than {BLOCK_LIMIT:,} bytes"
        if self._block.end is not End.BLANK:
            if not self._id:
                return "truncated: it ends within its headers, before any id"
            self._notes.append("it ends within its headers; what follows is missing")
        return None if self._fields else "has no headers: it is no email"

    def _identify(self, header: str) -> str:
        """Return the id that a header names; empty where there is none."""
        name = header.lower().encode("utf-8", "replace")
        is_message_id = name == b"message-id"
        for value in self.values(name):
            text, notes = (raw_text if is_message_id else decoded)(value)
            found = message_id(text) if is_message_id else text
            if found:
                self._notes += [f"{header}: {note}" for note in notes]
                return found
        return ""

    def _digested(self) -> str:
        assert self.digest is not None  # noqa: S101 - made by __init__ wherever there is no id
        self._notes.append(
            f"no {self._options.externalid_from or 'Message-ID'}; a digest of the message serves"
        )
        return self.digest.id()

    def _job(self, found: str) -> dict[str, Any]:
        linked = [
            *({"type": "clid", "value": sender} for sender in [self._sender()] if sender),
            *self._link(found),
            {"type": "name", "value": self._subject()},
            {"type": "mediatype", "value": "Email"},
        ]
        return self._options.completed({"action": "dispatch", "externalid": found, "linkeddata": linked})

    def _link(self, found: str) -> list[dict[str, str]]:
        template = self._options.url_template
        if not template:
            return []
        url = template.replace("{id}", quote(found, safe=""))
        url = url.replace("{externalid}", quote(self._options.prefix + found, safe=""))
        return [{"type": "url", "label": "Open the email", "value": url}]

    def _sender(self) -> str:
        for name in (b"from", b"sender"):
            for value in self.values(name):
                if address := sender_address(raw_text(value[:_SENDER_LIMIT]).text):
                    return address
        return ""

    def _subject(self) -> str:
        for value in self.values(b"subject"):
            text, notes = decoded(value)
            self._notes += [f"Subject: {note}" for note in notes]
            if len(text) > SUBJECT_LIMIT:
                self._notes.append(f"Subject: longer than {SUBJECT_LIMIT:,} characters; cut")
            return text[:SUBJECT_LIMIT] or "(no subject)"
        return "(no subject)"

    def values(self, name: bytes) -> list[bytes]:
        """Return what stands in the headers of a (lower-case) name: the first few, each cut."""
        found = [value for other, value in self._fields if other == name]
        return [_unfolded(value)[:_VALUE_LIMIT] for value in found[:_REPEATS]]


def _complete_lines(block: Block) -> bytes:
    """Leave out a last line that was cut: half an id would be another message's."""
    if block.raw.endswith((b"\n", b">")):
        return block.raw
    return block.raw[: block.raw.rfind(b"\n") + 1]


def message_id(text: str) -> str:
    """Return a Message-ID without brackets, comments and whitespace; empty where there is none.

    >>> message_id("<17@example.com> (added by the gateway)")
    '17@example.com'
    """
    bracketed = _BRACKETED.search(text)
    return "".join((bracketed[1] if bracketed else _COMMENT.sub("", text).strip("<> ")).split())


def sender_address(text: str) -> str:
    """Return the bare address of a ``From`` value; empty where there is no usable one.

    Not ``email.utils.parseaddr``: of ``a@x.test <b@y.test>`` it takes the display name for the address, and
    nested brackets make it overflow the stack.

    >>> sender_address('"Doe, Jo" <jo@example.com>')
    'jo@example.com'
    """
    text = _COMMENT.sub(" ", _QUOTED_NAME.sub(" ", text))
    for bracketed in _BRACKETED.finditer(text):
        if _ADDRESS.fullmatch(bracketed[1].strip()):
            return bracketed[1].strip()
    bare = _BARE_ADDRESS.search(_BRACKETED.sub(" ", text))
    return bare[0] if bare else ""
