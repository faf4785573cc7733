"""The demonstration, as a newcomer runs it."""

import os
import subprocess
import sys

import psutil
import pytest

from tests.acceptance.stand import ROOT, surroundings
from tests.waiting import until


def run(*args: str) -> str:
    """Run it, see that it leaves nothing running, and return what it printed."""
    mark = f"demo-of-{os.getpid()}"
    done = subprocess.run(
        [sys.executable, "scripts/demo.py", *args],
        cwd=ROOT, env={**surroundings(), "MARK": mark}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: not _left(mark))
    return done.stdout


def _left(mark: str) -> list[psutil.Process]:
    """Tell who is there still of those that were started with a mark."""
    left = []
    for process in psutil.process_iter():
        try:
            left += [process] if process.environ().get("MARK") == mark else []
        except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return left


def cells(printed: str, name: str) -> list[str]:
    """What the table says of something."""
    line = next(line for line in printed.splitlines() if line.startswith(f"│ {name}"))
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_a_made_up_backlog() -> None:
    """1,000 emails with duplicates and broken ones, 200 released, an API that stumbles: everything agrees."""
    printed = run()
    assert cells(printed, "entries read") == ["1,000", "1,000", "✓"]
    assert cells(printed, "interactions released") == ["200", "200", "✓"]
    for status in ("429", "500"):
        database, witness, agree = cells(printed, f"calls answered {status}")
        assert (database == witness, database != "0", agree) == (True, True, "✓")
    assert "✗" not in printed


def test_a_real_mailbox() -> None:
    """263 real emails: 228 dispatched, 35 duplicates, in at most three accepted calls."""
    source = ROOT.parent / "shared" / "mail" / "lists.mbox"
    if not source.exists():
        pytest.skip("the mailbox is not here")
    printed = run(str(source))
    assert cells(printed, "entries read") == ["263", "263", "✓"]
    assert cells(printed, "interactions dispatched") == ["228", "228", "✓"]
    assert cells(printed, "duplicates, not dispatched") == ["35", "35", "✓"]
    assert int(cells(printed, "accepted calls")[1]) <= 3
    assert "✗" not in printed
