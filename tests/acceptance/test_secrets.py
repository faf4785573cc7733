"""Secrets and customers' words, planted everywhere, in a run in which all goes wrong that can: nobody is told them."""

import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis
from celery import Celery

from tests.acceptance.stand import ROOT, Stand
from tests.factories import Store
from tests.waiting import until
from worker import embedded
from worker.client import Client

ONCE = f"zqx{secrets.token_hex(3)}"  # no id holds it by chance
SUBJECT, ADDRESS, NOTE, BODY = (
    f"Subject {ONCE} of Jané", f"jane.{ONCE}@doe.example", f"note-{ONCE}-extra", f"Body {ONCE} text",
)  # fmt: skip
SECRET, TOKEN = f"s3cret-{ONCE}/+", f"t0ken-{ONCE}/+="
TOLD_BY = (ONCE, "Jan\\u00e9", SUBJECT[-4:])
"""Each planted text holds one of these."""

MODES = (
    "no token",
    "unauthorised",
    "forbidden",
    "broken",
    "html",
    "silent",
    "throttled",
    "refused",
    "accepted",
)
ANSWERS = {
    "accepted": 200,
    "refused": 400,
    "unauthorised": 401,
    "forbidden": 403,
    "throttled": 429,
    "broken": 500,
}


class EchoingApi(ThreadingHTTPServer):
    """An API that repeats in its answer all that it was told: the headers, with the token, and the body.

    Attributes:
        mode: what it answers to Invoke.
        answered: how often, by mode.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Echo)
        self.mode = "accepted"
        self.answered: dict[str, int] = {}

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is part of the run."""


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: EchoingApi

    def do_POST(self) -> None:
        told = self.rfile.read(int(self.headers["content-length"])).decode()
        mode = self.server.mode
        if self.path.startswith("/Auth"):
            refuses = mode == "no token"
            grant = {"access_token": TOKEN, "expires_in": 7200}
            self._say(400 if refuses else 200, {"error": told, "message": told} if refuses else grant)
        elif mode == "silent":
            time.sleep(1.2)
        elif mode == "html":
            self._say(200, f"<html>{told} {self.headers['authorization']}</html>".encode(), retry=told)
        else:
            said = {"message": f"{self.headers['authorization']} sent {told}", "requests": json.loads(told)}
            self._say(ANSWERS[mode], said)
        self.server.answered[mode] = self.server.answered.get(mode, 0) + 1

    def _say(self, status: int, said: Any, retry: str = "") -> None:
        body = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status, "Echo")
        self.send_header("content-length", str(len(body)))
        self.send_header("set-cookie", f"token={TOKEN}")
        if retry:
            self.send_header("retry-after", retry.encode("ascii", "replace").decode())
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def api() -> Iterator[EchoingApi]:
    """Run the API."""
    with EchoingApi() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@contextmanager
def overheard(producer: Celery, heard: list[Any]) -> Iterator[None]:
    """Listen to all of Celery's events, as Flower does."""
    over = threading.Event()

    def listen() -> None:
        while not over.is_set():
            with suppress(OSError), producer.connection_for_read() as connection:
                receiver = producer.events.Receiver(connection, handlers={"*": heard.append})
                for _ in receiver.consume(limit=None, timeout=0.5, wakeup=True):
                    if over.is_set():
                        return

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


INSPECTED = ("active", "reserved", "scheduled", "stats", "conf", "registered", "report")


def inspected(stand: Stand) -> list[str]:
    """Ask the workers all that ``celery inspect`` asks."""
    # a connection of its own: what Celery keeps in its pools may be older than the Redis that runs now
    with stand.producer() as app, app.connection_for_read() as connection:
        inspect = app.control.inspect(timeout=1, connection=connection)
        return [str(getattr(inspect, name)()) for name in INSPECTED]


def words(externalid: str, **fields: Any) -> dict[str, Any]:
    """Make a dispatch full of a customer's words."""
    linked = [{"type": "name", "value": SUBJECT}, {"type": "clid", "value": ADDRESS}]
    return {
        "externalid": externalid,
        "route": "R",
        "linkeddata": linked,
        "extra": {"note": {"x": [NOTE]}},
        **fields,
    }


BAD = [
    {"subject": SUBJECT}, words("x", lanes=SUBJECT), words("", requestid=None), words("x", routingdata=SUBJECT),
    words("x", linkeddata=ADDRESS), words("x", provider=f"{NOTE}\0"), words("x" * 2000, again=ADDRESS),
]  # fmt: skip


def enqueue(stand: Stand, name: str) -> int:
    """Send jobs by each of the doors, good ones and bad ones; how many are good."""
    producer = stand.producer()
    with redis.Redis.from_url(stand.redis_url) as server, Client(stand.redis_url) as client:
        client.dispatch_many(words(f"{name}-stream-{i}") for i in range(3))
        for bad in (*map(json.dumps, BAD), f"{{broken {SUBJECT}"):
            server.xadd("vcc:jobs", {"job": bad})
        server.xadd("vcc:jobs", {SUBJECT: ADDRESS})
        server.lpush("intake", f"{{broken {SUBJECT}", json.dumps(words("x")))
    for bad in BAD:
        producer.send_task("vcc.dispatch", kwargs=bad)
    producer.send_task("vcc.dispatch", args=[SUBJECT] * 20)
    producer.send_task("vcc.nothing", kwargs=words("x"))
    producer.send_task("vcc.dispatch", kwargs=words(f"{name}-celery"), shadow=SUBJECT)
    producer.send_task("vcc.dispatch_many", kwargs={"jobs": [words(f"{name}-many"), SUBJECT]})
    with suppress(psycopg.OperationalError), psycopg.connect(stand.database_url) as service:
        for job in (words(f"{name}-inbox"), *BAD[:3], SUBJECT):
            service.execute("insert into inbox (job) values (%s)", [json.dumps(job)])
    return 6


def mailbox(folder: Path) -> Path:
    """Write mails whose every part is a customer's."""
    path = folder / "backlog.mbox"
    separator = f"From {ADDRESS} Mon Jan  1 00:00:00 2024\n"
    mail = f"Subject: {SUBJECT}\nFrom: {SUBJECT} <{ADDRESS}>\n"
    texts = [f"{mail}Message-ID: <{i}@x>\n\n{BODY}\n\n" for i in range(3)]
    path.write_text(separator + separator.join([*texts, f"{mail}\n{BODY}\n\n", f"{SUBJECT}\n{mail}", mail]))
    return path


def run(stand: Stand, *command: str) -> str:
    """Run a command; everything that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "worker.ops.cli", *command],
        env={**stand.env, "COLUMNS": "300"}, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def assert_untold(told: str, *passwords: str) -> None:
    """Find none of the planted texts."""
    for word in (*TOLD_BY, *passwords):
        at = told.find(word)
        assert at < 0, told[max(0, at - 200) : at + 100]


def test_nobody_is_told(
    stand: Stand,
    api: EchoingApi,
    postgres_server: embedded.Server,
    redis_server: embedded.Server,
    tmp_path: Path,
) -> None:
    """Logs at DEBUG, events, inspect, errors, statistics and servers' logs hold neither secrets nor words."""
    passwords = [str(urlsplit(url).password) for url in (stand.database_url, stand.redis_url)]
    stand.settings |= {
        "VCC_API_URL": api.url, "VCC_AUTH_URL": api.url, "VCC_CLIENT_ID": "me", "VCC_CLIENT_SECRET": SECRET,
        "VCC_TIMEOUT": "1s", "VCC_MAX_REQUESTS": "5", "VCC_ROUTES": "R",
    }  # fmt: skip
    events: list[Any] = []
    told: list[str] = []
    producer = stand.producer()
    with overheard(producer, events):
        for pool, shape in (("threads", "json"), ("prefork", "text")):
            stand.settings["VCC_LOG_FORMAT"] = shape
            stand.start(
                "worker",
                "-n",
                f"{pool}@x",
                "--pool",
                pool,
                "--concurrency",
                "3",
                "--loglevel",
                "DEBUG",
                copied=False,
            )
        stand.start("beat", "--loglevel", "DEBUG", copied=False)
        store = Store(stand.engine())
        good = 0
        for mode in MODES:
            api.mode = mode
            good += enqueue(stand, mode)
            until(lambda mode=mode: _let_go(store) and api.answered.get(mode, 0) > 0, seconds=30)  # type: ignore[misc]
            if mode == "html":
                store.engine.dispose()
                postgres_server.kill()
                enqueue(stand, "while-away")
                postgres_server.restart()
            told.append(json.dumps(stand.stats(), default=str))
        with ThreadPoolExecutor(3) as pool:
            shown = pool.submit(inspected, stand)
            commands = [
                ["import", str(mailbox(tmp_path)), "--route", "R"],
                ["dispatch", "by-hand", "--route", "R", "--linkeddata", json.dumps(words("x")["linkeddata"])],
                ["stats", "--json"], ["list", "--json"],
                ["rejections", "--json"], ["show", "refused-inbox", "--json"], ["show", "accepted-inbox"],
                ["check"],
            ]  # fmt: skip
            told += pool.map(lambda command: run(stand, *command), commands)
        told += shown.result()
        stand.until(
            lambda s: _let_go(store) and s["states"]["pending"] == 0 and s["states"]["dispatched"] > good / 2
        )
    told += ["\n".join(map(str, events)), stand.logs(), *_command_lines(stand)]
    told += [server._program.log.read_text(errors="replace") for server in (postgres_server, redis_server)]
    # they were there to be told
    assert {event["type"] for event in events} > {
        "task-received",
        "task-started",
        "task-succeeded",
        "worker-heartbeat",
    }
    assert min(api.answered.values()) > 0
    assert len(api.answered) == 9
    assert store.one("select count(*) from invocations where answer like %(w)s", w=f"%{ONCE}%") > 3
    assert store.one("select count(*) from interactions where request::text like %(w)s", w=f"%{ONCE}%") > good
    assert (
        store.one("select count(*) from rejections where position(%(w)s::bytea in job) > 0", w=ONCE.encode())
        > 50
    )
    assert (
        store.one(
            "select count(*) from interactions where last_error like 'HTTP 4%%the answer repeats the call'"
        )
        > 0
    )
    store.engine.dispose()
    for text in told:
        assert_untold(text, *passwords)


def _let_go(store: Store) -> bool:
    """Let what waits go at once: the valve, providers, rows."""
    store.run("delete from providers")
    store.run("update gate set closed_until = now()")
    store.run("update interactions set due_at = now() where due_at > now() and call is null")
    return True


def _command_lines(stand: Stand) -> list[str]:
    """What everybody on the machine can read of each process."""
    return [str(psutil.Process(process.pid).cmdline()) for process in stand.processes] + [str(os.getpid())]
