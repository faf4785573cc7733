"""The stream from inside: what comes first, what nobody else takes in, and what is left afterwards."""

import threading
import time
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import redis

from tests.waiting import until
from worker.client import STREAM
from worker.intake import stream as door_of_streams
from worker.intake.record import Incoming
from worker.intake.stream import CONSUMER, GROUP, STRANDED, Stream

ALL = {"limit": 1000, "budget": 4_000_000}


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    """Give a connection as a worker has it."""
    with redis.Redis.from_url(redis_url, protocol=2, socket_timeout=60) as connection:
        yield connection


@pytest.fixture
def stream(server: redis.Redis) -> Stream:
    """Give the door, opened."""
    door = Stream(server)
    door.open()
    return door


def add(server: redis.Redis, *externalids: str) -> list[bytes]:
    """Add an entry for each."""
    return [server.xadd(STREAM, {"job": msgspec.json.encode({"externalid": e})}) for e in externalids]


def read(stream: Stream, limit: int = 1000, budget: int = 4_000_000) -> list[str]:
    """Read a batch and forget it; its externalids."""
    if batch := stream.read(limit, budget):
        stream.done(batch)
    return names(batch)


def names(batch: Sequence[Incoming]) -> list[str]:
    """Tell the externalids of a batch."""
    return [msgspec.json.decode(incoming.job)["externalid"] for incoming in batch]  # type: ignore[arg-type]


def left(server: redis.Redis) -> tuple[int, int]:
    """Count the entries of the stream, and those that are pending."""
    return server.xlen(STREAM), server.xpending(STREAM, GROUP)["pending"]


def reads_as_another(server: redis.Redis, count: int, idle: int = 0) -> list[bytes]:
    """Let another consumer of the group read entries, so many milliseconds ago."""
    [[_, entries]] = server.xreadgroup(GROUP, "another", {STREAM: ">"}, count=count)
    ids = [entry for entry, _ in entries]
    server.xclaim(STREAM, GROUP, "another", 0, ids, idle=idle, justid=True)
    return ids


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let the door's clock say that so much time has passed."""
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + seconds)
    monkeypatch.setattr(door_of_streams, "time", clock)


# --- reading --------------------------------------------------------------------------------------


def test_entries_in_their_order(server: redis.Redis, stream: Stream) -> None:
    """Entries come in the order of the stream, each by the name of its entry, whole as it was written."""
    ids = add(server, "a", "b")
    ids.append(server.xadd(STREAM, {"job": b"{\xff broken \x00"}))
    batch = stream.read(**ALL)
    assert [incoming.requestid for incoming in batch] == [entry.decode() for entry in ids]
    assert [incoming.place for incoming in batch] == [f"entry {entry.decode()}" for entry in ids]
    assert batch[-1].job == b"{\xff broken \x00"
    assert not any(incoming.wrong for incoming in batch)


def test_nothing_is_left_when_it_is_done(server: redis.Redis, stream: Stream) -> None:
    """What is done is acknowledged and deleted, and nothing else is."""
    add(server, *"abc")
    batch = stream.read(**ALL)
    add(server, "d")
    assert left(server) == (4, 3)
    stream.done(batch)
    assert left(server) == (1, 0)
    assert read(stream) == ["d"]
    assert left(server) == (0, 0)


def test_what_is_not_done_comes_again_first_and_alone(server: redis.Redis, stream: Stream) -> None:
    """Entries that were read and not forgotten come again before all new ones, and none of those with them."""
    ids = add(server, *"abc")
    assert names(stream.read(**ALL)) == ["a", "b", "c"]
    add(server, "d")
    server.xack(STREAM, GROUP, ids[1])
    server.xdel(STREAM, ids[1])
    again = Stream(server)
    again.open()
    assert names(again.read(**ALL)) == ["a", "c"]
    assert read(again) == ["a", "c"]
    assert read(again) == ["d"]


def test_many_pending_come_in_batches(server: redis.Redis, stream: Stream) -> None:
    """However many entries were left, they come in their order, batch by batch, before what is new."""
    expected = [f"e{n}" for n in range(150)]
    add(server, *expected)
    while stream.read(1000, 4_000_000) and server.xpending(STREAM, GROUP)["pending"] < 150:
        pass
    add(server, "new")
    found: list[str] = []
    while batch := stream.read(60, 4_000_000):
        assert len(batch) <= 60
        stream.done(batch)
        found += names(batch)
    assert found == [*expected, "new"]


def test_limit(server: redis.Redis, stream: Stream) -> None:
    """A batch has so many entries, or a page more."""
    add(server, *[f"e{n}" for n in range(100)])
    assert 40 <= len(stream.read(40, 4_000_000)) <= 60


@pytest.mark.parametrize("pending", [False, True])
def test_budget_of_bytes(server: redis.Redis, stream: Stream, pending: bool) -> None:
    """Large entries make small batches, new ones and those that come again; none is left out, nor twice."""
    expected = [f"e{n}" for n in range(100)]
    for externalid in expected:
        server.xadd(STREAM, {"job": msgspec.json.encode({"externalid": externalid, "x": "x" * 50_000})})
    if pending:
        reads_as_another(server, 100)
        stream.open()
    found: list[str] = []
    while batch := stream.read(1000, 1_500_000):
        assert sum(len(incoming.job) for incoming in batch) <= 1_500_000 + 20 * 51_000
        stream.done(batch)
        found += names(batch)
    assert found == expected


def test_an_entry_larger_than_the_budget(server: redis.Redis, stream: Stream) -> None:
    """One entry comes however large it is, so that it can be rejected and blocks nobody."""
    server.xadd(STREAM, {"job": b"x" * 3_000_000})
    add(server, "after")
    batch = stream.read(1000, 1_000)
    assert len(batch[0].job) == 3_000_000
    stream.done(batch[:1])
    assert read(stream) == ["after"]


# --- odd entries ----------------------------------------------------------------------------------


def test_entry_without_a_job(server: redis.Redis, stream: Stream) -> None:
    """An entry without the field ``job`` comes with all its fields, and says why it is no job."""
    server.xadd(STREAM, {"Job": "x", b"by\xfftes": b"\x00\xff"})
    [incoming] = stream.read(**ALL)
    assert incoming.wrong == "job: is no field of the stream's entry"
    assert msgspec.json.decode(incoming.job) == {"Job": "x", "by\ufffdtes": "\x00\ufffd"}  # type: ignore[arg-type]


def test_entry_with_more_fields(server: redis.Redis, stream: Stream) -> None:
    """What stands beside the field ``job`` is the producer's own."""
    server.xadd(STREAM, {"trace": "x", "job": b'{"externalid":"a"}', "z": ""})
    server.xadd(STREAM, {"job": b""})
    first, second = stream.read(**ALL)
    assert (first.job, first.wrong) == (b'{"externalid":"a"}', "")
    assert (second.job, second.wrong) == (b"", "")


def test_entries_deleted_while_they_are_pending(server: redis.Redis, stream: Stream) -> None:
    """What was deleted by hand while it was pending is forgotten, and blocks nothing behind it."""
    ids = add(server, *"abcd")
    stream.read(**ALL)
    server.xdel(STREAM, ids[0], ids[2])
    add(server, "new")
    assert read(stream) == ["b", "d"]
    assert read(stream) == ["new"]
    assert left(server) == (0, 0)


def test_all_that_was_pending_is_deleted(server: redis.Redis, stream: Stream) -> None:
    """Where nothing is left of what was pending, what is new comes soon."""
    ids = add(server, *"abc")
    stream.read(**ALL)
    server.xdel(STREAM, *ids)
    add(server, "new")
    found = until(lambda: read(stream) or (stream.wait(5), [])[1])
    assert (found, left(server)) == (["new"], (0, 0))


# --- the group ------------------------------------------------------------------------------------


def test_entries_that_were_there_before_the_group(server: redis.Redis) -> None:
    """What was added before any worker ever ran is read."""
    add(server, *"ab")
    door = Stream(server)
    door.open()
    assert read(door) == ["a", "b"]


def test_group_is_made_again(server: redis.Redis, stream: Stream) -> None:
    """After a FLUSHALL the reader goes on with what is added then."""
    add(server, "lost")
    stream.read(**ALL)
    server.flushall()
    assert stream.read(**ALL) == []
    server.flushall()
    add(server, "a")
    assert read(stream) == ["a"]
    server.delete(STREAM)
    add(server, "b")
    assert read(stream) == ["b"]


def test_flushed_between_reading_and_done(server: redis.Redis, stream: Stream) -> None:
    """A batch whose entries are gone when it is done is no error."""
    add(server, "a")
    batch = stream.read(**ALL)
    server.flushall()
    stream.done(batch)
    add(server, "b")
    assert read(stream) == ["b"]


def test_flushed_while_a_reader_waits(server: redis.Redis, stream: Stream) -> None:
    """A reader that waits on a stream which is flushed is woken by what is added afterwards."""
    add(server, "before")
    assert read(stream) == ["before"]
    woken: list[bool] = []
    waiting = threading.Thread(target=lambda: woken.append(stream.wait(60)))
    waiting.start()
    until(lambda: blocked(server))
    server.flushall()
    start = time.monotonic()
    add(server, "after")
    waiting.join()
    assert (woken, time.monotonic() - start < 20) == ([True], True)
    assert read(stream) == ["after"]


def test_earlier_ids_after_a_flush(server: redis.Redis, stream: Stream) -> None:
    """Entries whose ids are lower than those before the flush are read as well."""
    add(server, "a")
    read(stream)
    server.flushall()
    server.xadd(STREAM, {"job": b'{"externalid":"b"}'}, id="1-1")
    assert read(stream) == ["b"]
    server.xadd(STREAM, {"job": b'{"externalid":"c"}'}, id="1-2")
    assert stream.wait(60)
    assert read(stream) == ["c"]


# --- what another has read ------------------------------------------------------------------------


def test_what_a_dead_consumer_had_is_taken_over_at_once(server: redis.Redis, stream: Stream) -> None:
    """Who sits down takes over all that others read from the group, in its order, before what is new."""
    expected = [f"e{n}" for n in range(2_500)]
    add(server, *expected)
    for consumer in ("dead", "older"):
        server.xreadgroup(GROUP, consumer, {STREAM: ">"}, count=1_250)
    add(server, "new")
    door = Stream(server)
    door.open()
    found: list[str] = []
    while batch := read(door):
        found += batch
    assert found == [*expected, "new"]
    assert left(server) == (0, 0)


def test_what_another_holds_for_long_is_taken_over(
    server: redis.Redis, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What another consumer has had for a minute is taken over; what it read just now stays with it."""
    add(server, *"abcd")
    reads_as_another(server, 2, idle=int(STRANDED * 1000) + 1)
    reads_as_another(server, 2, idle=int(STRANDED * 1000) - 30_000)
    assert stream.read(**ALL) == []
    later(monkeypatch, STRANDED + 1)
    assert read(stream) == ["a", "b"]
    assert stream.read(**ALL) == []
    assert server.xpending(STREAM, GROUP)["consumers"] == [{"name": b"another", "pending": 2}]


def test_what_another_has_makes_nobody_busy(server: redis.Redis, stream: Stream) -> None:
    """Entries that are pending for another consumer wake the reader once, not again and again."""
    add(server, *"abc")
    reads_as_another(server, 3)
    server.config_resetstat()
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        assert stream.read(**ALL) == []
        stream.wait(0.3)
    assert server.info("commandstats")["cmdstat_xread"]["calls"] <= 3 + 3
    add(server, "mine")
    assert stream.wait(60)
    assert read(stream) == ["mine"]


# --- waiting --------------------------------------------------------------------------------------


def blocked(server: redis.Redis) -> bool:
    """Whether somebody waits on the stream."""
    return bool(server.info("clients")["blocked_clients"])


def test_woken_by_a_raw_entry(server: redis.Redis, stream: Stream) -> None:
    """A raw XADD ends the wait at once, and takes nothing from anybody."""
    assert stream.read(**ALL) == []
    at: list[float] = []

    def wait() -> None:
        assert stream.wait(60)
        at.append(time.monotonic())

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: blocked(server))
    start = time.monotonic()
    server.execute_command("XADD", STREAM, "*", "job", '{"externalid":"a"}')
    waiting.join()
    assert at[0] - start < 20
    assert left(server) == (1, 0)
    assert read(stream) == ["a"]


def test_nothing_came(server: redis.Redis, stream: Stream) -> None:
    """Where nothing comes the wait ends after its time, and says so; also where there is no stream at all."""
    for _ in range(2):
        start = time.monotonic()
        assert not stream.wait(0.1)
        assert 0.08 < time.monotonic() - start < 20
        server.flushall()


def test_entry_that_came_before_the_wait(server: redis.Redis, stream: Stream) -> None:
    """What is added between a reading that found nothing and the wait ends the wait."""
    assert stream.read(**ALL) == []
    add(server, "a")
    assert stream.wait(60)
    assert read(stream) == ["a"]


def test_one_consumer_name(server: redis.Redis, stream: Stream) -> None:
    """Whoever reads is the same consumer, so nothing is stranded under the name of a process that died."""
    add(server, "a")
    stream.read(**ALL)
    other = Stream(server)
    other.open()
    assert names(other.read(**ALL)) == ["a"]
    consumers: list[dict[str, Any]] = server.xinfo_consumers(STREAM, GROUP)
    assert [consumer["name"] for consumer in consumers] == [CONSUMER.encode()]
