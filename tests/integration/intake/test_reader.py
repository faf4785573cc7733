"""A door's reader: what a bad job, a crash or a lost connection does to the good ones, and to their order."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import msgspec
import psycopg
import pytest
import redis
from psycopg.errors import NumericValueOutOfRange
from pydantic import SecretStr
from redis.exceptions import RedisError
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError

from tests import logbook
from tests.factories import Store, opened, settings
from tests.waiting import until
from worker import app as process
from worker import tasks
from worker.client import STREAM, Client
from worker.delivery.deliver import Bench, deliver
from worker.delivery.straight import Senders
from worker.domain.meeting import Ask, Family, Met, meet
from worker.embedded import Server
from worker.intake import reader as readers
from worker.intake import record as recording
from worker.intake.inbox import Inbox
from worker.intake.reader import SEATS, Door, Onward, Reader
from worker.intake.stream import GROUP, Stream
from worker.settings import Settings
from worker.simulator.run import Background
from worker.store import record as entries
from worker.store import seat as seats
from worker.store.claim import Terms
from worker.store.seat import NAMESPACE
from worker.vonage.invoke import Api

WORD = "Confidential subject"
HOLDER = """select pid from pg_locks where locktype = 'advisory' and classid = %(space)s and objid = %(seat)s
    and granted"""


@dataclass
class House:
    """A database and a Redis, and one door's two sides.

    Attributes:
        door: which door.
        went: what was handed on after each batch with something due.
    """

    door: str
    store: Store
    database_url: str
    redis_url: str
    server: redis.Redis
    went: list[Any] = field(default_factory=list)

    def send(self, *jobs: dict[str, Any] | str) -> None:
        """Bring jobs to the door, as a service would; a text goes as it is."""
        if self.door == "stream":
            with self.server.pipeline(transaction=False) as pipeline:
                for job in jobs:
                    pipeline.xadd(STREAM, {"job": text(job)})
                pipeline.execute()
        else:
            self.store.run(
                "insert into inbox (job) select value from jsonb_array_elements(%(jobs)s::jsonb)",
                jobs=f"[{','.join(map(text, jobs))}]",
            )

    def reader(self, **given: Any) -> Reader:
        """Make a reader of the door."""
        onward = Onward(given.pop("terms", lambda: None), self.went.append)
        wanted = {
            "engine": self.store.engine,
            "settings": settings(),
            "name": self.door,
            "open_door": self.open,
            "onward": onward,
            **given,
        }
        return Reader(**wanted)

    def open(self, conn: Connection) -> Door:
        """Open the door."""
        return Stream(self.server) if self.door == "stream" else Inbox(conn)

    def drain(self, **given: Any) -> None:
        """Read until nothing is left; somebody may be about to leave the seat."""
        reader = self.reader(**given)
        until(lambda: reader.run(lambda: True, waits=False))

    def left(self) -> int:
        """Count what still stands at the door."""
        if self.door == "stream":
            return int(self.server.xlen(STREAM))
        return int(self.store.one("select count(*) from inbox"))

    def holder(self) -> int | None:
        """Tell the backend that has the seat."""
        pid = self.store.one(HOLDER, space=NAMESPACE, seat=SEATS[self.door])
        return None if pid is None else int(pid)

    def end_holder(self) -> None:
        """End the connection that has the seat."""
        self.store.run("select pg_terminate_backend(%(pid)s, 5000)", pid=self.holder())

    def rejections(self) -> list[tuple[str, str, bytes]]:
        """Read the rejections: door, reason, job."""
        found = self.store.all("select door, reason, job from rejections order by id")
        return [(row.door, row.reason, bytes(row.job)) for row in found]


def text(job: dict[str, Any] | str) -> str:
    """Write a job as JSON."""
    return job if isinstance(job, str) else msgspec.json.encode(job).decode()


def terms() -> Terms:
    """Tell what one call takes."""
    return Terms(limit=500, budget=99_000, lease=90.0)


def dispatches(*externalids: str, **fields: Any) -> list[dict[str, Any]]:
    """Make a dispatch for each."""
    return [{"externalid": externalid, "route": "R", **fields} for externalid in externalids]


@pytest.fixture(params=["stream", "inbox"])
def house(request: pytest.FixtureRequest, database_url: str, redis_url: str) -> Iterator[House]:
    """Give each door in turn."""
    with opened(database_url) as engine, redis.Redis.from_url(redis_url, protocol=2) as server:
        yield House(request.param, Store(engine), database_url, redis_url, server)


@contextmanager
def running(reader: Reader) -> Iterator[list[Exception]]:
    """Let a thread read until the end of the block; what it raised."""
    over = threading.Event()
    raised: list[Exception] = []

    def read() -> None:
        try:
            reader.run(lambda: not over.is_set(), waits=True)
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield raised
    finally:
        over.set()
        thread.join()


# --- good and bad jobs ----------------------------------------------------------------------------


def test_bad_jobs_between_good_ones(house: House) -> None:
    """The good jobs are recorded in their order, the bad ones kept whole, with the door and the reason."""
    good, bad = dispatches("a", "b", "c"), '{"externalid": "x", "lane": "later"}'
    house.send(good[0], bad, good[1], "5", '{"externalid": "y", "route": "R", "x": 1}', good[2])
    house.drain()
    assert [row.externalid for row in house.store.all("select externalid from interactions order by id")] == [
        "a",
        "b",
        "c",
    ]
    found = house.rejections()
    assert [door for door, _, _ in found] == [house.door] * 3
    assert [reason.partition(":")[0] for _, reason, _ in found] == ["lane", "job", "x"]
    assert msgspec.json.decode(found[0][2]) == msgspec.json.decode(bad)
    places = [row.place for row in house.store.all("select place from rejections")]
    assert all(place.startswith("entry " if house.door == "stream" else "row ") for place in places)
    assert (house.left(), len(house.went)) == (0, 1)


def test_only_bad_jobs(house: House) -> None:
    """A batch without a good job is forgotten like any other, and nobody is asked to send anything."""
    house.send("5", "{}")
    house.drain()
    assert (house.left(), len(house.rejections()), house.went) == (0, 2, [])


def test_no_words_in_the_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Of rejected jobs the log tells how many, and nothing that a customer wrote."""
    caplog.set_level(logging.DEBUG)
    house.send({"externalid": WORD, "route": "R", WORD: 1}, {"externalid": WORD, "route": {WORD: 1}})
    house.drain()
    [told] = logbook.lines(caplog, "jobs rejected")
    assert (told["door"], told["rejected"], told["jobs"]) == (house.door, 2, 2)
    each = logbook.lines(caplog, "job rejected")
    assert len({line["place"] for line in each}) == len({line["requestid"] for line in each}) == 2
    assert WORD not in logbook.text(caplog)


def breaks_at(externalid: str) -> Callable[[Family, Ask], Met]:
    """Make rules that fail at one externalid."""

    def broken(family: Family, ask: Ask) -> Met:
        if ask.job.externalid == externalid:
            raise TypeError(WORD)
        return meet(family, ask)

    return broken


def test_what_no_rule_foresaw(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A job that makes the rules themselves fail is kept whole; those before and behind it are recorded."""
    monkeypatch.setattr("worker.store.record.meet", breaks_at("odd"))
    house.send(*dispatches("a", "odd", "b"))
    house.drain()
    assert house.store.counts() == {"pending": 2}
    [(door, reason, job)] = house.rejections()
    assert (door, reason) == (house.door, "job: can't be recorded (TypeError)")
    assert msgspec.json.decode(job) == dispatches("odd")[0]
    assert (house.left(), len(house.went)) == (0, 1)
    [told] = [line for line in logbook.lines(caplog, "job rejected") if line["level"] == "error"]
    assert (told["reason"], told["externalid"]) == (reason, "odd")
    assert WORD not in logbook.text(caplog)


def test_what_the_database_refuses(house: House) -> None:
    """A job that the database refuses is kept whole; those before and behind it are recorded."""
    house.store.run("alter table interactions add constraint odd check (externalid <> 'odd')")
    house.send(*dispatches("a", "odd", "b"))
    house.drain()
    assert house.store.counts() == {"pending": 2}
    assert [reason for _, reason, _ in house.rejections()] == [
        "job: the database refuses it (IntegrityError 23514)"
    ]
    assert house.left() == 0


def test_what_can_not_even_be_read(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job at which reading itself fails is kept whole; those before and behind it are recorded."""
    parse = recording.parse

    def broken(raw: Any, **options: Any) -> Any:
        if b"odd" in raw:
            raise ZeroDivisionError(WORD)
        return parse(raw, **options)

    monkeypatch.setattr(recording, "parse", broken)
    house.send(*dispatches("a", "odd", "b"))
    house.drain()
    assert house.store.counts() == {"pending": 2}
    [(_, reason, _)] = house.rejections()
    assert "ZeroDivisionError" in reason
    assert WORD not in reason
    assert house.left() == 0


@pytest.mark.parametrize(
    ("step", "error", "number"),
    [
        ("record_fresh", TypeError(WORD), 1),
        ("claim_recorded", TypeError(WORD), 3),
        ("claim_recorded", DataError(WORD, None, NumericValueOutOfRange(WORD)), 1),
    ],
)
def test_claim_that_fails(
    house: House, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception, number: int
) -> None:
    """Where jobs can't be claimed with their record, whatever the reason, that is no fault of theirs."""

    def fails(*_: Any) -> None:
        raise error

    monkeypatch.setattr(entries, "record_fresh", lambda *_: None)
    monkeypatch.setattr(entries, step, fails)
    house.send(*dispatches(*[f"e{n}" for n in range(number)]))
    house.drain(terms=terms)
    assert (house.store.counts(), house.rejections()) == ({"pending": number}, [])
    assert (house.went, house.left()) == ([None], 0)


def test_what_was_claimed_is_handed_on(house: House) -> None:
    """What was claimed with its record is handed on once; where nothing is due nobody is troubled."""
    house.send(*dispatches("a"), "5")
    house.drain(terms=terms)
    house.send(*dispatches("b", "b"), {"action": "release", "externalid": "c"})
    house.drain(terms=terms)
    house.send(*dispatches("a"), {"action": "release", "externalid": "d"})
    house.drain(terms=terms)
    assert [[row.externalid for row in claim.rows] for claim in house.went] == [["a"], ["b"]]
    assert house.store.one("select count(*) from interactions where call is not null") == 2


def test_large_batches_are_not_claimed(house: House) -> None:
    """Of many jobs at once none is claimed: whoever delivers takes as many as a call takes."""
    house.send(*dispatches(*[f"e{n}" for n in range(readers.FEW + 1)]))
    house.drain(terms=terms)
    assert house.went == [None]


def test_jobs_without_a_requestid(house: House) -> None:
    """A job without a requestid goes by what its entry or row is called."""
    house.send(*dispatches("a", "b"), *dispatches("c", requestid="own"))
    house.drain()
    found = [row[0] for row in house.store.all("select dispatch_requestid from interactions order by id")]
    assert found[2] == "own"
    assert len(set(found)) == 3
    assert all(requestid.replace("-", "").isdigit() for requestid in found[:2])


def test_routes_that_are_allowed(house: House) -> None:
    """A route that the settings don't allow is refused here too."""
    house.send(*dispatches("a"), {"externalid": "b", "route": "S"})
    house.drain(settings=settings(routes=frozenset("R")))
    assert (house.store.counts(), len(house.rejections())) == ({"pending": 1}, 1)


# --- crashes --------------------------------------------------------------------------------------


@contextmanager
def broken(house: House, method: str, error: Exception) -> Iterator[None]:
    """Let one step of the door fail."""
    door = Stream if house.door == "stream" else Inbox

    def fails(*_: Any) -> None:
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(door, method, fails)
        yield


def snapshot(house: House) -> list[Any]:
    """Read all that redelivery must not change."""
    return [
        *house.store.all("select * from interactions order by id"),
        *house.store.all("select * from receipts order by requestid"),
        *house.store.all("select * from events order by id"),
    ]


def test_died_between_recording_and_forgetting(house: House) -> None:
    """A batch that was recorded and not forgotten comes once more, and changes nothing."""
    house.send(
        *dispatches("a", "a", "b"),
        {"action": "release", "externalid": "b"},
        {"action": "release", "externalid": "c"},
        {"action": "release", "externalid": "c"},
    )
    for _ in range(3):
        with broken(house, "done", RedisError("gone")), pytest.raises(RedisError):
            house.drain()
        if not house.went[1:]:
            before = snapshot(house)
    assert house.left() == 6
    house.send(*dispatches("behind"))
    house.drain()
    assert house.left() == 0
    assert house.store.row("behind").state == "pending"
    house.store.run("delete from interactions where externalid = 'behind'")
    assert snapshot(house) == before
    assert len(house.went) == 2


def test_rejections_are_kept_once(house: House) -> None:
    """A batch that comes again leaves its rejections as they are."""
    house.send("5", *dispatches("a"))
    for _ in range(2):
        with broken(house, "done", RedisError("gone")), pytest.raises(RedisError):
            house.drain()
    house.drain()
    assert len(house.rejections()) == 1


@pytest.mark.parametrize("step", ["record_fresh", "claim_recorded", "_families"])
def test_seat_is_lost_before_the_commit(house: House, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A reader whose connection ends in the middle records nothing; the next one takes the batch first, and once."""
    original = getattr(entries, step)

    def robbed(*given: Any) -> Any:
        house.end_holder()
        return original(*given)

    if step != "record_fresh":
        monkeypatch.setattr(entries, "record_fresh", lambda *_: None)
    monkeypatch.setattr(entries, step, robbed)
    house.send(*dispatches("a", "b"))
    with pytest.raises(DBAPIError):
        house.drain(terms=terms)
    monkeypatch.undo()
    assert (house.store.counts(), house.went, house.left()) == ({}, [], 2)
    house.send(*dispatches("c"))
    house.drain()
    assert [row[0] for row in house.store.all("select externalid from interactions order by id")] == [*"abc"]
    assert house.left() == 0


def test_seat_is_lost_after_reading(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has read a batch and lost the seat then leaves it to the next one, who may be at it already."""
    house.send(*dispatches("a", "b"), "5")
    door = Stream if house.door == "stream" else Inbox
    read = door.read

    def robbed(self: Any, limit: int, budget: int) -> Any:
        batch = read(self, limit, budget)
        monkeypatch.undo()
        house.end_holder()
        house.drain()
        house.send(*dispatches("c"))
        return batch

    monkeypatch.setattr(door, "read", robbed)
    with pytest.raises(DBAPIError):
        house.drain()
    assert (house.store.counts(), house.left(), len(house.rejections())) == ({"pending": 2}, 1, 1)
    house.drain()
    assert (house.store.counts(), house.left()) == ({"pending": 3}, 0)


def test_seat_is_lost_while_jobs_are_recorded_one_by_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection lost while a batch is recorded job by job ends that too; the rest comes again, nothing twice."""
    met: list[str] = []

    def rules(family: Family, ask: Ask) -> Met:
        met.append(ask.job.externalid)
        if met == ["a", "odd", "a", "odd"]:
            house.end_holder()
        return breaks_at("odd")(family, ask)

    monkeypatch.setattr("worker.store.record.meet", rules)
    house.send(*dispatches("a", "odd", "b"))
    with pytest.raises(DBAPIError):
        house.drain()
    assert (house.store.counts(), house.left()) == ({"pending": 1}, 3)
    house.drain()
    assert (house.store.counts(), house.left(), len(house.rejections())) == ({"pending": 2}, 0, 1)


def test_postgres_dies_in_the_middle(
    house: House, postgres_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres dies while a batch is recorded: it is still there, and recorded when Postgres is back."""

    def dies(*_: Any) -> None:
        postgres_server.kill()

    monkeypatch.setattr(entries, "record_fresh", dies)
    house.send(*dispatches("a", "b"))
    with pytest.raises(DBAPIError):
        house.drain(terms=terms)
    monkeypatch.undo()
    with pytest.raises(DBAPIError):
        house.drain()
    postgres_server.restart()
    house.drain()
    assert (house.store.counts(), house.left()) == ({"pending": 2}, 0)


def test_connections_are_given_back(house: House) -> None:
    """However often a reader fails, the pool misses no connection and nobody keeps the seat."""
    pool: Any = house.store.engine.pool
    for error in (RedisError("gone"), TypeError("odd"), DBAPIError("", None, Exception())) * 3:
        house.send(*dispatches("a"))
        for method in ("open", "read", "done"):
            with broken(house, method, error), pytest.raises(type(error)):
                house.drain()
    assert pool.checkedout() == 0
    house.drain()
    assert house.left() == 0


# --- the seat -------------------------------------------------------------------------------------


def test_one_reads(house: House) -> None:
    """While one reads, another is told that the seat is taken, and takes nothing."""
    with running(house.reader()) as raised:
        until(house.holder)
        assert not house.reader().run(lambda: True, waits=False)
    assert raised == []
    house.drain()


def test_picked_up_at_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that waits takes up in an instant what is brought, and the second one as the first."""
    monkeypatch.setattr(readers, "BLOCK", 20.0)
    with running(house.reader()):
        until(house.holder)
        start = time.monotonic()
        for n in range(5):
            house.send(*dispatches(f"e{n}"))
            until(lambda n=n: house.store.counts().get("pending") == n + 1)  # type: ignore[misc]
        assert time.monotonic() - start < readers.BLOCK
        until(lambda: not house.left())
        monkeypatch.undo()
        house.send(*dispatches("last"))  # which it wakes up for, to find that it is to end


def test_stops_when_told(house: House) -> None:
    """A reader that waits ends within moments of being told, and gives the seat up."""
    with running(house.reader()):
        until(house.holder)
        start = time.monotonic()
    assert time.monotonic() - start < readers.BLOCK + 15
    until(lambda: house.holder() is None)


def test_keeps_its_seat_while_nothing_comes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that has long had nothing to do is no silent one: Postgres leaves it its seat."""
    monkeypatch.setattr(seats, "SILENCE", 5)
    monkeypatch.setattr(readers, "SILENCE", 3)  # it holds on every second
    monkeypatch.setattr(readers, "BLOCK", 0.1)
    with running(house.reader()) as raised:
        pid = until(house.holder)
        end = time.monotonic() + 6
        until(lambda: time.monotonic() > end or raised)
        assert (raised, house.holder()) == ([], pid)
        house.send(*dispatches("a"))
        until(house.store.counts)


def test_waiting_costs_next_to_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader with nothing to do asks a few times a second at most."""
    read: list[float] = []
    door = Stream if house.door == "stream" else Inbox
    original = door.read

    def counted(self: Any, limit: int, budget: int) -> Any:
        read.append(time.monotonic())
        return original(self, limit, budget)

    monkeypatch.setattr(door, "read", counted)
    with running(house.reader()):
        until(house.holder)
        since, end = time.monotonic(), time.monotonic() + 1.2
        until(lambda: time.monotonic() > end)
        found, took = len(read), time.monotonic() - since
    assert found <= 2 + took / readers.BLOCK


def test_lost_while_it_waits(house: House) -> None:
    """A reader that loses its seat while it waits for jobs soon learns of it, and takes nothing more."""
    with running(house.reader()) as raised:
        until(house.holder)
        house.end_holder()
        house.send(*dispatches("a"))
        until(lambda: raised)
    assert isinstance(raised[0], DBAPIError)
    assert house.store.counts() == {}
    house.drain()
    assert (house.store.counts(), house.left()) == ({"pending": 1}, 0)


# --- the task -------------------------------------------------------------------------------------


@dataclass
class Asked:
    """What the task asked for: deliveries, and itself once more."""

    deliveries: int = 0
    again: int = 0

    def deliver(self) -> None:
        """Count a delivery that was asked for."""
        self.deliveries += 1

    def intake(self, **_: Any) -> None:
        """Count the times that the task asked for itself."""
        self.again += 1


@pytest.fixture
def asked(house: House, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asked]:
    """Let this process be a worker of the house; tell what its task asks for."""
    monkeypatch.setenv("DATABASE_URL", house.database_url)
    monkeypatch.setenv("REDIS_URL", house.redis_url)
    found = Asked()
    monkeypatch.setattr(tasks, "wake", found.deliver)
    monkeypatch.setattr(tasks.intake, "apply_async", found.intake)
    process.forget_resources()
    yield found
    process.engine().dispose()
    process.redis_client().close()
    process.forget_resources()


def test_the_task_drains_the_door(house: House, asked: Asked) -> None:
    """Where no worker reads, the task takes in what stands at the door, and has it delivered."""
    house.send(*dispatches(*[f"e{n}" for n in range(1_050)]), "5")
    until(lambda: tasks.intake() or not house.left())
    assert house.store.counts() == {"pending": 1_050}
    assert house.store.one("select count(*) from interactions where call is not null") == 0
    assert (len(house.rejections()), asked.deliveries > 0) == (1, True)


def test_the_task_leaves_the_door_to_its_reader(house: House, asked: Asked) -> None:
    """Where a worker reads, the task does nothing, and harms nothing."""
    with running(house.reader()) as raised:
        until(house.holder)
        for n in range(3):
            tasks.intake()
            house.send(*dispatches(f"e{n}"))
            until(lambda n=n: house.store.counts().get("pending") == n + 1)  # type: ignore[misc]
    assert (raised, asked) == ([], Asked())


def test_the_task_without_redis(
    house: House, asked: Asked, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where one door can't be opened the task says so in one line, and leaves no seat behind."""
    with broken(house, "open", RedisError(WORD)):
        tasks.intake()
    [told] = logbook.lines(caplog)
    assert (told["event"], told["work"], told["reason"]) == ("work failed", "intake", "RedisError")
    house.send(*dispatches("a"))
    until(lambda: tasks.intake() or not house.left())


def test_a_busy_stream_does_not_starve_the_inbox(
    house: House, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much stands in the stream, the task takes in what stands in the inbox, and comes again."""
    monkeypatch.setattr(tasks, "SLICE", 0.1)
    monkeypatch.setattr(readers, "BATCH", 10)
    stream, inbox = (replace(house, door=door) for door in ("stream", "inbox"))
    stream.send(*dispatches(*[f"e{n}" for n in range(2_000)]))
    inbox.send(*dispatches("mine"))
    tasks.intake()
    assert stream.left()
    assert not inbox.left()
    assert asked.again == 1
    monkeypatch.setattr(readers, "BATCH", 1_000)
    monkeypatch.setattr(tasks, "SLICE", 5.0)
    tasks.intake()
    assert (stream.left(), asked.again) == (0, 1)


# --- order ----------------------------------------------------------------------------------------

PAIRS = 8
EXTERNALIDS = 50


def story(externalid: str) -> list[dict[str, Any]]:
    """Tell what happens to one externalid: dispatch, release, dispatch, release and so on; each says which it is."""
    jobs = []
    for n in range(PAIRS):
        jobs += [
            {"externalid": externalid, "route": "R", "requestid": f"{externalid}-d{n}"},
            {"externalid": externalid, "action": "release", "requestid": f"{externalid}-r{n}"},
        ]
    return jobs


def shuffled(externalids: Sequence[str], dice: random.Random) -> Iterator[dict[str, Any]]:
    """Mix their stories, each in its order."""
    stories = [iter(story(externalid)) for externalid in externalids]
    while stories:
        one = dice.choice(stories)
        if job := next(one, None):
            yield job
        else:
            stories.remove(one)


@dataclass
class Battle:
    """Readers that compete for one door's seat, and somebody who ends their connections all the time.

    Attributes:
        raised: what ended a reader.
        sat: how often each reader had the seat.
        ended: how many connections were ended.
    """

    house: House
    dice: random.Random
    over: threading.Event = field(default_factory=threading.Event)
    peace: threading.Event = field(default_factory=threading.Event)
    raised: list[Exception] = field(default_factory=list)
    sat: list[int] = field(default_factory=lambda: [0, 0])
    ended: int = 0

    def produce(self, part: int) -> None:
        """Send the stories of every other externalid, a few jobs at a time, each time waiting for the answer."""
        dice = random.Random(self.dice.random())
        jobs = shuffled([f"e{n}" for n in range(part, EXTERNALIDS, 2)], dice)
        with Client(self.house.redis_url) as client, psycopg.connect(self.house.database_url) as service:
            while group := list(islice(jobs, dice.randint(1, 6))):
                if self.house.door == "stream":
                    client.send(group)
                else:
                    for job in group:
                        service.execute("insert into inbox (job) values (%s)", [text(job)])
                    service.commit()

    def read(self, number: int, engine: Engine, onward: Onward) -> None:
        """Read, and sit down again whenever the seat was lost: as a process of its own would."""
        with redis.Redis.from_url(
            self.house.redis_url, protocol=2, client_name=f"reader-{number}", retry=None
        ) as server:
            reader = Reader(
                engine,
                settings(),
                self.house.door,
                lambda conn: Stream(server) if self.house.door == "stream" else Inbox(conn),
                onward,
            )
            while not self.over.is_set():
                try:
                    self.sat[number] += reader.run(lambda: not self.over.is_set(), waits=True)
                except Exception as error:
                    self.sat[number] += 1
                    self.raised.append(error)

    def rage(self) -> None:
        """End the connections of whoever has the seat: to Postgres, now and then to Redis."""
        with psycopg.connect(self.house.database_url, autocommit=True) as admin:
            while not self.peace.wait(self.dice.expovariate(1 / 0.012)):
                values = {"space": NAMESPACE, "seat": SEATS[self.house.door]}
                ended = admin.execute(f"select pg_terminate_backend(pid) from ({HOLDER}) h", values)
                self.ended += ended.rowcount
                if self.house.door == "stream" and self.dice.random() < 0.3:
                    self.cut_redis()

    def cut_redis(self) -> None:
        """End a reader's connections to Redis."""
        for connection in self.house.server.client_list():
            if connection["name"].startswith("reader-"):
                self.house.server.client_kill_filter(_id=connection["id"])

    def fight(self, onwards: Sequence[tuple[Engine, Onward]]) -> None:
        """Let all of it happen until everything is taken in."""
        producers = [threading.Thread(target=self.produce, args=[part]) for part in (0, 1)]
        others = [threading.Thread(target=self.rage)]
        others += [
            threading.Thread(target=self.read, args=[number, engine, onward])
            for number, (engine, onward) in enumerate(onwards)
        ]
        for thread in (*others, *producers):
            thread.start()
        try:
            for thread in producers:
                thread.join()
            until(lambda: self.ended > 40, seconds=20)
            self.peace.set()
            until(lambda: not self.house.left(), seconds=20)
        finally:
            self.peace.set()
            self.over.set()
            for thread in others:
                thread.join()


def in_order(store: Store) -> None:
    """Assert that each externalid's lifecycles are its story, in order, each job met once and none in vain."""
    found = store.all(
        """select externalid, array_agg(dispatch_requestid || ' ' || release_requestid order by id) as pairs
        from interactions group by externalid"""
    )
    assert {row.externalid: row.pairs for row in found} == {
        f"e{n}": [f"e{n}-d{turn} e{n}-r{turn}" for turn in range(PAIRS)] for n in range(EXTERNALIDS)
    }
    for table in ("receipts", "events", "rejections"):
        assert store.one(f"select count(*) from {table}") == 0, table


def test_order_is_kept_whoever_reads(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two readers, whose connections end every few milliseconds, take in everything once, and in its order."""
    monkeypatch.setattr(readers, "BATCH", 9)
    monkeypatch.setattr(readers, "FEW", 0)
    battle = Battle(house, random.Random(1))
    with opened(house.database_url) as one, opened(house.database_url) as other:
        battle.fight([(engine, Onward(terms, house.went.append)) for engine in (one, other)])
        assert [engine.pool.checkedout() for engine in (one, other)] == [0, 0]  # type: ignore[attr-defined]
    unexpected = [error for error in battle.raised if not isinstance(error, DBAPIError | RedisError)]
    assert (unexpected, battle.ended > 40, min(battle.sat) > 3) == ([], True, True)
    in_order(house.store)
    ways = house.store.all("select distinct state, reason from interactions")
    assert [tuple(row) for row in ways] == [("cancelled", "released before it was sent")]
    if house.door == "stream":
        assert house.server.xpending(STREAM, GROUP)["pending"] == 0


def api_settings(simulator: Background) -> Settings:
    """Make settings for the API's stand-in."""
    return settings(
        api_url=simulator.url,
        auth_url=simulator.url,
        client_id="simulator",
        client_secret=SecretStr("simulator"),
        timeout=1.0,
        max_requests=20,
    )


def test_order_is_kept_while_it_is_sent_straight_on(
    house: House, monkeypatch: pytest.MonkeyPatch, simulator: Background
) -> None:
    """The same while each reader sends straight on: in the end all is released, and nothing was dispatched twice."""
    monkeypatch.setattr(readers, "BATCH", 9)
    battle = Battle(house, random.Random(7))
    given = api_settings(simulator)
    with opened(house.database_url) as one, opened(house.database_url) as other:
        api = Api(given)
        benches = [Bench(engine, api, given, lambda: None) for engine in (one, other)]
        senders = [Senders(bench, lambda: True, f"send-{n}") for n, bench in enumerate(benches)]
        battle.fight(
            [
                (bench.engine, Onward(sender.terms, sender.offer))
                for bench, sender in zip(benches, senders, strict=True)
            ]
        )
        for sender in senders:
            sender.close(60)
        while house.store.one("select count(*) from interactions where state in ('pending', 'releasing')"):
            house.store.make_due()
            deliver(replace(benches[0], settings=given.model_copy(update={"max_requests": 500})))
        api.close()
        assert [engine.pool.checkedout() for engine in (one, other)] == [0, 0]  # type: ignore[attr-defined]
    assert [error for error in battle.raised if not isinstance(error, DBAPIError | RedisError)] == []
    in_order(house.store)
    assert set(house.store.counts()) <= {"released", "cancelled"}
    book = simulator.book()
    assert (book["redispatched"], book["unknown_releases"]) == (0, 0)
    assert book["dispatched"] == book["released"] > 0
