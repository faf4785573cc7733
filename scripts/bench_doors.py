"""What ``scripts/bench`` measures of the doors: jobs enqueued a second, taken in a second, and how soon they arrive."""

import asyncio
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import msgspec
import psycopg
from bench_stand import LINKED, POOL, ROUNDS, Bench, until
from celery import Celery

from worker.client import Client
from worker.store import gate

Job = dict[str, Any]


def jobs(count: int, prefix: str = "e", **fields: Any) -> list[Job]:
    """Make so many different dispatches."""
    return [
        {"externalid": f"{prefix}{i}", "route": "R", "linkeddata": LINKED, **fields} for i in range(count)
    ]


def producer(found: Bench) -> Celery:
    """A Celery app as another service has it: it knows the tasks' names only."""
    return Celery("producer", broker=found.settings.redis())


def send_task(app: Celery, job: Job) -> None:
    """Enqueue by the Celery door, one message a job."""
    app.send_task("vcc.dispatch", kwargs=job, queue="intake", argsrepr="", kwargsrepr="")


def enqueue(found: Bench) -> None:
    """Enqueue from one process, while no worker runs."""
    app = producer(found)
    rates: dict[str, list[float]] = {}
    with Client(found.settings.redis()) as client:
        ways: dict[str, tuple[int, Callable[[list[Job]], object]]] = {
            "client.dispatch(), one by one": (20_000, lambda some: [client.dispatch(**job) for job in some]),
            "client.dispatch_many()": (100_000, client.dispatch_many),
            "Celery send_task(), one by one": (5_000, lambda some: [send_task(app, job) for job in some]),
        }
        for _, send in ways.values():  # connections, scripts, caches
            send(jobs(200))
        for _ in range(ROUNDS):
            for name, (count, send) in ways.items():
                found.redis.flushdb()
                made = jobs(count)
                start = time.perf_counter()
                send(made)
                rates.setdefault(name, []).append(count / (time.perf_counter() - start))
    found.redis.flushdb()
    print(f"\njobs enqueued by one process, medians of {ROUNDS} (bars: 5,000 one by one, 50,000 many)")
    for name, runs in rates.items():
        print(f"  {name:32} {statistics.median(runs):8,.0f} jobs/s")


INSERT_MANY = """insert into inbox (job)
    select jsonb_build_object('externalid', 'e' || i, 'route', 'R', 'linkeddata', %(linked)s::jsonb)
    from generate_series(1, %(count)s) i"""


def fill_stream(found: Bench, count: int) -> None:
    """Put jobs into the stream."""
    with Client(found.settings.redis()) as client:
        client.dispatch_many(jobs(count))


def fill_inbox(found: Bench, count: int) -> None:
    """Put jobs into the inbox, in one transaction."""
    with found.engine.begin() as conn:
        conn.exec_driver_sql(INSERT_MANY, {"linked": msgspec.json.encode(LINKED).decode(), "count": count})


def fill_celery(found: Bench, count: int) -> None:
    """Put jobs into Celery's queue, one message a job."""
    app = producer(found)
    for job in jobs(count):
        send_task(app, job)


def intake(found: Bench) -> None:
    """Let one worker take in what stands ready at each door, while the valve is paused."""
    from worker.tasks import WAKE_KEY  # noqa: PLC0415 - the app reads the environment when it is imported

    ways = {"stream": (20_000, fill_stream), "inbox": (20_000, fill_inbox), "Celery": (3_000, fill_celery)}
    rates: dict[str, list[float]] = {}
    with found.engine.begin() as conn:
        gate.pause(conn, "measuring the intake")
    for _ in range(ROUNDS):
        for name, (count, fill) in ways.items():
            found.clean()
            found.redis.flushdb()
            fill(found, count)
            # taken, or every message of Celery's would ask for a delivery, in vain
            found.redis.set(WAKE_KEY, 1, ex=600)
            rates.setdefault(name, []).append(_taken_in(found, count))
    with found.engine.begin() as conn:
        gate.resume(conn)
    medians = {name: statistics.median(runs) for name, runs in rates.items()}
    print(
        f"\njobs recorded by one worker ({' '.join(POOL)}), valve paused, medians of {ROUNDS} (bar: 10 x Celery)"
    )
    for name, rate in medians.items():
        print(f"  {name:8} {rate:8,.0f} jobs/s   {rate / medians['Celery']:5.1f} x Celery")


def _taken_in(found: Bench, count: int) -> float:
    """Start a worker, wait until it has recorded all; jobs a second.

    A row's ``created_at`` is the time at which its transaction began. From the first to the last such time all were
    recorded but those of the last: the starting of the worker counts for no door, and no batch counts half.
    """
    worker = found.worker()
    try:
        until(lambda: found.count() == count, every=0.2)
    finally:
        found.kill(worker)
    with found.engine.connect() as conn:
        return conn.exec_driver_sql(
            """select count(*) filter (where created_at < last) / extract(epoch from last - first)::float8
            from interactions, (select min(created_at), max(created_at) from interactions) as t(first, last)
            group by first, last"""
        ).scalar_one()


WARM, BLOCKS, BLOCK, AGAIN_WARM, PAUSE = 200, 10, 200, 10, 0.02


def latency(found: Bench) -> None:
    """From enqueueing one job in an idle system to the API's acceptance: the doors, and the textbook design."""
    os.environ["TEXTBOOK_BROKER"] = found.settings.redis().removesuffix("/0") + "/1"
    import textbook  # noqa: PLC0415 - it reads the environment when it is imported

    found.clean()
    found.redis.flushall()
    with (
        instant_api() as (url, accepted),
        Client(found.settings.redis()) as client,
        psycopg.connect(found.settings.database(), autocommit=True) as conn,
    ):
        conn.execute("drop table if exists textbook")
        conn.execute(textbook.TABLE)
        ways: dict[str, Callable[[Job], object]] = {
            "textbook": lambda job: textbook.dispatch.delay(**job),
            "stream": lambda job: client.dispatch(**job),
            "inbox": lambda job: conn.execute(
                "insert into inbox (job) values (%s::text::jsonb)", [msgspec.json.encode(job).decode()]
            ),
        }
        there = {"VCC_API_URL": url, "VCC_AUTH_URL": url}
        workers = [
            found.worker(**there),
            found.start("--workdir", "scripts", "-A", "textbook", "worker", "-c", "4", **there),
        ]
        try:
            taken = _in_turns(ways, accepted)
        finally:
            found.kill(*workers)
    _tell_latency(taken)


def _in_turns(ways: dict[str, Callable[[Job], object]], accepted: Connection) -> dict[str, list[float]]:
    """Measure the ways block by block; the first few of a block warm up connections that had nothing to do."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for name, send in ways.items():
        _one_after_another(send, accepted, f"{name}-warm-", WARM)
    for block in range(BLOCKS):
        for name, send in ways.items():
            _one_after_another(send, accepted, f"{name}-{block}-again-", AGAIN_WARM)
            taken[name] += _one_after_another(send, accepted, f"{name}-{block}-", BLOCK)
    return taken


def _one_after_another(
    send: Callable[[Job], object], accepted: Connection, prefix: str, count: int
) -> list[float]:
    taken = []
    for job in jobs(count, prefix):
        start = time.perf_counter()
        send(job)
        at = _accepted_at(accepted, job["externalid"])
        taken.append((at - start) * 1000)
        time.sleep(PAUSE)  # what follows the acceptance has to be over too
    return taken


def _accepted_at(accepted: Connection, externalid: str) -> float:
    while accepted.poll(60):
        externalids, at = accepted.recv()
        if externalid in externalids:
            return float(at)
    raise SystemExit(f"{externalid} was not accepted within a minute")


def _tell_latency(taken: dict[str, list[float]]) -> None:
    theirs = _percentiles(taken["textbook"])
    print(
        f"\nmilliseconds from enqueueing to acceptance, system idle, {BLOCKS * BLOCK:,} each (bar: 1.00 x textbook)"
    )
    print(f"  worker {' '.join(POOL)}; textbook --pool prefork --concurrency 4")
    for name, runs in taken.items():
        p50, p99 = _percentiles(runs)
        print(
            f"  {name:9} p50 {p50:6.2f}   p99 {p99:6.2f}   x textbook: {p50 / theirs[0]:.2f}, {p99 / theirs[1]:.2f}"
        )


def _percentiles(runs: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(runs, n=100)
    return cuts[49], cuts[98]


@contextmanager
def instant_api() -> Iterator[tuple[str, Connection]]:
    """Run an API that accepts at once, in a process of its own: its URL, and what it says of each acceptance."""
    context = get_context("spawn")
    accepted, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{accepted.recv()}", accepted
    finally:
        process.kill()
        process.join()


def _serve(told: Connection) -> None:
    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(partial(InstantApi, told), "127.0.0.1", 0)
        told.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


class InstantApi(asyncio.Protocol):
    """Answers every call with 200 and notes when; just enough HTTP for that, so that it adds next to nothing."""

    def __init__(self, told: Connection) -> None:
        self._told = told
        self._got = b""

    def connection_made(self, transport: Any) -> None:
        """Keep the connection."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer as soon as the whole call is there."""
        self._got += data
        head, _, body = self._got.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
        if length is None or len(body) < int(length[1]):
            return
        at = time.perf_counter()  # the same clock in all processes
        self._got = b""
        is_call = b"/interactions/Invoke" in head
        answer = (
            b"{}" if is_call else b'{"access_token": "token", "token_type": "bearer", "expires_in": 7200}'
        )
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(answer), answer)
        )
        if is_call:
            self._told.send(([one["externalid"] for one in msgspec.json.decode(body)["requests"]], at))
