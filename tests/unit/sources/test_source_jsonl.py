"""JSONL files: jobs as they are, completed by the options."""

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.intake.sources import Entry, Options, Rejected, SourceError, open_source

Read = Callable[..., list[Entry | Rejected]]


def only(entries: list[Entry | Rejected]) -> dict[str, Any]:
    """Return the only job."""
    [entry] = entries
    assert isinstance(entry, Entry), entry
    return entry.job


def test_job_is_completed(read: Read) -> None:
    """What a dispatch leaves open, or null, is filled in; the prefix is put before its externalid."""
    made = only(read(b'{"externalid": "7", "provider": null, "again": true}\n', prefix="x-", provider="Crm"))
    assert made == {
        "externalid": "x-7",
        "again": True,
        "route": "Email",
        "provider": "Crm",
        "lane": "backlog",
        "routingdata": {"interactiontype": "nonlive"},
    }


def test_job_outdoes_options(read: Read) -> None:
    """What a dispatch names itself is left alone."""
    line = (
        b'{"externalid":"7","route":"R","provider":"P","lane":"live",'
        b'"routingdata":{"interactiontype":"chat","skills":[]}}'
    )
    assert only(read(line, provider="Crm")) == msgspec.json.decode(line)


def test_interactiontype_is_added_to_routingdata(read: Read) -> None:
    """Routingdata without an interactiontype gets one beside what it has; nonsense is left for the validation."""
    assert only(read(b'{"routingdata": {"skills": []}}', interactiontype="live"))["routingdata"] == {
        "interactiontype": "live",
        "skills": [],
    }
    assert only(read(b'{"routingdata": 7}'))["routingdata"] == 7


def test_release_is_left_alone(read: Read) -> None:
    """A release gets its prefix and nothing else; an id that is no text is left for the validation."""
    assert only(read(b'{"action":"release","externalid":"7"}', prefix="x")) == {
        "action": "release",
        "externalid": "x7",
    }
    assert only(read(b'{"action":"release","externalid":7}', prefix="x"))["externalid"] == 7


def test_blank_lines_and_bom(read: Read) -> None:
    """A byte order mark and blank lines are passed over, and lines counted on."""
    [entry] = read(b"\xef\xbb\xbf\n  \r\n{}\r\n\n")
    assert entry.place.endswith("backlog: line 3")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1,}', "is no JSON: trailing comma in object in column 9"),
        (b'{"a": nonsense}', "is no JSON: invalid character in column 11"),
        (b'{"a": 1', "is no JSON: it breaks off, or has half a character, before column 8"),
        (b'{"a": "\\ud800"}', "is no JSON: it breaks off, or has half a character, before column 16"),
        (b'{"a": "b\xff"}', "is no JSON: not UTF-8 in column 9"),
        (b'["a"]', "is no JSON object"),
        (b'{"a": 1e999}', "is no job: a number out of range"),
        (b"[" * 100_000, "is no job: nested too deeply"),
        (b'"' + b"x" * 1_000_000 + b'"', "is longer than 1,000,000 bytes"),
        (b" " * 1_000_001, "is longer than 1,000,000 bytes"),
    ],
)
def test_bad_line(read: Read, line: bytes, reason: str) -> None:
    """A line that is no job is rejected with the reason and column; the next ones go on."""
    [first, bad, last] = read(b'{"externalid":"1"}\n' + line + b'\n{"externalid":"3"}', "a.jsonl")
    assert isinstance(first, Entry)
    assert isinstance(bad, Rejected)
    assert isinstance(last, Entry)
    assert bad.place.endswith("a.jsonl: line 2")
    assert bad.reason == reason
    assert bad.raw == (line + b"\n")[:100_000]


def test_line_of_just_the_limit(read: Read) -> None:
    """A last line of just the limit's length is read, with and without its newline."""
    line = b'{"externalid":"' + b"x" * (1_000_000 - 17) + b'"}'
    assert len(only(read(line))["externalid"]) == 1_000_000 - 17
    assert len(only(read(line[:-3] + b'"}\n'))["externalid"]) == 1_000_000 - 18
    assert len(read(line[:-3] + b'"}\n{}')) == 2


def test_nul_escape_passes(read: Read) -> None:
    """An escaped NUL is left for the validation of jobs."""
    assert only(read(b'{"externalid": "\\u0000"}'))["externalid"] == "\0"


def test_externalid_from_is_remarked(tmp_path: Path) -> None:
    """An option that a JSONL file can't follow is pointed out."""
    (tmp_path / "a").write_bytes(b"{}")
    source = open_source(tmp_path / "a", "jsonl", Options(externalid_from="X-Case"))
    assert source.remarks == ["X-Case is not looked at: a JSONL job has its externalid"]


def test_memory_stays_flat(tmp_path: Path) -> None:
    """A line of 60 MB takes less than 5 MB of memory."""
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        for _ in range(60):
            file.write(b"x" * 1_000_000)
        file.write(b"\n{}\n")
    source = open_source(path, "jsonl", Options(route="Email"))
    tracemalloc.start()
    entries = list(source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    path.unlink()
    assert len(entries) == 2
    assert source.position == source.total
    assert peak < 5_000_000


@given(content=st.binary(min_size=1, max_size=200) | st.text('{}[]":,\\u0d8\n', min_size=1).map(str.encode))
def test_random_bytes(content: bytes) -> None:
    """Whatever a file holds, it is read to its end or refused."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            source = open_source(file.name, "jsonl", Options(route="Email"))
        except SourceError:
            return
        assert len(list(source)) <= content.count(b"\n") + 1
