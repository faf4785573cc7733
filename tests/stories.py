"""A store, the API's stand-in and a bench between them, for tests that say step by step what happens when."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from pydantic import SecretStr
from sqlalchemy import Engine

from tests.factories import Store, opened, settings
from tests.waiting import until
from worker.delivery.deliver import Bench, deliver, deliver_once
from worker.domain.outcome import Outcome
from worker.simulator.run import Background
from worker.upkeep.sweep import sweep
from worker.vonage.invoke import Api

Ledger = list[tuple[str, str, str | None]]


class Stalling:
    """An API whose calls wait to be let go: before the ``request`` leaves, or before the ``answer`` is read."""

    def __init__(self, api: Api, stage: str) -> None:
        self._api, self._stage = api, stage
        self.there, self.go = threading.Event(), threading.Event()

    def invoke(self, body: bytes) -> Outcome:
        """Make the call, held up on its way."""
        outcome = self._api.invoke(body) if self._stage == "answer" else None
        self.there.set()
        assert self.go.wait(60)
        return outcome or self._api.invoke(body)


class Works(Store):
    """A store whose rows are sent over real HTTP.

    Attributes:
        amiss: what the witness is to have seen amiss at the end of the story: nothing, unless the story says why.
    """

    def __init__(self, engine: Engine, simulator: Background, api: Api, given: Any) -> None:
        super().__init__(engine)
        self.simulator = simulator
        self.bench = Bench(engine, api, given, lambda: None)
        self.amiss = {"redispatched": 0, "unknown_releases": 0, "releases_without_provider": 0}

    def using(self, **changed: Any) -> Bench:
        """Give a bench with other settings."""
        return replace(self.bench, settings=self.bench.settings.model_copy(update=changed))

    def send(self) -> int:
        """Deliver what is due, if the valve lets it pass; how many calls were made."""
        return deliver(self.bench)

    def send_all(self) -> int:
        """Deliver until nothing is left to be sent, letting every wait pass; how many calls were made."""
        calls = 0
        for _ in range(50):
            self.open_valve()
            self.make_due()
            calls += self.send()
            if not self.one("select count(*) from interactions where state in ('pending', 'releasing')"):
                return calls
        raise AssertionError(f"never done: {self.counts()}")

    @contextmanager
    def stalled(self, stage: str = "answer", **changed: Any) -> Iterator[Callable[[], None]]:
        """Hold a call up for as long as this is entered; what is given lets it go and waits for its end."""
        api = Stalling(self.bench.api, stage)
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(deliver_once, replace(self.using(**changed), api=api))
            try:
                assert api.there.wait(60)
                yield lambda: _end(api, made)
            finally:
                api.go.set()

    def open_valve(self) -> None:
        """Let so much time pass that the valve asks for nothing but a probe."""
        self.run("update gate set closed_until = now(), rate = null, next_slot = null where failures > 0")

    def age(self, interval: str) -> None:
        """Let time pass for everything that is in the database."""
        self.run(
            """update interactions set due_at = due_at - %(i)s::interval, created_at = created_at - %(i)s::interval,
                first_sent_at = first_sent_at - %(i)s::interval, updated_at = updated_at - %(i)s::interval""",
            i=interval,
        )
        self.run(
            """update gate set closed_until = closed_until - %(i)s::interval,
                probe_until = probe_until - %(i)s::interval""",
            i=interval,
        )

    def sweep(self) -> dict[str, int]:
        """Do what time asks for."""
        return sweep(self.engine, self.bench.settings, self.bench.wake)

    def ledger(self, externalid: str = "e") -> Ledger:
        """Tell what the API processed of an externalid: action, requestid and provider, in their order."""
        entries = self.simulator.book(full=True)["ledger"].get(externalid, [])
        return [(entry["action"], entry["requestid"], entry["provider"]) for entry in entries]

    def book(self, *names: str) -> list[Any]:
        """Read some numbers of the witness's book."""
        book = self.simulator.book()
        return [book[name] for name in names]

    @contextmanager
    def locked(self, externalid: str = "e") -> Iterator[None]:
        """Hold the lock of all of an externalid's rows for as long as this is entered."""
        with self.engine.begin() as conn:
            conn.exec_driver_sql(
                "select from interactions where externalid = %(e)s for update", {"e": externalid}
            )
            yield

    def queue(self, *jobs: Callable[[], Any]) -> list[Future[Any]]:
        """Start each job when those before it wait for a lock that the test holds."""
        pool = ThreadPoolExecutor(len(jobs))
        started = []
        for number, job in enumerate(jobs, 1):
            started.append(pool.submit(job))
            until(lambda n=number: self._waiters() >= n)
        pool.shutdown(wait=False)
        return started

    def _waiters(self) -> int:
        return int(
            self.one(
                """select count(*) from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock'"""
            )
        )


def _end(api: Stalling, made: Future[bool]) -> None:
    api.go.set()
    made.result(60)


@contextmanager
def working(database_url: str, simulator: Background) -> Iterator[Works]:
    """Give everything that a delivery needs."""
    given = settings(
        api_url=simulator.url,
        auth_url=simulator.url,
        client_id="simulator",
        client_secret=SecretStr("simulator"),
        timeout=5.0,
    )
    api = Api(given)
    with opened(database_url) as engine:
        works = Works(engine, simulator, api, given)
        yield works
        assert works.amiss == dict(zip(works.amiss, works.book(*works.amiss), strict=True))
    api.close()
