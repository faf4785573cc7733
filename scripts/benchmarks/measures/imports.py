"""Imports: JSONL into the table, the same again, peak memory; an mbox read against mailbox and email."""

import json
import mailbox
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.figures import Figure, median
from benchmarks.stand import Stand, say
from worker.intake.sources import Options, open_source
from worker.intake.sources.generate import write_backlog

FEW, MANY = 100_000, 1_000_000
QUICK = 5_000
EMAILS = 5_000
WORDS = "please have a look at the invoice that came with our last delivery of the meter".split()

# a process of its own, whose peak is that of the import and of nothing before it
IMPORT = """
import json, resource, sys
from worker.ops.cli import run
run(["import", sys.argv[1], "--route", "R", "--format", "jsonl", "--json"])
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000))
"""


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Measure each in turn; no worker runs."""
    few, many = (QUICK, 5 * QUICK) if quick else (FEW, MANY)
    yield from _jsonl(stand, rounds, few, many)
    for name, path, bar in _mailboxes(stand.folder, quick):
        yield from _mbox(name, path, bar, rounds)


def _jsonl(stand: Stand, rounds: int, few: int, many: int) -> Iterator[Figure]:
    path = _write_jobs(stand.folder / "few.jsonl", few)
    new, again, peaks = [], [], []
    for turn in range(rounds):
        stand.clean()
        seconds, peak = _import(path)
        new.append(few / seconds)
        peaks.append(peak)
        again.append(few / _import(path)[0])
        say(f"import of {few:,} lines: {new[-1]:,.0f}/s, again {again[-1]:,.0f}/s (round {turn + 1})")
    stand.clean()
    _, most = _import(_write_jobs(stand.folder / "many.jsonl", many))
    yield Figure("import of JSONL, new jobs", median(new), "jobs/s", 15_000)
    yield Figure("the same import again", median(again), "jobs/s")
    yield Figure(f"peak memory of an import of {few:,} lines", median(peaks), "MB", 150, least=False)
    yield Figure(f"peak memory of an import of {many:,} lines", most, "MB", 150, least=False)
    yield Figure("the one against the other", most / median(peaks), "×", 1.1, least=False)


def _write_jobs(path: Path, count: int) -> Path:
    with path.open("w") as file:
        for i in range(count):
            linked = [
                {"type": "clid", "value": f"customer{i}@example.test"},
                {"type": "name", "value": f"About the invoice {i}"},
                {"type": "mediatype", "value": "Email"},
            ]
            file.write(json.dumps({"externalid": f"{i:08}@backlog.example.com", "linkeddata": linked}) + "\n")
    return path


def _import(path: Path) -> tuple[float, float]:
    """Import with ``vcc import``; the seconds that it says it took, and its peak in MB."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, str(path)], check=True, capture_output=True, text=True
    )
    told, peak = done.stdout.splitlines()
    return json.loads(told)["seconds"], json.loads(peak)


def _mailboxes(folder: Path, quick: bool) -> Iterator[tuple[str, Path, float | None]]:
    """Mails as long as people's, with a bar; and the demonstration's, which have hardly a body to pass over."""
    count = EMAILS // 5 if quick else EMAILS
    short, usual = folder / "short.mbox", folder / "usual.mbox"
    write_backlog(short, count)
    _write_usual(usual, count)
    yield "mails of 6 KB with 25 header lines", usual, 3
    yield "mails of 350 bytes", short, None


def _write_usual(path: Path, count: int) -> None:
    chance = random.Random(0)  # noqa: S311 - the same mails each time
    with path.open("w") as file:
        for i in range(count):
            hops = "".join(
                f"Received: from mx{n}.example.test (mx{n}.example.test [192.0.2.{n}])\n"
                f"\tby mx{n + 1}.example.test with ESMTPS id {i:08x}{n}\n"
                f"\tfor <service@example.test>; Mon, 01 Jan 2024 00:0{n}:00 +0000\n"
                for n in range(5)
            )
            body = "".join(" ".join(chance.choices(WORDS, k=12)) + "\n" for _ in range(75))
            file.write(
                f"From MAILER-DAEMON Mon Jan  1 00:00:00 2024\n{hops}From: Customer {i} <c{i}@example.com>\n"
                f"To: service@example.test\nSubject: =?utf-8?q?About_the_invoice_{i}?=\n"
                f"Date: Mon, 01 Jan 2024 00:05:00 +0000\nMessage-ID: <{i}@usual.example.com>\n"
                "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: 8bit\n"
                f"X-Mailer: Mail 1.0\nList-Id: <service.example.test>\n\n{body}\n"
            )


def _mbox(name: str, path: Path, bar: float | None, rounds: int) -> Iterator[Figure]:
    ours, plain = [], []
    for _ in range(rounds):
        ours.append(_seconds(_read, path))
        plain.append(_seconds(_plainly, path))
    yield Figure(f"mbox against mailbox and email, {name}", median(plain) / median(ours), "×", bar)


def _seconds(read: Callable[[Path], None], path: Path) -> float:
    """CPU seconds: all that a file in the page cache takes."""
    start = time.process_time()
    read(path)
    return time.process_time() - start


def _read(path: Path) -> None:
    for _ in open_source(path, "mbox", Options(route="R")):
        pass


def _plainly(path: Path) -> None:
    """Read as the standard library's documentation does, as fast as that goes: its default policy is slower."""
    box = mailbox.mbox(path, create=False)
    for message in box:
        _ = (message["message-id"], message["subject"], message["from"])
    box.close()
