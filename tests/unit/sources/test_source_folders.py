"""Maildirs, folders of .eml files, single ones."""

import mailbox
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intake.sources import Entry, Options, Rejected, Source, SourceError, open_source

OPTIONS = Options(route="Email")


def email(name: str) -> bytes:
    """Return an email whose id is its name."""
    return f"Message-ID: <{name}>\nSubject: Hi\n\nHello\n".encode()


def write(root: Path, *names: str) -> None:
    """Write an email to each of the paths."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(email(name))


def ids(source: Source) -> list[str]:
    """Return the externalids; rejected entries as their reasons."""
    return [entry.job["externalid"] if isinstance(entry, Entry) else entry.reason for entry in source]


def test_maildir(tmp_path: Path) -> None:
    """The messages of cur/ and new/ are read in the order of their names, those in tmp/ are not."""
    write(tmp_path, "cur/2:2,S", "cur/1:2,", "new/3", "tmp/4", "cur/.hidden")
    source = open_source(tmp_path, "auto", OPTIONS)
    assert ids(source) == ["cur/1:2,", "cur/2:2,S", "new/3"]
    assert source.position == source.total > 0
    assert next(iter(source)).place == f"{tmp_path}/cur/1:2,"


def test_maildir_of_the_stdlib(tmp_path: Path) -> None:
    """What mailbox.Maildir wrote is read back."""
    box = mailbox.Maildir(tmp_path / "dir")
    box.add(email("1"))
    box.add(email("2"))
    assert sorted(ids(open_source(tmp_path / "dir", "maildir", OPTIONS))) == ["1", "2"]


def test_maildir_without_its_empty_folders(tmp_path: Path) -> None:
    """A copy of a Maildir that lost its empty folders is one still."""
    write(tmp_path, "cur/1")
    assert ids(open_source(tmp_path, "auto", OPTIONS)) == ["cur/1"]


def test_maildir_subfolders_are_pointed_out(tmp_path: Path) -> None:
    """Subfolders of a Maildir are not read, and the source says so."""
    write(tmp_path, "cur/1", ".Sent/cur/2")
    source = open_source(tmp_path, "auto", OPTIONS)
    assert len(ids(source)) == 1
    assert source.remarks == ["1 subfolder(s) are not read: name each as a source of its own"]


def test_folder_of_eml_files(tmp_path: Path) -> None:
    """A folder's .eml files are read with those of its subfolders, sorted; other files are not."""
    folders = [f"{number}/c.eml" for number in range(9)]
    write(tmp_path, "b.eml", "a.EML", "notes.txt", *reversed(folders))
    assert ids(open_source(tmp_path, "auto", OPTIONS)) == ["a.EML", "b.eml", *folders]


def test_single_eml(tmp_path: Path) -> None:
    """A single .eml file is a source of one email, its headers' end or not."""
    path = tmp_path / "one"
    for content in (email("1"), b"Subject: x\nMessage-ID: <1>", b"Message-ID: <1>\nSubject: x\n"):
        path.write_bytes(content)
        assert ids(open_source(path, "auto", OPTIONS)) == ["1"]


def test_headers_only_need_no_blank_line(tmp_path: Path) -> None:
    """A file of complete headers and nothing else is an email, by its digest."""
    path = tmp_path / "one.eml"
    path.write_bytes(b"Subject: x\n")
    [entry] = open_source(path, "auto", OPTIONS)
    assert isinstance(entry, Entry)
    assert entry.notes == ("no Message-ID; a digest of the message serves",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"Hello there,\n\nhow are you?\n", "has no headers: it is no email"),
        (b"Subject: hal", "truncated: it ends within its headers, before any id"),
        (b"\xff\xfeS\0", "is written in UTF-16; save it as UTF-8"),
    ],
)
def test_unreadable_email_in_a_folder(tmp_path: Path, content: bytes, reason: str) -> None:
    """One file that is no email is rejected; the next goes on."""
    (tmp_path / "a.eml").write_bytes(content)
    write(tmp_path, "b.eml")
    [rejected, entry] = open_source(tmp_path, "auto", OPTIONS)
    assert isinstance(rejected, Rejected)
    assert (rejected.place, rejected.reason) == (f"{tmp_path}/a.eml", reason)
    assert isinstance(entry, Entry)


def test_vanished_and_special_files(tmp_path: Path) -> None:
    """A file that vanished, and one that is no file, are rejected; the next goes on."""
    write(tmp_path, "c.eml")
    (tmp_path / "a.eml").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "b.eml")
    source = open_source(tmp_path, "auto", OPTIONS)
    assert ids(source) == ["can't be read: No such file or directory", "is no regular file", "c.eml"]


def test_name_that_is_no_utf_8(tmp_path: Path) -> None:
    """A file name that is no UTF-8 is shown with its unreadable characters replaced."""
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.eml")).write_bytes(email("1"))
    [entry] = open_source(tmp_path, "auto", OPTIONS)
    assert entry.place == f"{tmp_path}/�.eml"


@pytest.mark.parametrize("folder", ["cur", "sub"])
def test_folder_that_vanishes_or_breaks(tmp_path: Path, folder: str) -> None:
    """A folder that can't be listed any more is rejected, after what could be read."""
    write(tmp_path, f"{folder}/a.eml", "new/b.eml")
    source = open_source(tmp_path, "auto", OPTIONS)
    (tmp_path / folder / "a.eml").unlink()
    (tmp_path / folder).rmdir()
    if folder == "cur":
        (tmp_path / folder).write_bytes(b"")  # now a file
        assert ids(source) == ["new/b.eml", "the folder can't be read: Not a directory"]
    else:
        assert ids(source) == ["new/b.eml"]


def test_folder_that_vanished(tmp_path: Path) -> None:
    """A whole folder that vanished after it was opened is one rejection."""
    write(tmp_path / "mails", "a.eml")
    source = open_source(tmp_path / "mails", "eml", OPTIONS)
    (tmp_path / "mails").rename(tmp_path / "elsewhere")
    assert ids(source) == ["the folder can't be read: No such file or directory"]


def test_maildir_that_lost_a_folder(tmp_path: Path) -> None:
    """A Maildir's missing new/ is no error."""
    write(tmp_path, "cur/1")
    assert ids(open_source(tmp_path, "maildir", OPTIONS)) == ["cur/1"]


@pytest.mark.parametrize(
    ("kind", "folders", "message"),
    [
        ("auto", [], "is neither a Maildir"),
        ("auto", ["sub"], "is neither a Maildir"),
        ("maildir", ["sub"], "is no Maildir"),
        ("auto", ["cur", "new", "tmp"], "is empty: no message"),
        ("mbox", [], "is no regular file"),
        ("csv", [], "is no regular file"),
    ],
)
def test_folders_that_are_no_source(tmp_path: Path, kind: str, folders: list[str], message: str) -> None:
    """A folder without messages is refused with the remedy."""
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path, kind, OPTIONS)


def test_file_is_no_maildir(tmp_path: Path) -> None:
    """A file named as a Maildir is refused."""
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(SourceError, match="Not a directory"):
        open_source(tmp_path / "a", "maildir", OPTIONS)
    with pytest.raises(SourceError, match="is no path"):
        open_source("a\0b", "maildir", OPTIONS)


@given(content=st.binary(max_size=300))
def test_random_bytes(content: bytes) -> None:
    """Whatever an .eml file holds, it becomes one entry, accepted or rejected, or is refused."""
    with tempfile.NamedTemporaryFile(suffix=".eml") as file:
        file.write(content)
        file.flush()
        if not content or content.startswith((b"\xff\xfe", b"\xfe\xff")):
            with pytest.raises(SourceError):
                open_source(file.name, "eml", OPTIONS)
        else:
            assert len(list(open_source(file.name, "eml", OPTIONS))) == 1
