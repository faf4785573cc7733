"""What a source is, and what is none."""

from collections.abc import Callable
from pathlib import Path

import pytest

from worker.intake.sources import FORMATS, Entry, Options, Rejected, SourceError, detect, open_source

Read = Callable[..., list[Entry | Rejected]]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a", b"From jo@x.test Tue Nov 22 15:31:00 2011\nSubject: x\n", "mbox"),
        ("a.eml", b"\xef\xbb\xbf\r\nFrom - Tue Nov 22 15:31:00 2011\r\n", "mbox"),
        ("a", b'\n {"externalid": "7"}', "jsonl"),
        ("a.csv", b"{", "jsonl"),
        ("a", b"MIME-Version: 1.0\nX-Long: a\n b\nfrom: x\n\n", "eml"),
        ("a.csv", b"Subject: externalid\n", "eml"),
        ("a", b"externalid,name\n", "csv"),
        ("a", b"Name;Route\n", "csv"),
        ("a", b"message-id\n", "csv"),
        ("a.CSV", b"Case\tTopic\n", "csv"),
        ("a.tsv", b"x", "csv"),
        ("a.mbox", b"x", "mbox"),
        ("a.mbx", b"x", "mbox"),
        ("a.eml", b"x", "eml"),
        ("a.jsonl", b"x", "jsonl"),
        ("a.ndjson", b"[", "jsonl"),
    ],
)
def test_content_comes_before_name(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    """The beginning of a file tells its format; where it does not, its name does."""
    (tmp_path / name).write_bytes(content)
    assert detect(tmp_path / name) == expected


@pytest.mark.parametrize(
    "content", [b"Hello", b"\x89PNG\r\n", b"name\n", b"Note: x\nsee http://x.test\n", b"\n \n", b"[1]"]
)
def test_format_can_not_be_told(read: Read, content: bytes) -> None:
    """A file that looks like nothing known is refused with what was looked for."""
    with pytest.raises(SourceError, match=r"its format can't be told: no line 'From .*--format"):
        read(content, "a.txt")


@pytest.mark.parametrize("kind", FORMATS[:2] + FORMATS[3:])
def test_files_that_are_none(read: Read, tmp_path: Path, kind: str) -> None:
    """A file that is empty, missing or in UTF-16 is refused whatever the format, with a remedy."""
    with pytest.raises(SourceError, match="is empty; export it again"):
        read(b"", kind=kind)
    with pytest.raises(SourceError, match="can't be read: No such file or directory; check the path"):
        open_source(tmp_path / "missing", kind, Options(route="Email"))
    with pytest.raises(SourceError, match="is written in UTF-16; save it as UTF-8"):
        read("externalid".encode("utf-16"), kind=kind)
    with pytest.raises(SourceError, match="is no path"):
        open_source("a\0b", kind, Options(route="Email"))


def test_unknown_format(read: Read) -> None:
    """A format that nobody knows is refused with those that are known."""
    with pytest.raises(
        SourceError, match="unknown format pst; choose one of auto, mbox, maildir, eml, csv, jsonl"
    ):
        read(b"x", kind="pst")


def test_emails_need_a_route(read: Read) -> None:
    """Emails name no route, so that the options must."""
    with pytest.raises(SourceError, match="name one for all with --route"):
        read(b"Subject: x\n\n", kind="eml", route=None)
