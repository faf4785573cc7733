"""The stream and the inbox in earnest: workers killed, Redis killed, both pools."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from tests.acceptance.stand import Stand, standing
from tests.conftest import open_folder
from tests.waiting import until
from worker import embedded
from worker.client import Client, SendError
from worker.simulator.run import Background

Send = Callable[[str], None]


@contextmanager
def by_stream(stand: Stand) -> Iterator[Send]:
    """Send dispatches by the stream."""
    with Client(stand.redis_url) as client:
        yield lambda externalid: void(client.dispatch(externalid, "R"))


@contextmanager
def by_inbox(stand: Stand) -> Iterator[Send]:
    """Send dispatches by the inbox."""
    with psycopg.connect(stand.database_url, autocommit=True) as conn:
        statement = (
            "insert into inbox (job) values (jsonb_build_object('externalid', %s::text, 'route', 'R'))"
        )
        yield lambda externalid: void(conn.execute(statement, [externalid]))


def void(_: object) -> None:
    """Give nothing back."""


@pytest.mark.parametrize("door", [by_stream, by_inbox])
def test_workers_killed_while_jobs_come_in(stand: Stand, door: Callable[[Stand], Iterator[Send]]) -> None:
    """Of two workers one is killed again and again: every job is dispatched, and none twice."""
    stand.settings["VCC_TIMEOUT"] = "1s"
    stand.beat()
    workers = [stand.worker("--pool", "threads", "--concurrency", "4") for _ in range(2)]
    sent, rounds = 0, 4
    with door(stand) as send:
        for number in range(rounds):
            goal = stand.stats()["invocations"]["calls"] + 1
            for _ in range(500):
                send(f"e{sent}")
                sent += 1
            stand.until(lambda s, goal=goal: s["invocations"]["calls"] >= goal)
            stand.kill(workers[number % 2])
            workers[number % 2] = stand.worker("--pool", "threads", "--concurrency", "4")
    stand.until(lambda s: s["states"]["dispatched"] == sent, seconds=120)
    book = stand.simulator.book()
    assert (book["dispatched"], book["redispatched"]) == (sent, 0)
    assert stand.stats()["rejections"] == 0


def test_redis_killed_while_jobs_come_in(database_url: str, simulator: Background, tmp_path: Path) -> None:
    """With ``appendfsync always`` every job that Redis has answered is dispatched, however Redis dies."""
    answered: list[str] = []
    stop = threading.Event()

    def produce(url: str) -> None:
        with Client(url, timeout=1.0) as client:
            for number in range(1_000_000):
                if stop.is_set():
                    return
                try:
                    client.dispatch(f"e{number}", "R")
                except SendError:
                    stop.wait(0.05)
                else:
                    answered.append(f"e{number}")

    with (
        open_folder() as home,
        embedded.redis(home, fsync="always") as server,
        standing(Stand(database_url, server.url, simulator, tmp_path)) as stand,
    ):
        stand.worker("--pool", "threads")
        stand.beat()
        producer = threading.Thread(target=produce, args=[server.url])
        producer.start()
        try:
            for _ in range(3):
                goal = len(answered) + 300
                until(lambda goal=goal: len(answered) >= goal, seconds=60)
                server.kill()
                server.restart()
        finally:
            stop.set()
            producer.join()
        with redis.Redis.from_url(server.url) as connection:
            until(lambda: connection.xlen("vcc:jobs") == 0, seconds=60)
        stand.until(lambda s: s["states"]["dispatched"] >= len(answered), seconds=60)
        ledger = simulator.book(full=True)["ledger"]
        assert set(answered) <= set(ledger)
        assert simulator.book()["redispatched"] == 0


@pytest.mark.parametrize("pool", ["threads", "prefork"])
def test_doors_without_a_beat(stand: Stand, pool: str) -> None:
    """What comes by the stream or the inbox is sent at once: no tick is needed, whatever the pool."""
    stand.worker("--pool", pool, "--concurrency", "2")
    with by_stream(stand) as stream, by_inbox(stand) as inbox:
        stream("s0")
        stand.until(lambda s: s["states"]["dispatched"] == 1)
        inbox("i0")
        stand.until(lambda s: s["states"]["dispatched"] == 2, seconds=10)
        for number in range(1, 50):
            stream(f"s{number}")
            inbox(f"i{number}")
    stand.until(lambda s: s["states"]["dispatched"] == 100, seconds=20)
    assert stand.simulator.book()["redispatched"] == 0


def test_a_worker_stops_with_its_readers(stand: Stand) -> None:
    """A worker that is told to stop does so within seconds, and gives its seats to the next."""
    first = stand.worker("--pool", "threads")
    with by_stream(stand) as send:
        send("a")
        stand.until(lambda s: s["states"]["dispatched"] == 1)
        second = stand.worker("--pool", "threads")
        first.terminate()
        assert first.wait(120) == 0
        send("b")
        stand.until(lambda s: s["states"]["dispatched"] == 2)
        second.terminate()
        assert second.wait(120) == 0
    assert "Traceback" not in stand.logs()
    assert '"exception"' not in stand.logs()
