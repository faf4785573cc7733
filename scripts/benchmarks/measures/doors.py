"""The doors by themselves (apart): jobs enqueued a second by one process, and taken in a second by one worker."""

import time
from collections.abc import Callable, Iterator

import msgspec
from celery import Celery

from benchmarks.figures import Figure, median
from benchmarks.jobs import LINKED, ROUTE, Job, jobs, say, until
from benchmarks.stand import Stand
from worker.client import Client


def measure(stand: Stand, rounds: int, quick: bool) -> Iterator[Figure]:
    """Enqueue while no worker runs, then take in while the valve is closed; each way in turn."""
    part = 10 if quick else 1
    enqueued: dict[str, list[float]] = {}
    taken: dict[str, list[float]] = {}
    for turn in range(rounds):
        say(f"round {turn + 1} of {rounds}")
        _enqueue(stand, enqueued, part)
        _take_in(stand, taken, part)
    for name, runs in enqueued.items():
        yield Figure(f"enqueued by one process: {name}", median(runs), "jobs/s")
    for name, runs in taken.items():
        yield Figure(f"taken in by one worker, nothing sent: {name}", median(runs), "jobs/s")


def producer(stand: Stand) -> Celery:
    """Make a Celery app as another service has it: it knows the tasks' names only."""
    return Celery("producer", broker=stand.settings.redis())


def send_task(app: Celery, job: Job) -> None:
    """Enqueue by the Celery door, one message a job."""
    app.send_task("vcc.dispatch", kwargs=job, queue="intake", argsrepr="", kwargsrepr="")


def _enqueue(stand: Stand, rates: dict[str, list[float]], part: int) -> None:
    app = producer(stand)
    with Client(stand.settings.redis()) as client:
        ways: dict[str, tuple[int, Callable[[list[Job]], object]]] = {
            "client.dispatch(), one by one": (20_000, lambda some: [client.dispatch(**job) for job in some]),
            "client.dispatch_many()": (100_000, client.dispatch_many),
            "Celery send_task(), one by one": (5_000, lambda some: [send_task(app, job) for job in some]),
        }
        for name, (count, send) in ways.items():
            send(jobs(200))  # connections, scripts, caches
            stand.redis.flushdb()
            made = jobs(count // part)
            start = time.perf_counter()
            send(made)
            rates.setdefault(name, []).append(len(made) / (time.perf_counter() - start))
        stand.redis.flushdb()


INSERT_MANY = """insert into inbox (job)
    select jsonb_build_object('externalid', 'e' || i, 'route', %(route)s::text, 'linkeddata', %(linked)s::jsonb)
    from generate_series(1, %(count)s) i"""


def _fill_stream(stand: Stand, count: int) -> None:
    with Client(stand.settings.redis()) as client:
        client.dispatch_many(jobs(count))


def _fill_inbox(stand: Stand, count: int) -> None:
    linked = msgspec.json.encode(LINKED).decode()
    with stand.engine.begin() as conn:
        conn.exec_driver_sql(INSERT_MANY, {"linked": linked, "route": ROUTE, "count": count})


def _fill_celery(stand: Stand, count: int) -> None:
    app = producer(stand)
    for job in jobs(count):
        send_task(app, job)


def _take_in(stand: Stand, rates: dict[str, list[float]], part: int) -> None:
    from worker.tasks import WAKE_KEY  # noqa: PLC0415 - the app reads the environment when it is imported

    ways = {"stream": (20_000, _fill_stream), "inbox": (20_000, _fill_inbox), "Celery": (3_000, _fill_celery)}
    stand.pause()
    for name, (count, fill) in ways.items():
        stand.clean()
        fill(stand, count // part)
        # taken, or every message of Celery's would ask for a delivery, in vain
        stand.redis.set(WAKE_KEY, 1, ex=600)
        rates.setdefault(name, []).append(_taken_in(stand, count // part))
    stand.resume()


def _taken_in(stand: Stand, count: int) -> float:
    """Start a worker, wait until it has recorded all; jobs a second.

    A row's ``created_at`` is the time at which its transaction began. From the first to the last such time all were
    recorded but those of the last: the starting of the worker counts for no door, and no batch counts half.
    """
    worker = stand.start("worker.ops.cli", "worker")
    try:
        until(lambda: stand.count() == count, every=0.2)
    finally:
        stand.kill(worker)
    with stand.engine.connect() as conn:
        return float(
            conn.exec_driver_sql(
                """select coalesce(count(*) filter (where created_at < last)
                    / nullif(extract(epoch from last - first)::float8, 0), 0)
                from interactions, (select min(created_at), max(created_at) from interactions) as t(first, last)
                group by first, last"""
            ).scalar_one()
        )
