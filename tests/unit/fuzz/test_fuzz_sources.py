"""Whatever a file to import holds, it is refused as a whole or read to its end: in fair time, in printable words."""

import encodings
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from worker.domain.job import JobError, parse
from worker.intake.sources import FORMATS, Entry, Options, SourceError, open_source, table

FROM = b"From jo@example.com Tue Nov 22 15:31:00 2011\n"
WORD = "Jane Doe"
WORDS = WORD.encode()


@contextmanager
def written(content: bytes, kind: str) -> Iterator[Path]:
    """Write a source: a file, or a Maildir with one message."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a")
        if kind == "maildir":
            (path / "cur").mkdir(parents=True)
        (path / "cur" / "1" if kind == "maildir" else path).write_bytes(content)
        yield path


def read(content: bytes, kind: str, *, words: bool = False, **options: str) -> int:
    """Read a source; how many entries it has. Hold all that is said of it to what is promised."""
    said: list[str] = []
    count = 0
    with written(content, kind) as path:
        try:
            source = open_source(path, kind, Options(**{"route": "R", **options}))
            for entry in source:
                count += 1
                said += [entry.place, *(entry.notes if isinstance(entry, Entry) else [entry.reason])]
                if isinstance(entry, Entry):
                    said.append(told(entry))
            said += source.remarks
        except SourceError as error:
            refusal = str(error)
        else:
            refusal = f"{path}: is read"
    said.append(refusal)
    assert refusal.startswith(f"{path}: ")
    assert all(text.isprintable() for text in said), said
    assert all(len(text) < 1_000 for text in said)
    assert words or not any(WORD in text for text in said), said
    return count


def told(entry: Entry) -> str:
    """Read the entry as a job, as an import does; why it is none."""
    try:
        parse(entry.job)
    except JobError as error:
        return str(error)
    return ""


odd = st.sampled_from(
    [
        b"\0", b"\xff", b"\xef\xbb\xbf", b"\xfe\xff", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\r", b"\n", b"\r\n", b"\n\n",
        b" ", b"\t", b"\x1b[31m", b"\xe2\x80\xae", b"", WORDS,
    ]
)  # fmt: skip
bit = odd | st.binary(max_size=6)
encoded = st.builds(
    lambda charset, how, text: b"=?" + charset + b"?" + how + b"?" + text + b"?=",
    st.sampled_from(
        b"utf-8 utf-7 utf-16 x-nonsense unicode_escape undefined idna punycode hex rot13 bz2 zip mbcs cp65001 big5"
        b" iso2022_jp hz \xff utf-8*de ../../etc".split()
    ) | st.binary(min_size=1, max_size=4),
    st.sampled_from([b"q", b"B", b"x"]),
    st.sampled_from([b"=41", b"=", b"=00=ED=A0=80", b"4pyT", b"!", b"+2AA-", b"=1B=5B", b"~{"]) | bit,
)  # fmt: skip
values = st.lists(
    bit | encoded | st.sampled_from([b"<1@x>", b"(", b")", b"<", b">", b'"', b"\\", b"jo@x.test", b"99999"]),
    max_size=6,
).map(b"".join)
header = st.builds(
    lambda name, value: name + b":" + value + b"\n",
    st.sampled_from(b"Message-ID From Sender Subject Content-Length Date X-Case".split()) | bit,
    values,
)
mails = st.lists(header | st.sampled_from([b"\n", FROM, b">From x\n", b" folded\n"]) | bit, max_size=10).map(
    b"".join
)


@examples(max_examples=75)
@given(
    mail=mails, kind=st.sampled_from(["auto", "mbox", "eml", "maildir"]), begin=st.sampled_from([b"", FROM])
)
def test_any_mail(mail: bytes, kind: str, begin: bytes) -> None:
    """Odd headers, charsets and bytes make entries or rejections, which tell nothing that a customer wrote."""
    read(begin + mail, kind, externalid_from="X-Case" if len(mail) % 2 else "Message-ID")


marks = st.sampled_from([b'"', b'""', b",", b";", b"dispatch", b"release", b"e"])
cell = st.lists(bit | marks, max_size=4).map(b"".join)
record = st.lists(cell, min_size=1, max_size=4).map(b",".join)


@examples(max_examples=75)
@given(records=st.lists(record, max_size=6).map(b"\n".join), kind=st.sampled_from(["auto", "csv"]))
def test_any_table(records: bytes, kind: str) -> None:
    """Odd quotes and bytes in a table's records make entries or rejections, which tell nothing of a field."""
    read(b"externalid,name,action\n" + records, kind)


@examples(max_examples=40)
@given(begin=st.sampled_from([b"", b"name,", b"externalid,"]), names=record)
def test_any_header_line(begin: bytes, names: bytes) -> None:
    """Whatever the header line holds, the table is opened or refused in a few printable words."""
    read(begin + names + b"\ne,n\n", "csv", words=True)


lines = st.one_of(
    bit,
    st.builds(
        lambda name, value: b'{"externalid":"e","%s":%s}' % (name, value),
        st.sampled_from(b"externalid route action linkeddata routingdata extra again lane".split()),
        st.sampled_from(
            [
                b"NaN", b"1e999", b"9" * 5000, b"-0", b'"\\ud800"', b'"\\u0000"', b"[[[[", b"{}", b'"%s"' % WORDS,
                b"null", b"[1]", b'{"interactiontype":7}', b'"release"', b"[" * 5000 + b"]" * 5000,
            ]
        ) | bit,
    ),
)  # fmt: skip


@examples(max_examples=75)
@given(content=st.lists(lines, max_size=6).map(b"\n".join), kind=st.sampled_from(["auto", "jsonl"]))
def test_any_lines(content: bytes, kind: str) -> None:
    """Odd JSON and bytes in a file of jobs make entries or rejections, which tell nothing of a value but a choice."""
    read(b'{"externalid":"e"}\n' + content, kind, words=b'action":' in content or b'lane":' in content)


def test_a_path_that_can_not_be_shown(tmp_path: Path) -> None:
    """A path with control characters is told in one printable line, one that is too long by its end."""
    folder = tmp_path / "a\nb\x1b[31m\u202e" / ("x" * 250) / ("y" * 250) / ("z" * 250)
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(b'{"externalid":"e"}\n{')
    (folder / "b\n.eml").write_bytes(b"Message-ID: <1@x>\n\n")
    places = [
        entry.place for name in ("a.jsonl", ".") for entry in open_source(folder / name, options=Options("R"))
    ]
    assert len(places) == 3
    assert all(place.isprintable() and len(place) < 600 for place in places)
    assert places[1].endswith("zz/a.jsonl: line 2")
    with pytest.raises(SourceError) as refusal:
        open_source(tmp_path / "no\nsuch")
    assert str(refusal.value).isprintable()


MAIL = b"Message-ID: <1@x>\nSubject: s\nFrom: jo@x.test\n"
MIME = b"Content-Type: multipart/mixed; boundary=a\n\n"

HOSTILE = {
    "separators": FROM * 4_000,
    "separators and headers": (FROM + b"a: b\n") * 3_000,
    "nearly separators": FROM
    + MAIL
    + b"\n"
    + (b"\n\nFrom " + b"Tue Nov 22 15:31:00 2011 " * 38 + b"x\n") * 500,
    "spaces in a separator": FROM + MAIL + b"\n" + (b"\n\nFrom Tue" + b" " * 900 + b"Nov\n") * 500,
    "lengths": (FROM + b"Content-Length: 999999\n" + MAIL + b"\n\n") * 3_000,
    "headers": FROM + b"a: b\n" * 60_000 + b"\n",
    "a million headers": FROM + b"a:\n" * 1_000_000,
    "folds": FROM + b"Subject: x\n" + b" y\n" * 100_000 + b"\n",
    "nested parts": FROM + MAIL + MIME + (b"--a\n" + MIME) * 20_000,
    "one line": FROM + MAIL + b"\n" + b"x" * 5_000_000,
    "blank lines": b"\n" * 500_000 + FROM + MAIL,
    "quoted lines": FROM + b"a: b\n\n" + (b">" * 60_000 + b"From \n") * 50,
    "carriage returns": FROM + b"a: b\n\n" + b"\r" * 3_000_000,
    "charsets": b"".join(FROM + b"Subject: =?c%d%s?q?a?=\n\n" % (i, b"x" * 5_000) for i in range(100)),
    **{
        f"sender {mark!r}": FROM + b"From: " + mark * 100_000 + b"\n\n"
        for mark in (b"(", b"<", b'"', b'\\"', b'"a\\', b"a@", b'"@', b"()<", b'"" ', b",;:")
    },
    **{
        f"subject {mark!r}": FROM + b"Message-ID: <1@x>\nSubject: " + mark * 100_000 + b"\n\n"
        for mark in (b"=?", b"=?x?q?", b"?= ", b"=?utf-8?q?=41?= ", b"=?utf-7?q?+", b"\xff", b"=?utf-8?b?=")
    },
    **{
        f"id {mark!r}": FROM + b"Message-ID: " + mark * 100_000 + b"\n\n"
        for mark in (b"<", b"<(>", b"(", b"< >")
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_mailboxes(name: str) -> None:
    """A mailbox made to be slow is read in time that grows with its size and no faster."""
    started = time.process_time()
    read(HOSTILE[name], "mbox")
    assert time.process_time() - started < 10


def test_long_names_of_charsets() -> None:
    """Python remembers each charset that it was asked for; it is not asked for what can be none."""
    read(HOSTILE["charsets"], "mbox")
    assert max(map(len, encodings._cache)) < 100  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("csv", b"externalid,name\n" + b'a","\n' * 12_000),
        ("csv", b"externalid,name\n" + b'"' * 1_000_000),
        ("csv", b"externalid,name\n" + b'"\n' * 300_000),
        ("csv", b"externalid,name\n" + b"," * 1_000_000),
        ("csv", b"externalid" + b",a" * 400_000 + b"\ne"),
        ("csv", b"externalid" + b",externalid" * 50_000 + b"\ne"),
        ("csv", b"a" * 2_000_000),
        ("csv", b"externalid,name\n" + b"\n" * 300_000),
        ("jsonl", b"{" * 1_000_000),
        ("jsonl", (b'{"extra":' + b'{"a":' * 3_000 + b"\n") * 50),
        ("jsonl", b'{"externalid":"%s"}\n' % (b"x" * 5_000_000)),
        ("jsonl", b'{"externalid":"e","linkeddata":[%s1]}\n' % (b"{}," * 300_000)),
        ("jsonl", b'{"externalid":%s}\n' % (b"9" * 999_000)),
        ("jsonl", b"\n" * 300_000),
        ("auto", b":" * 1_000_000),
        ("auto", b"a: b\n" * 200_000),
        ("auto", b" " * 1_000_000),
    ],
    ids=range(17),
)
def test_hostile_tables_and_lines(kind: str, content: bytes) -> None:
    """A table, or a file of jobs, made to be slow is read in time that grows with its size and no faster."""
    started = time.process_time()
    read(content, kind)
    assert time.process_time() - started < 10


def test_quotes_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a table of nothing but quotes that don't end, what is not read again is counted, kept and told."""
    monkeypatch.setattr(table, "LINE_LIMIT", 5_000)
    monkeypatch.setattr(table, "_SPARE", 10_000)
    with written(b"externalid,name\n" + b'a","\n' * 2_000 + b"e,n\n" * 5_000 + b"last,n\n", "csv") as path:
        found = list(open_source(path, "csv", Options("R")))
    jobs = [entry.job["externalid"] for entry in found if isinstance(entry, Entry)]
    reasons = [entry.reason for entry in found if not isinstance(entry, Entry)]
    assert jobs[-1] == "last"
    told = ", nor are the 1,000 lines after it; mend the quotes there and import them again"
    assert f"is no CSV: longer than 5,000 bytes{told}" in reasons


@pytest.mark.parametrize("kind", FORMATS[1:])
def test_names_of_files_are_no_secret_but_their_words_are(kind: str) -> None:
    """What is rejected in any format is told by its place, and nothing that stands in it is repeated."""
    text = json.dumps({"externalid": "", "route": WORD}).encode()
    rejected = {"csv": b"externalid,name\n," + WORDS, "jsonl": text + b"\n{" + WORDS}
    mail = b"Subject: " + WORDS
    read(rejected.get(kind, FROM + mail if kind == "mbox" else mail), kind)
