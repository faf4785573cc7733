"""CSV files: their header line, their records, and what stray quotes do to them."""

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intake.sources import Entry, Options, Rejected, SourceError, open_source

Read = Callable[..., list[Entry | Rejected]]


def jobs(entries: list[Entry | Rejected]) -> list[dict[str, Any] | str]:
    """Return the jobs; rejected entries as their reasons."""
    return [entry.job if isinstance(entry, Entry) else entry.reason for entry in entries]


def ids(entries: list[Entry | Rejected]) -> list[str]:
    """Return the externalids; rejected entries as their reasons."""
    return [entry.job["externalid"] if isinstance(entry, Entry) else entry.reason for entry in entries]


def test_all_columns(read: Read) -> None:
    """Every column finds its place in the job, and a column outdoes the option."""
    header = b"externalid,route,provider,lane,requestid,interactiontype,clid,name,url,mediatype,action\n"
    row = b" 7 ,R,P,live,q-1,chat,+44123,Case 7,https://x.test/7,Case,Dispatch\n"
    [made] = jobs(read(header + row, prefix="crm-", provider="Other"))
    assert made == {
        "action": "dispatch",
        "externalid": "crm-7",
        "route": "R",
        "provider": "P",
        "lane": "live",
        "requestid": "q-1",
        "routingdata": {"interactiontype": "chat"},
        "linkeddata": [
            {"type": "clid", "value": "+44123"},
            {"type": "url", "label": "Open", "value": "https://x.test/7"},
            {"type": "name", "value": "Case 7"},
            {"type": "mediatype", "value": "Case"},
        ],
    }


def test_least_columns(read: Read) -> None:
    """The externalid is enough; the options fill in the rest."""
    assert jobs(read(b"externalid\n7\n")) == [
        {
            "action": "dispatch",
            "externalid": "7",
            "route": "Email",
            "lane": "backlog",
            "routingdata": {"interactiontype": "nonlive"},
        }
    ]


def test_release(read: Read) -> None:
    """A release takes externalid and requestid, and nothing else of its record."""
    table = b"action,externalid,requestid,name\nrelease,7,q-1,Hi\nRelease,8,,\n"
    assert jobs(read(table, prefix="x", route=None)) == [
        {"action": "release", "externalid": "x7", "requestid": "q-1"},
        {"action": "release", "externalid": "x8"},
    ]


def test_aliases(read: Read) -> None:
    """Message-ID, From and Subject are columns too; a Message-ID reads as in an email."""
    [made] = jobs(read(b"Message-ID;From;Subject\n<1@x>;jo@x.test;Hi\n"))
    assert isinstance(made, dict)
    assert made["externalid"] == "1@x"
    assert [datum["value"] for datum in made["linkeddata"]] == ["jo@x.test", "Hi"]


def test_externalid_from_another_column(read: Read) -> None:
    """An option names the column of the externalid, whatever other columns there are."""
    assert ids(read(b"externalid,Case No\n1,A-7\n", "a.csv", externalid_from="case no")) == ["A-7"]
    assert ids(read(b"externalid,message-id\n1,<7@x>\n", externalid_from="Message-ID")) == ["7@x"]


def test_known_columns_choose_the_delimiter(read: Read) -> None:
    """Where the header line can be split in several ways, that one counts which yields known columns."""
    assert ids(read(b"externalid;name;last, first, and, so, on\n7;a;b\n")) == ["7"]


@pytest.mark.parametrize("mark", [b",", b";", b"\t"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_dialects(read: Read, mark: bytes, end: bytes, bom: bytes) -> None:
    """Comma, semicolon and tab, LF and CRLF, with and without byte order mark are all read."""
    table = bom + b"'externalid'|name|note" + end + b"7|'a, b; c" + end + b"''d'''|" + end
    entries = read(table.replace(b"|", mark).replace(b"'", b'"'))
    [made] = jobs(entries)
    assert isinstance(made, dict)
    assert made["linkeddata"][0]["value"] == "a, b; c" + end.decode() + '"d"'
    assert entries[0].place.endswith(": line 2")


def test_unknown_columns_are_remarked(tmp_path: Path) -> None:
    """Columns that nobody knows are left out, and the source says so once."""
    (tmp_path / "a.csv").write_bytes(b"externalid,note,\xff,\n7,x,y,\n")
    source = open_source(tmp_path / "a.csv", "auto", Options(route="Email"))
    assert source.remarks == ["columns ignored: note, \ufffd"]
    assert len(list(source)) == 1
    assert source.position == source.total


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (b"7", "has 1 field(s) where the header line has 2"),
        (b"7,a,b", "has 3 field(s) where the header line has 2"),
        (b"7,a\x00b", "has a NUL byte"),
        (b"7,a\xffb", "has bytes that are no UTF-8; save the file as UTF-8"),
        (b" ,a", "has no externalid"),
        (b'7,"a"b', "is no CSV: ',' expected after '\"'"),
        (b"7,a\rb", "is no CSV: new-line character seen in unquoted field"),
        (b"7," + b"x" * 200_000, "is no CSV: field larger than field limit (131072)"),
        (b"7," + b"x" * 1_000_000, "is no CSV: longer than 1,000,000 bytes"),
        (b"7,a\n", None),
        (b"\n\r\n7,a", None),
    ],
)
def test_bad_record(read: Read, record: bytes, reason: str | None) -> None:
    """A record that is no job is rejected where it begins; the next ones go on."""
    entries = read(b"externalid,name\n1,a\n" + record + b"\n9,z\n")
    assert ids(entries) == ["1", reason or "7", "9"]
    if reason:
        assert isinstance(entries[1], Rejected)
        assert entries[1].place.endswith(": line 3")
        assert entries[1].raw == (record + b"\n")[:100_000]


@pytest.mark.parametrize("count", [3, 20_000])
def test_quote_without_end(read: Read, count: int) -> None:
    """A quote that is never closed costs its own line only, not the good ones behind it."""
    table = b'externalid,name\n1,a\n2,"b\n' + b"".join(b"%d,c\n" % number for number in range(count))
    found = ids(read(table))
    assert [found[0], *found[2:]] == ["1", *map(str, range(count))]
    assert found[1].startswith("is no CSV: ")


def test_endless_record(read: Read) -> None:
    """A record that goes on over more lines than a job can have is rejected, and read on line by line."""
    entries = read(b'externalid,name\n1,"' + (b"x" * 1_000 + b'\n","') * 1_100 + b'"\n2,b\n', "a.csv")
    assert entries[0].place.endswith(": line 2")
    assert isinstance(entries[0], Rejected)
    assert entries[0].reason == "is no CSV: longer than 1,000,000 bytes"


@pytest.mark.parametrize(
    ("header", "options", "message"),
    [
        (b"1,Invoice", {}, "has no header line"),
        (b"\n\n\n", {}, "has no header line"),
        (b"x" * 2_000_000, {}, "has no header line"),
        (b"name,route,\xff", {}, r"has no column externalid \(found: name, route, \ufffd\); rename one"),
        (
            b"name,route",
            {"externalid_from": "Case"},
            r"has no column case \(found: name, route\); name another one",
        ),
        (b"externalid,name", {"externalid_from": "Case"}, "has no column case"),
        (b"externalid,name", {"route": None}, r"has no column route \(found: externalid, name\); add one"),
        (b"externalid,name,name", {}, "has two columns of the same name"),
    ],
)
def test_bad_header(read: Read, header: bytes, options: dict[str, Any], message: str) -> None:
    """A header line that lacks something is refused with the columns found and the remedy."""
    with pytest.raises(SourceError, match=message):
        read(header + b"\n7,x\n", "a.csv", "csv", **options)


def test_data_in_the_first_line_is_not_told(read: Read) -> None:
    """Where the first line is data, the message holds none of it."""
    with pytest.raises(SourceError) as raised:
        read(b"17,Secret\n", "a.csv")
    assert "Secret" not in str(raised.value)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """A line of 60 MB takes less than 5 MB of memory."""
    path = tmp_path / "a.csv"
    with path.open("wb") as file:
        file.write(b"externalid,name\n1,a\n2,")
        for _ in range(60):
            file.write(b"x" * 1_000_000)
        file.write(b"\n3,c\n")
    source = open_source(path, "auto", Options(route="Email"))
    tracemalloc.start()
    found = ids(list(source))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert found == ["1", "is no CSV: longer than 1,000,000 bytes", "3"]
    assert peak < 5_000_000


@given(content=st.binary(max_size=200) | st.text('externalid,"\n;x', max_size=80).map(str.encode))
def test_random_bytes(content: bytes) -> None:
    """Whatever a table holds, its records become entries, each line at most one."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"externalid,name\n" + content)
        file.flush()
        entries = list(open_source(file.name, "csv", Options(route="Email")))
        assert len(entries) <= content.count(b"\n") + 1
        for entry in entries:
            texts = str(entry.job) if isinstance(entry, Entry) else entry.reason
            assert "\0" not in texts
            assert texts.encode()


@given(content=st.binary(min_size=1, max_size=100))
def test_random_header(content: bytes) -> None:
    """Whatever the first line holds, the table is opened or refused."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            source = open_source(file.name, "csv", Options(route="Email"))
        except SourceError as error:
            refusal = str(error)
            assert refusal.startswith(f"{file.name}: ")
            return
        assert len(list(source)) <= content.count(b"\n")
