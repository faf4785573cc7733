"""What goes over the wire, byte for byte where it matters, through the command line and a worker."""

import json
import subprocess
import sys
from typing import Any

from tests.acceptance.stand import ROOT, Stand

HEADERS = {
    "accept": "application/vnd.newvoicemedia.v1+json",
    "authorization": "Bearer",
    "content-type": "application/json",
}


def vcc(stand: Stand, *args: str) -> Any:
    """Run a command and read its --json."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.ops.cli", *args, "--json"],
        env=stand.env, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_guide_s_own_example(stand: Stand) -> None:
    """A dispatch and its release are exactly what the guide shows, with the three headers."""
    stand.worker("--pool", "threads")
    vcc(stand, "dispatch", "sourceObjectName", "--route", "Route Interaction NR")
    stand.until(lambda s: s["states"]["dispatched"] == 1)
    sent = stand.simulator.last()
    dispatched = sent["body"]["requests"][0].pop("requestid")
    assert sent["body"] == {
        "requests": [
            {
                "action": "dispatch",
                "externalid": "sourceObjectName",
                "route": "Route Interaction NR",
                "routingdata": {"interactiontype": "nonlive"},
            }
        ]
    }
    assert {name: sent["headers"][name] for name in HEADERS} == HEADERS
    vcc(stand, "release", "sourceObjectName")
    stand.until(lambda s: s["states"]["released"] == 1)
    sent = stand.simulator.last()
    released = sent["body"]["requests"][0].pop("requestid")
    assert sent["body"] == {"requests": [{"action": "release", "externalid": "sourceObjectName"}]}
    assert {name: sent["headers"][name] for name in HEADERS} == HEADERS
    assert len({dispatched, released, None}) == 3
