"""A short run of ``scripts/chaos``; the long one is run by hand."""

import json
import os
import subprocess
import sys

from tests.acceptance.stand import ROOT


def chaos(*options: str) -> subprocess.CompletedProcess[str]:
    """Run it as ``scripts/chaos`` does."""
    command = [sys.executable, "-m", "tests.chaos", *options]
    patient = {**os.environ, "CHAOS_LIMIT": "120"}  # beside other tests it would measure the machine
    return subprocess.run(command, cwd=ROOT, env=patient, capture_output=True, text=True, check=False)


def test_nothing_is_lost_and_nothing_happens_twice() -> None:
    """Workers, Redis, Postgres and the network die under load: the table and the API's book agree."""
    done = chaos("--quick", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found["faults"]) == 5
    for when in ("before_resending", "after_resending"):
        assert not any(found[when][what] for what in ("lost", "double", "stuck", "wrong"))
    assert sum(found["after_resending"]["states"].values()) > 1000


def test_a_fault_that_there_is_not() -> None:
    """A wrong name is an error that says where the right ones are, and starts nothing."""
    done = chaos("--fault", "sunspots")
    assert done.returncode == 2
    assert "no such fault: sunspots" in done.stderr
