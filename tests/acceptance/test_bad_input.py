"""Bad input costs nothing but itself: a clear message, and everything else is imported."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.stand import ROOT, surroundings
from worker.store import queries
from worker.store.database import connect

SEPARATOR = b"From someone@example.com Mon Jan  1 00:00:00 2024\n"


def email(number: int, *headers: bytes, body: bytes = b"Hello\n") -> bytes:
    """Make a valid email with further headers."""
    lines = [b"Message-ID: <%d@example.com>" % number, b"From: a@example.com", *headers]
    return b"\n".join(lines) + b"\n\n" + body


def mbox(*emails: bytes) -> bytes:
    """Make a mailbox of emails."""
    return b"".join(SEPARATOR + one + b"\n" for one in emails)


class Machine:
    """The command line with a database and nothing else."""

    def __init__(self, database_url: str, folder: Path) -> None:
        self.folder = folder
        # nobody listens there: an import does without Redis
        redis = "redis://127.0.0.1:1/0"
        self.env = {
            **surroundings(),
            "DATABASE_URL": database_url,
            "REDIS_URL": redis,
            "VCC_HOME": str(folder / "home"),
        }

    def run(self, *args: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command; whatever it says, it is no traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "worker.ops.cli", *args],
            env={**self.env, **env}, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr + done.stdout
        return done

    def import_(
        self, *sources: Path, code: int = 0, args: tuple[str, ...] = ()
    ) -> tuple[dict[str, Any], str]:
        """Import, and return what it counted and what it said."""
        done = self.run("import", *map(str, sources), "--route", "R", "--json", *args)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout), done.stderr

    def subjects(self) -> list[str]:
        """The subjects that were recorded."""
        engine = connect(self.env["DATABASE_URL"])
        with engine.connect() as conn:
            rows = conn.exec_driver_sql("select request from interactions order by id").scalars()
            found = [item["value"] for row in rows for item in row["linkeddata"] if item["type"] == "name"]
        engine.dispose()
        return found

    def write(self, name: str, content: bytes) -> Path:
        """Write a source."""
        path = self.folder / name
        path.write_bytes(content)
        return path


@pytest.fixture
def machine(database_url: str, tmp_path: Path) -> Machine:
    """Give the command line."""
    return Machine(database_url, tmp_path)


@pytest.mark.parametrize(
    ("subject", "recorded"),
    [
        (b"=?x-no-such-charset?Q?caf=E9?=", "caf"),
        (b"caf\xe9 in Latin-1", "café in Latin-1"),
        ("café in UTF-8".encode(), "café in UTF-8"),
        (b"with\x00NUL", "with"),
        (b"=?utf-8?B?7aCA?= surrogate", "surrogate"),
        (b"=?utf-8?B?broken", "broken"),
    ],
)
def test_odd_headers_are_read_as_well_as_can_be(machine: Machine, subject: bytes, recorded: str) -> None:
    """A subject in an unknown charset, with raw bytes, NUL or surrogates is repaired, and the rest imported."""
    source = machine.write("odd.mbox", mbox(email(1, b"Subject: " + subject), email(2, b"Subject: fine")))
    report, _ = machine.import_(source)
    assert (report["read"], report["new"], report["rejected"]) == (2, 2, 0)
    subjects = machine.subjects()
    assert recorded in subjects[0]
    assert subjects[1] == "fine"


def test_a_message_id_with_raw_bytes(machine: Machine) -> None:
    """Raw 8-bit and NUL bytes in a Message-ID make an externalid that is the same the next time."""
    content = mbox(b"Message-ID: <caf\xe9\x00@x>\nSubject: a\n\nb\n", email(2, b"Subject: fine"))
    assert machine.import_(machine.write("ids.mbox", content))[0]["new"] == 2
    assert machine.import_(machine.write("again.mbox", content))[0]["duplicate"] == 2


def _no_maildir(machine: Machine) -> Path:
    folder = machine.folder / "folder"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"no email")
    return folder


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (lambda m: m.write("empty.mbox", b""), "empty"),
        (lambda m: m.folder / "missing.mbox", "no such file"),
        (_no_maildir, "Maildir"),
        (lambda m: m.write("headerless.csv", b"1@x,Someone\n2@x,Other\n"), "header"),
        (lambda m: m.write("column.csv", b"name,clid\nA,a@x\n"), "externalid"),
        (lambda m: m.write("text.mbox", b"Hello, this is no mailbox\n"), "text.mbox"),
    ],
)
def test_one_source_of_two_is_unreadable(machine: Machine, bad: Callable[[Machine], Path], said: str) -> None:
    """A source that can't be read is named with the reason; the other one is imported; the command failed."""
    good = machine.write("good.mbox", mbox(email(1), email(2)))
    report, stderr = machine.import_(bad(machine), good, code=1)
    assert report["new"] == 2
    assert said.lower() in stderr.lower()


def test_entries_that_can_t_be_jobs(machine: Machine) -> None:
    """Broken lines and rows go to the rejects' file and to the rejections, with place and reason."""
    lines = (
        b'{"externalid": "a"}\n{broken\n{"externalid": "b", "rout": "x"}\n{"externalid": "c\\u0000"}\n[]\n'
    )
    table = "\ufeffexternalid;clid\nd;x@y\ne\nf;z@y\n".encode()
    rejects = machine.folder / "rejects.jsonl"
    report, _ = machine.import_(
        machine.write("jobs.jsonl", lines), machine.write("t.csv", table), args=("--rejects", str(rejects))
    )
    assert (report["read"], report["new"], report["rejected"]) == (8, 3, 5)
    told = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert len(told) == 5
    assert all(entry["place"] and entry["reason"] for entry in told)
    assert "line 2" in told[0]["place"]
    assert any("rout" in entry["reason"] for entry in told)
    engine = connect(machine.env["DATABASE_URL"])
    with engine.connect() as conn:
        assert len(queries.rejections(conn)) == 5
    engine.dispose()


def test_a_truncated_mailbox(machine: Machine) -> None:
    """A mailbox cut in the middle of a message: the whole ones are imported."""
    whole = mbox(*(email(i, b"Subject: s%d" % i) for i in range(10)))
    report, _ = machine.import_(machine.write("cut.mbox", whole[:-60]))
    assert report["read"] == 10
    assert report["new"] >= 9


def test_a_from_line_in_a_body(machine: Machine) -> None:
    """A line that begins with From makes no new message."""
    body = b"Hi\n\nFrom now on all is well.\n\n>From the start\n\nFrom: nobody\nBye\n"
    report, _ = machine.import_(machine.write("from.mbox", mbox(email(1, body=body), email(2))))
    assert (report["read"], report["new"]) == (2, 2)


def test_a_large_attachment_leaves_memory_flat(machine: Machine) -> None:
    """An email with an attachment of 60 MB costs no more memory than a small one."""
    small = machine.write("small.mbox", mbox(email(1)))
    large = machine.write("large.mbox", mbox(email(2, body=(b"A" * 76 + b"\n") * 800_000), email(3)))
    assert machine.import_(small)[0]["new"] == 1
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert machine.import_(large)[0]["new"] == 2
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss - before < 10_000  # kilobytes


def test_the_same_backlog_twice(machine: Machine) -> None:
    """The mailbox of a real list: what was imported is a duplicate the second time, to the last one."""
    source = ROOT.parent / "shared" / "mail" / "lists.mbox"
    if not source.exists():
        source = machine.write("made.mbox", mbox(*(email(i % 228) for i in range(263))))
    first, _ = machine.import_(source)
    assert (first["read"], first["new"], first["duplicate"], first["rejected"]) == (263, 228, 35, 0)
    again, _ = machine.import_(source)
    assert (again["read"], again["new"], again["duplicate"]) == (263, 0, 263)
