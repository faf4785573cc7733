"""The pictures behind ``scripts/screenshots``: a contact center's morning with invented customers, then the page."""

import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from demo import VCC, everything
from playwright.sync_api import sync_playwright

from worker.client import Client
from worker.intake.sources.generate import write_backlog

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "page"
MINUTES = 20.0
BACKLOG = 150_000
CALLS_A_SECOND = "4"
"""So few that the backlog takes its time."""

ROUTES = {"Emails": 8, "Emails Iberia": 3, "Claims": 2, "VIP": 1}
UNKNOWN = "Emails Nordic"
FIRST = ["Jane", "Ravi", "Ewa", "Tom", "Mei", "Luca", "Nora", "Ali"]
LAST = ["Doe", "Iyer", "Nowak", "Baker", "Chen", "Rossi", "Berg", "Demir"]
SUBJECTS = [
    "Where is my parcel?",
    "Invoice 4711 twice",
    "Change of address",
    "Can't log in",
    "Refund, please",
]
STORY = "5b1f7c20@mail.example.com"
"""The email whose timeline is shown: refused, tried again, released."""


class Morning:
    """What happens until the pictures are taken.

    Args:
        vcc: where jobs go.
        simulator: the URL of the API's stand-in.
    """

    def __init__(self, vcc: Client, simulator: str) -> None:
        self._vcc, self._simulator = vcc, simulator
        self._dice = random.Random(7)  # noqa: S311 - chance, no secret
        self._with_agents: deque[str] = deque()

    def pass_(self, seconds: float) -> None:
        """Let customers write and agents finish, second by second."""
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            self._second(now / seconds)
            time.sleep(1)

    def email(self, externalid: str, route: str) -> None:
        """Somebody writes."""
        who = self._dice.choice(FIRST), self._dice.choice(LAST)
        words = {
            "name": " ".join(who),
            "email": ".".join(who).lower() + "@customer.example",
            "subject": self._dice.choice(SUBJECTS),
        }
        linked = [{"type": name, "value": value} for name, value in words.items()]
        self._vcc.dispatch(externalid, route, provider="Mailroom", linkeddata=linked)

    def fault(self, **faults: Any) -> None:
        """Let something go wrong."""
        httpx.post(f"{self._simulator}/_sim/faults", json=faults).raise_for_status()

    def _second(self, share: float) -> None:
        """One second of the morning, ``share`` of which has passed."""
        dice = self._dice
        self.fault(delay={"by": dice.lognormvariate(-2.2, 0.5), "probability": 0.9})
        for _ in range(round((3 + 2 * math.sin(share * 9)) * dice.random() * 2)):
            name = f"{dice.getrandbits(32):08x}@mail.example.com"
            self.email(name, dice.choices(list(ROUTES), list(ROUTES.values()))[0])
            self._with_agents.append(name)
        while len(self._with_agents) > 40 + 60 * dice.random():
            self._vcc.release(self._with_agents.popleft())
        if dice.random() < 0.01:
            self.email(f"{dice.getrandbits(32):08x}@mail.example.com", UNKNOWN)
        if dice.random() < 0.004:
            self.fault(throttle={"calls": 2, "retry_after": 3})
        if dice.random() < 0.006:
            self.fault(status={"calls": 1, "status": dice.choice([422, 500, 503])})


def main() -> int:
    """Let the morning pass and take the pictures."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    with tempfile.TemporaryDirectory(prefix="vcc-screenshots-") as name:
        folder = Path(name)
        env = _environment(folder)
        write_backlog(folder / "backlog.mbox", BACKLOG, duplicates=200, broken=3)
        with everything(env, folder) as up:
            take(up, env, folder, minutes * 60)
    return 0


def _environment(folder: Path) -> dict[str, str]:
    ours = ("DATABASE_URL", "REDIS_URL")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VCC_") and k not in ours}
    return {**kept, "VCC_HOME": str(folder / "home"), "VCC_RATE": CALLS_A_SECOND, "VCC_MAX_REQUESTS": "100"}


if __name__ == "__main__":
    sys.exit(main())
