"""Where the messages of an mbox begin and end."""

import mailbox
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intake.sources import Entry, Options, Rejected, SourceError, open_source
from worker.intake.sources.files import PIECE
from worker.intake.sources.message import BLOCK_LIMIT

Read = Callable[..., list[Entry | Rejected]]

REAL = Path(__file__).parents[4] / "shared" / "mail" / "lists.mbox"
FROM = b"From jo@x.test Tue Nov 22 15:31:00 2011\n"


def message(number: int, body: bytes = b"Hello\n", separator: bytes = FROM, headers: bytes = b"") -> bytes:
    """Return a message as it stands in an mbox, with the blank line behind it."""
    return separator + headers + b"Message-ID: <%d@x>\nSubject: Hi\n\n" % number + body + b"\n"


def ids(entries: list[Entry | Rejected]) -> list[str]:
    """Return the externalids; rejected entries as their reasons."""
    return [entry.job["externalid"] if isinstance(entry, Entry) else entry.reason for entry in entries]


def test_place_names_number_and_byte(read: Read, tmp_path: Path) -> None:
    """Every entry says where it stands: file, number, byte of its From line."""
    first = message(1)
    entries = read(first + message(2), "a.mbox")
    assert [entry.place for entry in entries] == [
        f"{tmp_path}/a.mbox: message 1 (byte 0)",
        f"{tmp_path}/a.mbox: message 2 (byte {len(first)})",
    ]


def test_position_reaches_total(tmp_path: Path) -> None:
    """The position grows with every message and ends at the total."""
    path = tmp_path / "a.mbox"
    path.write_bytes(message(1) + message(2))
    source = open_source(path, "mbox", Options(route="Email"))
    positions = [source.position for _ in source]
    assert positions == [len(message(1)), len(message(1) + message(2))]
    assert source.position == source.total == path.stat().st_size


@pytest.mark.parametrize(
    "separator",
    [
        b"From jo@x.test Tue Nov 22 15:31:00 2011\n",
        b"From jo@x.test  Tue Nov  2 15:31 2011\n",
        b"From - Tue Nov 22 15:31:00 2011\n",
        b"From MAILER-DAEMON Tue Nov 22 15:31:00 2011\n",
        b"From Tue Nov 22 15:31:00 2011\n",
        b"From 1398@xxx Tue Nov 22 15:31:00 +0000 2011\n",
        b"From jo@x.test Tue Nov 22 15:31:00 CET 2011\n",
        b"From jo@x.test Tue Nov 22 15:31:00 2011 +0100\n",
        b"From jo at x.test  Tue Nov 22 15:31:00 2011\n",
        b"From jo@x.test Tue, 22 Nov 2011 15:31:00 +0100\n",
        b"From jo@x.test 2011-11-22T15:31:00Z\n",
        b"From jo Tue Nov 22 15:31:00 2011 remote from gateway\n",
        b'From "jo doe"@x.test Tue Nov 22 15:31:00 2011\n',
    ],
)
def test_separators(read: Read, separator: bytes) -> None:
    """Every From line that mail programs write separates messages, with LF and CRLF."""
    box = message(1, separator=separator) + message(2, separator=separator)
    assert ids(read(box)) == ["1@x", "2@x"]
    assert ids(read(box.replace(b"\n", b"\r\n"))) == ["1@x", "2@x"]


@pytest.mark.parametrize(
    "body",
    [
        b"\nFrom here on it is easy\nSubject: no\n",
        b"\nFrom jo@x.test Tue Nov 22 15:31:00 2011\nwas the date\n",
        b"\nFrom jo@x.test Tue Nov 22 15:31:00 2011\n\nSubject: no\n",
        b"\nFrom jo@x.test Tue Nov 22 15:31:00 2011\nhttp://x.test\n",
        b"Hi\nFrom jo@x.test Tue Nov 22 15:31:00 2011\nSubject: no\n",
        b"\n>From jo@x.test Tue Nov 22 15:31:00 2011\nSubject: no\n",
        b"\nFrom 1\nSubject: no\n",
        b"\nFrom " + b"x" * 2_000 + b" Tue Nov 22 15:31:00 2011\nSubject: no\n",
        b"\nFrom " + b"0a" * 20 + b" Mon Sep 17 00:00:00 2001\nFrom: Jo\nSubject: [PATCH]\n",
        b"x" * PIECE + b"\nFrom jo@x.test Tue Nov 22 15:31:00 2011\nSubject: no\n",
        b"\n" + b"x" * PIECE + b"From jo@x.test Tue Nov 22 15:31:00 2011\nSubject: no\n",
    ],
)
def test_from_line_in_body(read: Read, body: bytes) -> None:
    """A From line in a body makes no new message."""
    assert ids(read(message(1, body) + message(2))) == ["1@x", "2@x"]


def test_patches_from_git(read: Read) -> None:
    """A file that git format-patch wrote is an mbox like any other."""
    patch = b"From " + b"0a" * 20 + b" Mon Sep 17 00:00:00 2001\n"
    assert ids(read(message(1, separator=patch) + message(2, separator=patch))) == ["1@x", "2@x"]


def test_content_length_spares_unquoted_from_lines(read: Read) -> None:
    """A Content-Length that ends at a separator or the file's end is believed (mboxcl2)."""
    body = b"\n" + message(7)
    headers = b"Content-Length: %d\n" % len(body)
    box = message(1, body, headers=headers) + message(2, body, headers=headers)
    assert ids(read(box)) == ["1@x", "2@x"]
    assert ids(read(box.rstrip(b"\n"))) == ["1@x", "2@x", "7@x"]  # the last one is cut


@pytest.mark.parametrize("length", [b"0", b"3", b"999999", b"-1", b"x", b"9" * 5_000, "²".encode()])
def test_wrong_content_length_is_ignored(read: Read, length: bytes) -> None:
    """A Content-Length that ends anywhere else hides no message."""
    headers = b"Content-Length: " + length + b"\n"
    box = message(1, headers=headers) + message(2, headers=headers)
    assert ids(read(box)) == ["1@x", "2@x"]


def test_content_length_within_a_line_is_ignored(read: Read) -> None:
    """A Content-Length that ends behind the > of a quoted From line makes no message of it."""
    body = b"Hi\n>" + message(7)
    assert ids(read(message(1, body, headers=b"Content-Length: 4\n"))) == ["1@x"]


def test_content_length_and_digest(read: Read) -> None:
    """A message without Message-ID has the same digest with a believed Content-Length and without."""
    text = b"Subject: Hi\n\nHello\n\nBye\n"
    with_length = FROM + b"Content-Length: 11\n" + text + b"\n"
    [one, two] = ids(read(with_length + message(2)))
    assert [one] == ids(read(FROM + text))
    assert two == "2@x"


def test_bom_and_leading_blank_lines(read: Read) -> None:
    """A byte order mark and blank lines before the first message are passed over."""
    assert ids(read(b"\xef\xbb\xbf\n\r\n" + message(1))) == ["1@x"]


def test_headers_cut_by_next_message(read: Read) -> None:
    """A message cut within its headers does not swallow the next one."""
    entries = read(message(1) + FROM + b"Subject: half\n" + message(2))
    assert ids(entries) == ["1@x", "truncated: it ends within its headers, before any id", "2@x"]


def test_doubled_from_line(read: Read) -> None:
    """Two From lines in a row begin one message."""
    assert ids(read(FROM + message(1) + FROM + message(2))) == ["1@x", "2@x"]


@pytest.mark.parametrize(
    "end", [b"", b"Subj", b"Subject: half", b"Subject: half\nMessage-ID: <1@exam", b"Subject: half\n"]
)
def test_truncated_headers_without_id(read: Read, end: bytes) -> None:
    """A file that ends before the last message's id rejects that message as truncated."""
    [first, last] = read(message(1) + FROM + end)
    assert isinstance(first, Entry)
    assert isinstance(last, Rejected)
    assert last.reason.startswith("truncated: ")
    assert last.raw == end


def test_truncated_headers_with_id(read: Read) -> None:
    """A file that ends behind the last message's id yields that message, with a note."""
    [entry] = read(FROM + b"Message-ID: <1@x>\nSubj")
    assert isinstance(entry, Entry)
    assert entry.notes == ("it ends within its headers; what follows is missing",)


def test_truncated_body(read: Read) -> None:
    """A message cut within its body is an entry."""
    assert ids(read(message(1)[:-3])) == ["1@x"]


def test_headers_over_the_limit(read: Read) -> None:
    """A header block over its limit is rejected with its beginning; the next message goes on."""
    long = FROM + b"X-Long: " + b"x" * BLOCK_LIMIT + b"\n\n\nbody\n\n"
    [rejected, entry] = read(long + message(2))
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "its headers are longer than 1,048,576 bytes"
    assert len(rejected.raw) == 100_000
    assert ids([entry]) == ["2@x"]


def test_from_line_within_overlong_header(read: Read) -> None:
    """What looks like a From line within the rest of an overlong header makes no message."""
    header = b"X-Long: ".ljust(17 * PIECE, b"x") + FROM + b"Subject: no\n"
    assert len(ids(read(FROM + header + b"\n\n" + message(2)))) == 2


def test_header_of_just_one_piece(read: Read) -> None:
    """A header that ends where a piece of it ends is not taken for the blank line."""
    assert ids(read(FROM + b"X-Long: ".ljust(PIECE, b"x") + b"\n" + message(1, separator=b""))) == ["1@x"]


def test_message_without_headers(read: Read) -> None:
    """A first message without a single header is rejected."""
    assert ids(read(FROM + b"\nHello\n\n" + message(2))) == ["has no headers: it is no email", "2@x"]


@pytest.mark.parametrize("content", [b"Hello\n", b"From here on\nSubject: x\n", b"\n\n", b"x" * 200_000])
def test_no_mbox(read: Read, content: bytes) -> None:
    """A file that does not begin with a From line is no mbox."""
    with pytest.raises(SourceError, match="is no mbox file"):
        read(content, kind="mbox")


def test_medium_fails_on_the_way(tmp_path: Path) -> None:
    """An error of the medium in mid file is a SourceError that says where."""
    path = tmp_path / "a.mbox"
    path.write_bytes(message(1))
    source = open_source(path, "mbox", Options(route="Email"))
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading its beginning fails like a broken disk
    with pytest.raises(SourceError, match=r"a\.mbox: can't be read: Input/output error"):
        list(source)


@given(content=st.binary(max_size=400), begin=st.sampled_from([b"", FROM, FROM + b"Subject: "]))
def test_random_bytes(content: bytes, begin: bytes) -> None:
    """Whatever a file holds, it is refused as a whole or read to its end."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(begin + content)
        file.flush()
        for kind in ("auto", "mbox"):
            try:
                source = open_source(file.name, kind, Options(route="Email"))
            except SourceError:
                continue
            for entry in source:
                assert storable(entry)


def storable(entry: Entry | Rejected) -> bool:
    """Tell whether Postgres would take an entry's texts."""
    texts = [entry.place, str(entry.job)] if isinstance(entry, Entry) else [entry.place, entry.reason]
    return all("\0" not in text and text.encode() for text in texts)


@given(
    bodies=st.lists(
        st.lists(st.sampled_from(["From x", FROM.decode().strip(), "a: b", "", "Hi"])), max_size=6
    )
)
def test_reads_what_the_stdlib_writes(bodies: list[list[str]]) -> None:
    """Every message that mailbox.mbox wrote is read back, by the same Message-ID."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mbox"
        with closing(mailbox.mbox(path)) as box:
            for number, lines in enumerate(bodies):
                email = EmailMessage()
                email["Message-ID"] = f"<{number}@x.test>"
                email.set_content("\n".join(lines))
                box.add(email)
        entries = list(open_source(path, "mbox", Options(route="Email"))) if bodies else []
        assert ids(entries) == [f"{number}@x.test" for number in range(len(bodies))]


@pytest.mark.skipif(not REAL.exists(), reason="the real mailbox is not at hand")
def test_real_mailbox() -> None:
    """A real mailbox of mailing lists: 263 messages, 228 of them distinct."""
    entries = list(open_source(REAL, "auto", Options(route="Email")))
    assert len(entries) == 263
    assert len(set(ids(entries))) == 228
    assert all(isinstance(entry, Entry) and len(entry.job["linkeddata"]) == 3 for entry in entries)


def _attachment(line: int) -> Iterator[bytes]:
    for _ in range(60_000_000 // line):
        yield b"A" * (line - 1) + b"\n"


@pytest.mark.parametrize("line", [1_000, 60_000_000])
@pytest.mark.parametrize("with_id", [True, False])
def test_memory_stays_flat(tmp_path: Path, line: int, with_id: bool) -> None:
    """A 60 MB attachment, even in a single line, takes less than 5 MB of memory."""
    path = tmp_path / "a.mbox"
    with path.open("wb") as file:
        file.write(message(1) if with_id else FROM + b"Subject: x\n\n")
        file.writelines(_attachment(line))
        file.write(b"\n" + message(2))
    source = open_source(path, "auto", Options(route="Email"))
    tracemalloc.start()
    count = sum(1 for _ in source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert count == 2
    assert peak < 5_000_000
