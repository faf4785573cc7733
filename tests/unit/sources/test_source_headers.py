"""From a header block to a job."""

from collections.abc import Callable
from typing import Any

import pytest

from worker.intake.sources import Entry, Rejected
from worker.intake.sources.message import message_id, sender_address

Job = Callable[..., dict[str, Any]]
Read = Callable[..., list[Entry | Rejected]]


def linked(job: dict[str, Any], kind: str) -> str | None:
    """Return the first value of a kind of linked data."""
    return next((datum["value"] for datum in job["linkeddata"] if datum["type"] == kind), None)


def test_complete_job(job: Job) -> None:
    """An email becomes a dispatch with its sender, link, subject and media type."""
    made = job(
        b"From: Jo <jo@example.com>\nSubject: Invoice\nMessage-ID: <a/1@example.com>",
        provider="Crm",
        prefix="mail-",
        url_template="https://mail.test/{id}?x={externalid}",
    )
    assert made == {
        "action": "dispatch",
        "externalid": "mail-a/1@example.com",
        "route": "Email",
        "provider": "Crm",
        "lane": "backlog",
        "routingdata": {"interactiontype": "nonlive"},
        "linkeddata": [
            {"type": "clid", "value": "jo@example.com"},
            {
                "type": "url",
                "label": "Open the email",
                "value": "https://mail.test/a%2F1%40example.com?x=mail-a%2F1%40example.com",
            },
            {"type": "name", "value": "Invoice"},
            {"type": "mediatype", "value": "Email"},
        ],
    }


def test_least_job(job: Job) -> None:
    """Without sender, subject, provider and template there is no clid, no url, no provider, and a stand-in subject."""
    made = job(b"Message-ID: <1@x>")
    assert "provider" not in made
    assert made["linkeddata"] == [
        {"type": "name", "value": "(no subject)"},
        {"type": "mediatype", "value": "Email"},
    ]


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("<a@b>", "a@b"),
        ("  <a@b>  (added by gw)", "a@b"),
        ("(first) <a@b>", "a@b"),
        ("<a\t b@c>", "ab@c"),
        ("a@b (comment)", "a@b"),
        ("<<a@b>>", "a@b"),
        ("<a@b", "a@b"),
        ("<>", ""),
        ("", ""),
    ],
)
def test_message_id(header: str, expected: str) -> None:
    """A Message-ID loses its brackets, comments and whitespace."""
    assert message_id(header) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("Jo Doe <jo@x.test>", "jo@x.test"),
        ("jo@x.test (Jo)", "jo@x.test"),
        ("jo@x.test", "jo@x.test"),
        ('"Doe, Jo <no@x.test>" <jo@x.test>', "jo@x.test"),
        ("fake@x.test <jo@x.test>", "jo@x.test"),
        ("Doe, Jo <jo@x.test>", "jo@x.test"),
        ('<"jo doe"@x.test>', '"jo doe"@x.test'),
        ("<a@x.test>, <b@x.test>", "a@x.test"),
        ("Jo <jo doe@x.test>", ""),
        ("Jo <>", ""),
        ("undisclosed-recipients:;", ""),
        ("Jo", ""),
        ("((((((" * 2_000, ""),
    ],
)
def test_sender_address(header: str, expected: str) -> None:
    """The sender is the bare address, whatever is written around it."""
    assert sender_address(header) == expected


def test_sender_stands_in_for_from(job: Job) -> None:
    """Where From has no address, Sender's is taken."""
    assert linked(job(b"From: nobody\nSender: <gw@x.test>\nMessage-ID: <1@x>"), "clid") == "gw@x.test"


def test_folded_headers_are_unfolded(job: Job) -> None:
    """A folded Message-ID and a folded subject read as one line each."""
    made = job(b"Message-ID:\r\n <1@x>\r\nSubject: one\r\n\ttwo\r\n three\r")
    assert (made["externalid"], linked(made, "name")) == ("1@x", "one two three")


@pytest.mark.parametrize(
    ("raw", "expected", "note"),
    [
        (b"=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße", None),
        (b"=?UTF-8?B?R3LDvMOfZQ==?= =?iso-8859-1*de?q?_=E4?=", "Grüße ä", None),
        (
            b"=?utf-8?b?w?= =?utf-8?b?w7w=?=",
            "=?utf-8?b?w?=ü",
            "an encoded word that can't be decoded, left as it is",
        ),
        (b"=?utf-8?q?=C3?= =?utf-8?q?=BC?=", "ü", None),
        (b"=?utf-8?b?dw?=", "w", None),
        (b"a =?utf-8?q?b?= c", "a b c", None),
        (b"=?utf-8?q?b?=x =?utf-8?b?!?=", "bx ", None),
        (b"=?x-nonsense?q?Gr=C3=BC=DFe?=", "GrÃ¼ße", "unknown charset; unreadable characters replaced"),
        (b"=?unicode_escape?q?=5Cu0041?=", "\\u0041", "unknown charset; unreadable characters replaced"),
        (b"=?hex?q?a?=", "a", "unknown charset; unreadable characters replaced"),
        (b"=?a\x00b?q?a?=", "a", "unknown charset; unreadable characters replaced"),
        (b"=?utf-8?q?a=FFb?=", "a�b", "unreadable characters replaced"),
        (b"=?utf-7?q?+2AA-?=", "�", "unreadable characters replaced"),
        (b"=?utf-8?q?a=00b=1B?=", "a�b�", "unreadable characters replaced"),
        ("Grüße".encode(), "Grüße", None),
        (b"Gr\xfc\xdfe \x80", "Grüße €", "raw 8-bit bytes that are no UTF-8, read as Windows-1252"),
        (b"a\x00b", "a�b", "unreadable characters replaced"),
        (
            b"\xed\xa0\x80",
            "í\xa0€".replace("\xa0", " "),
            "raw 8-bit bytes that are no UTF-8, read as Windows-1252",
        ),
        (b"=?utf-8?q?a=0Ab?=", "a b", None),
        (b"a\\u0041 =?utf-8?q?b?= \\u1", "a\\u0041 b \\u1", None),
    ],
)
def test_subject_is_decoded(read: Read, raw: bytes, expected: str, note: str | None) -> None:
    """A subject becomes readable text fit for jsonb, and a repair is noted without the customer's words."""
    [entry] = read(b"Message-ID: <1@x>\nSubject: " + raw + b"\n\n", kind="eml")
    assert isinstance(entry, Entry)
    assert linked(entry.job, "name") == expected.strip()
    assert entry.notes == ((f"Subject: {note}",) if note else ())


def test_long_subject_is_cut(read: Read) -> None:
    """A subject of many thousand characters is cut, with a note."""
    [entry] = read(b"Message-ID: <1@x>\nSubject: " + b"=?utf-8?q?" * 50_000 + b"\n\n", kind="eml")
    assert isinstance(entry, Entry)
    assert len(linked(entry.job, "name") or "") == 1_000
    assert entry.notes == ("Subject: longer than 1,000 characters; cut",)


def test_nul_in_message_id_is_replaced(read: Read) -> None:
    """A NUL byte in a Message-ID is replaced, the same way every time, and noted."""
    [entry] = read(b"Message-ID: <a\x00\xe9@x>\n\n", kind="eml")
    assert isinstance(entry, Entry)
    assert entry.job["externalid"] == "a�é@x"
    assert len(entry.notes) == 2
    assert all(note.startswith("Message-ID: ") for note in entry.notes)


def test_externalid_from_another_header(job: Job) -> None:
    """Another header can hold the externalid; its encoded words are decoded."""
    made = job(b"Message-ID: <1@x>\nX-Case: =?utf-8?q?N=C2=B0?= 7", externalid_from="x-case")
    assert made["externalid"] == "N° 7"


def test_first_message_id_that_is_not_empty_counts(job: Job) -> None:
    """An empty Message-ID is passed over for a later one."""
    assert job(b"Message-ID: <>\nMessage-Id: <2@x>")["externalid"] == "2@x"


def test_space_before_colon_and_odd_lines(job: Job) -> None:
    """A header name may be followed by a space; lines that are no header are passed over."""
    assert job(b"what is this\nMessage-ID : <2@x>\n>From x\n: y")["externalid"] == "2@x"
