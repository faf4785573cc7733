"""A house with the page in it, and something of everything to look at: by the real doors, against the stand-in."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import redis

from tests.acceptance.stand import ROOT, Stand, standing
from tests.factories import opened
from tests.waiting import until
from worker.client import FIELD, STREAM, Client
from worker.ops.web.users import entry
from worker.server import free_port
from worker.store import imports

VIEWER, OPERATOR, PASSWORD = "vera", "oskar", "correct horse battery"

PLANTED = "<script>alert('planted')</script><img src=x onerror=alert(2)>"
"""An externalid, a route and more; the API repeats it in its error."""

PLANTED_SUBJECT = "<script>alert('subject')</script>"
"""Of its own: what a customer wrote no error repeats."""

SENTENCE = "My parcel never came"
"""What a customer wrote: in what is rejected, and in what is dispatched."""

REFUSED = [f"refused-{number}" for number in range(3)]
RELEASED = "long-gone"


@dataclass(frozen=True, slots=True)
class House:
    """Everything that runs.

    Attributes:
        stand: the servers and processes.
        url: of the page.
        broken: of a page whose database is away.
    """

    stand: Stand
    url: str
    broken: str

    def dispatch(self, *externalids: str, route: str = "Emails", **fields: Any) -> None:
        """Enqueue dispatches, as a service does."""
        with Client(self.stand.redis_url) as vcc:
            vcc.send([{"externalid": name, "route": route, **fields} for name in externalids])

    def refuse(self, *externalids: str, **fields: Any) -> None:
        """Enqueue dispatches that the API refuses, and wait until they are given up."""
        self.stand.simulator.faults(poison=externalids)
        self.dispatch(*externalids, **fields)
        self.until_all("failed", *externalids)
        self.stand.simulator.clear_faults()

    def hold(self, route: str) -> None:
        """Hold a route, as twenty refusals in a row would."""
        with opened(self.stand.database_url) as engine, engine.begin() as conn:
            conn.exec_driver_sql(
                "insert into routes (route, refused, refused_since, held_at, message)"
                " values (%(route)s, 20, now(), now(), 'No such route')",
                {"route": route},
            )

    def release(self, *externalids: str) -> None:
        """Enqueue releases."""
        with Client(self.stand.redis_url) as vcc:
            vcc.release_many(externalids)

    def enqueue(self, *jobs: bytes) -> None:
        """Put jobs into the stream as they are, good or not."""
        with redis.Redis.from_url(self.stand.redis_url) as connection:
            for job in jobs:
                connection.xadd(STREAM, {FIELD: job})

    def ask(self, sql: str, **params: Any) -> Sequence[Any]:
        """Ask the table."""
        with opened(self.stand.database_url) as engine, engine.begin() as conn:
            return conn.exec_driver_sql(sql, params).all()

    def states(self, *externalids: str) -> list[str]:
        """Tell the states of the externalids' lifecycles."""
        sql = "select state::text from interactions where externalid = any (%(names)s) order by id"
        return [row.state for row in self.ask(sql, names=list(externalids))]

    def until_all(self, state: str, *externalids: str) -> None:
        """Wait until all lifecycles of the externalids are in a state."""
        until(lambda: self.states(*externalids) == [state] * len(externalids), seconds=30)

    def rejected(self, word: bytes) -> Sequence[Any]:
        """Give the rejections of jobs that hold this."""
        return self.ask("select id from rejections where position(%(word)s::bytea in job) > 0", word=word)

    def calls_for(self, externalids: Sequence[str]) -> list[float]:
        """Tell the Unix times of those calls that carried one of the externalids, as the API saw them."""
        log = self.stand.simulator.book(full=True)["log"]
        return [call["at"] for call in log if set(call["externalids"]) & set(externalids)]


@contextmanager
def inhabited(stand: Stand) -> Iterator[House]:
    """Give a house that runs, with two users, and something of everything in its table."""
    users = [entry(VIEWER, "viewer", PASSWORD), entry(OPERATOR, "operator", PASSWORD)]
    stand.settings["VCC_WEB_USERS"] = " ".join(users)
    with standing(stand):
        stand.worker("--pool", "threads")
        stand.beat()
        nowhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nothing", "VCC_WEB_USERS": ""}
        house = House(stand, _page(stand), _page(stand, **nowhere))
        _furnish(house)
        for url in (house.url, house.broken):
            until(lambda url=url: _answers(url), seconds=30)
        yield house


def _page(stand: Stand, **settings: str) -> str:
    """Start the page on a port of its own."""
    port = free_port()
    log = (stand.folder / f"page-{port}.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "worker.ops.cli", "web", "--port", str(port)],
        cwd=ROOT, env=stand.env | settings, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    log.close()
    stand.processes.append(process)
    return f"http://127.0.0.1:{port}"


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz", trust_env=False).is_success
    except httpx.TransportError:
        return False


def _furnish(house: House) -> None:
    """Have something happen of each kind that a page shows."""
    words = [{"type": "subject", "value": f"{SENTENCE} {PLANTED_SUBJECT}"}]
    house.dispatch(RELEASED, *(f"with-agent-{number}" for number in range(60)), linkeddata=words)
    house.until_all("dispatched", RELEASED)
    house.stand.simulator.faults(poison=[PLANTED, *REFUSED])
    house.release(RELEASED)
    house.dispatch(PLANTED, route=PLANTED, provider="Mailroom <b>", linkeddata=words)
    house.dispatch(*REFUSED)
    house.enqueue(b'{"externalid": "e", "route": "R", "text": "%s"}' % SENTENCE.encode())
    house.enqueue(f'{{"externalid": "{PLANTED}", "{PLANTED}": 1}}'.encode(), b"\xff\0\x1b[31m")
    house.until_all("failed", PLANTED, *REFUSED)
    house.until_all("released", RELEASED)
    with opened(house.stand.database_url) as engine, engine.begin() as conn:
        running = imports.begin(conn, OPERATOR, "backlog.mbox", "Emails")
        imports.report(conn, running, 0.4, 400, 390, 8, 2)
    house.hold("Route that nobody knows")
    house.stand.simulator.clear_faults()
