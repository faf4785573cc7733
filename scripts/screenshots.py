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
from typing import Any, Literal

import httpx
import redis
from demo import VCC, everything, vcc
from playwright.sync_api import Browser, Page, sync_playwright
from small_png import shrink

from worker.client import FIELD, STREAM, Client
from worker.intake.sources.generate import write_backlog

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "page"
MINUTES = 20.0

BACKLOG = 200_000
SLOW = {"VCC_RATE": "4", "VCC_MAX_REQUESTS": "100"}
"""So that the backlog is still in line when the pictures are taken."""

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

MISTAKE = '{"externalid": "77c0de41@mail.example.com", "route": "Claims", "linkeddata": {"subject": "Broken window"}}'

SCHEMES: dict[Literal["light", "dark"], str] = {"light": "overview", "dark": "overview-dark"}
WIDE, PHONE = {"width": 1280, "height": 800}, {"width": 375, "height": 812}


class Morning:
    """What happens until the pictures are taken.

    Args:
        client: where jobs go.
        simulator: the URL of the API's stand-in.
    """

    def __init__(self, client: Client, simulator: str) -> None:
        self._client, self._simulator = client, simulator
        self._dice = random.Random(7)  # noqa: S311 - chance, no secret
        self._with_agents: deque[str] = deque()

    def last(self, seconds: float) -> None:
        """Let customers write and agents finish, second by second."""
        begin = time.monotonic()
        while (now := time.monotonic() - begin) < seconds:
            self._second(now / seconds)
            time.sleep(1)

    def email(self, externalid: str, route: str) -> None:
        """Somebody writes."""
        first, last = self._dice.choice(FIRST), self._dice.choice(LAST)
        words = {
            "name": f"{first} {last}",
            "email": f"{first}.{last}@customer.example".lower(),
            "subject": self._dice.choice(SUBJECTS),
        }
        linked = [{"type": name, "value": value} for name, value in words.items()]
        self._client.dispatch(externalid, route, provider="Mailroom", linkeddata=linked)

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
            self._client.release(self._with_agents.popleft())
        if dice.random() < 0.01:
            self.email(f"{dice.getrandbits(32):08x}@mail.example.com", UNKNOWN)
        if dice.random() < 0.004:
            self.fault(throttle={"calls": 2, "retry_after": 3})
        if dice.random() < 0.006:
            self.fault(status={"calls": 1, "status": dice.choice([422, 500, 503])})


def main() -> int:
    """Let the morning pass and take the pictures."""
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else MINUTES
    program = shutil.which("chromium")
    if program is None:
        sys.exit("Chromium is not installed: apt-get install chromium")
    with tempfile.TemporaryDirectory(prefix="vcc-screenshots-") as name:
        folder = Path(name)
        env = _environment(folder)
        write_backlog(folder / "backlog.mbox", BACKLOG, duplicates=200, broken=3)
        with everything(env, folder) as up, sync_playwright() as playwright:
            let_happen(up["simulator"], env, minutes * 60)
            importing = subprocess.Popen(
                [*VCC, "import", "backlog.mbox", "--route", "Emails"], env=env, cwd=folder
            )
            # without a sandbox where it would not run as root otherwise
            options = ["--no-sandbox"] if os.geteuid() == 0 else []
            with playwright.chromium.launch(executable_path=program, args=options) as browser:
                take(browser, up["page"])
            importing.terminate()
            importing.wait()
    return 0


def _environment(folder: Path) -> dict[str, str]:
    ours = ("DATABASE_URL", "REDIS_URL")
    kept = {k: v for k, v in os.environ.items() if not k.startswith("VCC_") and k not in ours}
    return {**kept, **SLOW, "LOGNAME": "oskar", "VCC_HOME": str(folder / "home")}


def let_happen(simulator: str, env: dict[str, str], seconds: float) -> None:
    """Have customers, agents, faults, and an operator who tries again what was refused."""
    announced = json.loads((Path(env["VCC_HOME"]) / "run.json").read_text())["env"]
    with Client(announced["REDIS_URL"]) as client, redis.Redis.from_url(announced["REDIS_URL"]) as raw:
        morning = Morning(client, simulator)
        morning.fault(refuse_routes=[UNKNOWN], poison=[STORY])
        morning.email(STORY, "Claims")
        morning.last(seconds / 3)
        morning.fault(poison=[])
        vcc("retry", STORY, env=env)
        raw.xadd(STREAM, {FIELD: MISTAKE})
        morning.email("0d15ea5e@mail.example.com", UNKNOWN)
        morning.last(seconds / 3)
        client.release(STORY)
        morning.last(seconds / 3)


def take(browser: Browser, url: str) -> None:
    """Take all the pictures."""
    FOLDER.mkdir(exist_ok=True)
    for scheme, name in SCHEMES.items():
        page = browser.new_page(base_url=url, viewport=WIDE, color_scheme=scheme)
        page.goto("/")
        page.locator("progress").wait_for(timeout=60_000)
        _save(page, name)
    page = browser.new_page(base_url=url, viewport=PHONE)
    page.goto("/")
    _save(page, "phone", whole=False)
    page = browser.new_page(base_url=url, viewport=WIDE)
    page.goto("/interactions?state=failed")
    page.get_by_role("checkbox").first.check()
    _save(page, "interactions")
    page.goto(f"/find?externalid={STORY}")
    _save(page, "interaction")
    page.goto("/rejections")
    page.get_by_role("main").get_by_role("link").last.click()
    _save(page, "rejection")


def _save(page: Page, name: str, *, whole: bool = True) -> None:
    path = FOLDER / f"{name}.png"
    picture = page.screenshot(full_page=whole, scale="css")
    page.goto("about:blank")
    path.write_bytes(shrink(page, picture))
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
