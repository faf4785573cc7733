"""What ``scripts/breaks`` does: a promise whose line can be taken out without a test turning red is no promise.

The list is ``scripts/breaks.toml``; the table in ``docs/guarantees.md`` is written from it. Everything happens in a
copy of the folder, which is gone afterwards.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "scripts" / "breaks.toml"
DOCUMENT = ROOT / "docs" / "guarantees.md"
BEGIN, END = "<!-- scripts/breaks --write: from here -->", "<!-- to here -->"

LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".vcc", ".*_cache", ".hypothesis", ".coverage*", "__pycache__"
)
PYTEST = "-q --no-cov -p no:xdist -p no:cacheprovider"

LONGEST = 240.0
"""Seconds for one run of tests; a break may make one hang."""

SHOWN = 90
"""Characters of a line that the table shows."""

ASSERTED = r"(AssertionError|assert |Failed: DID NOT RAISE)"
"""How a failure begins that a test has asserted, other than one by which the break broke Python."""


@dataclass(frozen=True, slots=True)
class Break:
    """One line, and what shows that it is needed.

    Attributes:
        name: to ask for it by.
        promise: whose it is.
        keeps: what would no longer hold without it.
        file: where it stands.
        text: the line, or lines, as they stand there, once.
        instead: what takes their place.
        tests: each as ``path::name``; one of them turns red.
        raises: the exception that the test dies of, where that is how it notices.
    """

    name: str
    promise: str
    keeps: str
    file: str
    text: str
    instead: str
    tests: Sequence[str]
    raises: str = ""


def load() -> list[Break]:
    """Read the list."""
    return [Break(**entry) for entry in tomllib.loads(LIST.read_text())["break"]]


def table(breaks: Sequence[Break]) -> str:
    """Draw the table of the document."""
    lines = [
        "| promise | without this line | it would not hold that | red then |",
        "| --- | --- | --- | --- |",
    ]
    promise = ""
    for one in breaks:
        told = one.promise if one.promise != promise else ""
        promise = one.promise
        where = f"`{_short(one.text)}` in `{one.file}`"
        tests = ", ".join(f"`{test.rpartition('::')[2]}`" for test in one.tests)
        lines.append(f"| {told} | {where} | {one.keeps} | {tests} (`{one.name}`) |")
    return "\n".join(lines)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return (line if len(line) <= SHOWN else f"{line[:SHOWN].rstrip()} …").replace("|", "\\|")


def faults(breaks: Sequence[Break]) -> list[str]:
    """Say what in the list is not so: a text that does not stand in its file once, a test that there is not."""
    found = []
    for one in breaks:
        if (times := (ROOT / one.file).read_text().count(one.text)) != 1:
            found.append(f"{one.name}: its text stands {times} times in {one.file}, not once")
        found += [f"{one.name}: there is no test {test}" for test in one.tests if not is_test(test)]
    return found


def is_test(name: str) -> bool:
    """Whether there is such a test, named as ``path::name``."""
    path, _, function = name.partition("::")
    file = ROOT / path
    return file.is_file() and f"\ndef {function}(" in file.read_text()


def written(document: str, breaks: Sequence[Break]) -> str:
    """The document with the table that the list asks for."""
    before, _, rest = document.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(breaks)}\n\n{END}{after}"


class Copy:
    """A copy of the folder, in which lines may be taken out."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "copy"
        shutil.copytree(ROOT, self._folder, ignore=LEFT_OUT)

    @contextmanager
    def without(self, one: Break) -> Iterator[None]:
        """Take a line out, and put it back at the end."""
        path = self._folder / one.file
        whole = path.read_text()
        path.write_text(whole.replace(one.text, one.instead))
        try:
            yield
        finally:
            path.write_text(whole)

    def run(self, *arguments: str, longest: float = LONGEST) -> tuple[int | None, str]:
        """Run tests; pytest's status, None where they did not end, and how the first failure begins."""
        report = self._folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", *PYTEST.split(), f"--junit-xml={report}", *arguments]
        # the copy's own code: never the folder's that is installed, nor compiled leftovers of the last break
        env = {**os.environ, "PYTHONPATH": str(self._folder), "PYTHONDONTWRITEBYTECODE": "1"}
        output = (self._folder / "output.txt").open("w+")
        process = subprocess.Popen(
            command, cwd=self._folder, env=env, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            status: int | None = process.wait(longest)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
            output.close()
        return status, _failure(report)

    def output(self) -> str:
        """What the last run printed."""
        return (self._folder / "output.txt").read_text()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a run that goes on, so that it ends in turn what it has started."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _failure(report: Path) -> str:
    """How the first failure of a test begins; empty for an error around it, or none."""
    if not report.exists():
        return ""
    failure = ET.parse(report).find(".//failure")  # noqa: S314 - its own report
    return "" if failure is None else failure.get("message", "").partition("\n")[0]


def verdict(one: Break, status: int | None, failure: str) -> str:
    """Say what a run without the line came to: red, or what is wrong."""
    if status is None:
        return "HANGS"
    if status == 0:
        return "GREEN"
    asked = rf"([\w.]+\.)?{one.raises}\b" if one.raises else ASSERTED
    return "red" if status == 1 and re.match(asked, failure) else f"BROKEN: {failure or 'no test failed'}"


def main() -> int:
    """Do what the command line says; the exit status."""
    breaks = load()
    chosen = _arguments(breaks)
    if chosen is None:
        DOCUMENT.write_text(written(DOCUMENT.read_text(), breaks))
        return 0
    if wrong := faults(chosen):
        sys.exit("\n".join(wrong))
    with tempfile.TemporaryDirectory(prefix="vcc-breaks-") as folder:
        copy = Copy(Path(folder))
        tests = sorted({test for one in chosen for test in one.tests})
        print(f"{len(tests)} tests as they are …", flush=True)
        status, failure = copy.run(*tests, longest=5 * LONGEST)
        if status != 0:
            print(copy.output())
            sys.exit(f"not green before anything is taken out: {failure}")
        found = [_try(copy, one) for one in chosen]
    kept = found.count("red")
    print(f"\n{kept} of {len(chosen)} red")
    return 0 if kept == len(chosen) else 1


def _try(copy: Copy, one: Break) -> str:
    start = time.monotonic()
    with copy.without(one):
        found = verdict(one, *copy.run("-x", *one.tests))
    print(f"{found:5}  {one.name:24} {time.monotonic() - start:4.0f} s  {one.keeps}", flush=True)
    return found


def _arguments(breaks: Sequence[Break]) -> Sequence[Break] | None:
    """Read the command line: the breaks that are meant; None where the document is to be written."""
    parser = argparse.ArgumentParser(
        prog="scripts/breaks",
        description="Take out the lines that keep the promises, each alone, in a copy of this folder, and run the "
        "tests that must turn red. Status 1 if any stays green.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="which of scripts/breaks.toml; all without")
    parser.add_argument("--list", action="store_true", help="tell the names, and nothing else")
    parser.add_argument(
        "--write", action="store_true", help="write the table of docs/guarantees.md, and nothing else"
    )
    given = parser.parse_args()
    if given.list:
        print(*(f"{one.name:24} {one.keeps}" for one in breaks), sep="\n")
        parser.exit()
    by_name = {one.name: one for one in breaks}
    if unknown := sorted(set(given.names) - by_name.keys()):
        parser.error(f"no such break: {', '.join(unknown)}; --list tells them")
    if given.write:
        return None
    return [by_name[name] for name in given.names] or breaks


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    sys.exit(main())
