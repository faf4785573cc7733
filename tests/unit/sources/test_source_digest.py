"""The id of messages without one."""

import hashlib
import io
import mailbox
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intake.sources import Entry, Options, Rejected, open_source
from worker.intake.sources.digest import Digest

Job = Callable[..., dict[str, Any]]
Read = Callable[..., list[Entry | Rejected]]

PLAIN = b"From: Jo <jo@x.test>\nSubject: a long\n subject\n\nHello\n\nFrom here on\n>From there\nBye\n"


def externalid(entries: list[Entry | Rejected]) -> str:
    """Return the externalid of the only entry."""
    [entry] = entries
    assert isinstance(entry, Entry), entry
    return str(entry.job["externalid"])


def test_shape_and_note(read: Read) -> None:
    """A message without Message-ID gets a digest of 40 hexadecimal digits, and a note."""
    [entry] = read(PLAIN, kind="eml")
    assert isinstance(entry, Entry)
    normal = b"from:Jo <jo@x.test>\nsubject:a long subject\n\nHello\n\nFrom here on\nFrom there\nBye"
    assert entry.job["externalid"] == "sha256-" + hashlib.sha256(normal).hexdigest()[:40]
    assert entry.notes == ("no Message-ID; a digest of the message serves",)


@pytest.mark.parametrize(
    "changed",
    [
        PLAIN.replace(b"\n", b"\r\n"),
        PLAIN + b"\n\r\n\n",
        PLAIN.rstrip(),
        b"Status: RO\nX-Mozilla-Status: 0001\nX-Keywords:\nContent-Length: 17\nLines: 3\n" + PLAIN,
        b"Return-Path: <jo@x.test>\nDelivered-To: a@x.test\nEnvelope-To: a@x.test\n" + PLAIN,
        PLAIN.replace(b"\nFrom here", b"\n>From here").replace(b"\n>From there", b"\n>>>From there"),
        PLAIN.replace(b"long\n subject", b"long subject"),
        PLAIN.replace(b"long\n subject", b"long\r\n\tsubject"),
        PLAIN.replace(b"From: Jo", b"FROM:  Jo"),
        b"From - Tue Nov 22 15:31:00 2011\n" + PLAIN,
        b"\xef\xbb\xbf" + PLAIN,
        b"\n\r\n" + PLAIN,
    ],
)
def test_export_does_not_change_it(read: Read, changed: bytes) -> None:
    """What mail programs change on export changes no digest."""
    assert externalid(read(changed, "b", "eml")) == externalid(read(PLAIN, "a", "eml"))


@pytest.mark.parametrize(
    "changed",
    [
        PLAIN.replace(b"Hello", b"Hullo"),
        PLAIN.replace(b"Subject", b"Comments"),
        PLAIN.replace(b"a long", b"along"),
        PLAIN.replace(b"Hello\n", b"Hello\n\n"),
        PLAIN.replace(b"Hello", b"Hello >From me"),
        b"Received: by x.test; 12:00\n" + PLAIN,
    ],
)
def test_another_message_has_another(read: Read, changed: bytes) -> None:
    """What makes it another message makes another digest."""
    assert externalid(read(changed, "b", "eml")) != externalid(read(PLAIN, "a", "eml"))


def test_quoting_within_a_line_counts() -> None:
    """Only at the beginning of a line is >From a quoted From."""
    one, other = Digest([]), Digest([])
    one.update(b"see >From me\n")
    other.update(b"see From me\n")
    assert one.id() != other.id()


def test_same_in_every_format(tmp_path: Path) -> None:
    """The same message has the same digest in an mbox, a Maildir and an .eml file."""
    with closing(mailbox.mbox(tmp_path / "a.mbox")) as box:
        message = mailbox.mboxMessage(PLAIN)
        message.add_flag("RF")
        box.add(message)
    mailbox.Maildir(tmp_path / "dir").add(PLAIN)
    (tmp_path / "a.eml").write_bytes(PLAIN.replace(b"\n", b"\r\n"))
    options = Options(route="Email")
    ids = {
        externalid(list(open_source(tmp_path / name, "auto", options))) for name in ("a.mbox", "dir", "a.eml")
    }
    assert len(ids) == 1


@given(body=st.text("\r\nFrom x", max_size=60).map(str.encode), limit=st.integers(1, 9))
def test_pieces_do_not_matter(body: bytes, limit: int) -> None:
    """However a long line is cut into pieces, the digest is the same."""
    whole, cut = Digest([]), Digest([])
    for digest, size in ((whole, 1_000), (cut, limit)):
        for piece in iter(partial(io.BytesIO(body).readline, size), b""):
            digest.update(piece)
    assert whole.id() == cut.id()


@pytest.mark.parametrize(
    "body", [b"abcdef>From x", b"abcde\r\nx", b"abcdef\nFrom x", b"\r\r\r\r\r\r\r\nFrom x"]
)
def test_long_lines_are_one_line(body: bytes) -> None:
    """A quoted From, or a line's end, where a piece begins is what it is in the whole line."""
    whole, cut = Digest([]), Digest([])
    whole.update(body.partition(b"\n")[0] + b"\n" if b"\n" in body else body)
    whole.update(body.partition(b"\n")[2])
    for piece in iter(partial(io.BytesIO(body).readline, 6), b""):
        cut.update(piece)
    assert whole.id() == cut.id()
