"""Hostile jobs through the doors: each is recorded or kept among the rejections, and none stops the next."""

import json
from collections import Counter
from typing import Any

import redis
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.factories import opened, settings
from worker.client import STREAM
from worker.intake.inbox import Inbox
from worker.intake.reader import Onward, Reader
from worker.intake.record import Incoming
from worker.intake.stream import Stream
from worker.store.claim import Claim, Terms

FIELDS = (
    "action externalid requestid route provider linkeddata routingdata extra lane again dispatch_requestid"
    " nonsense \0"
).split(" ")
TERMS = Terms(500, 99_000, 90.0)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.just("\0"),
    st.just("x" * 10_000),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(["a", "b", "c", "", "é" * 600, "x" * 10_000])
nearly = st.fixed_dictionaries(
    {"externalid": names},
    optional={
        "route": st.sampled_from(["R", "S", "", 1]),
        "requestid": st.sampled_from(["q1", "q2", "q3", "", "x" * 300]),
        "action": st.sampled_from(["dispatch", "release", "destroy"]),
        "again": st.sampled_from([True, False, "yes"]),
        "lane": st.sampled_from(["live", "backlog", "fast"]),
        "dispatch_requestid": st.sampled_from(["q1", "q2", "nobody"]),
        "extra": values,
    },
)
deep = st.integers(1, 30_000).map(lambda n: b'{"externalid":"e","route":"R","extra":' + b'{"a":' * n)
large = st.integers(100_000, 5_000_000).map(
    lambda n: json.dumps({"externalid": "e", "route": "R", "extra": {"a": "x" * n}}).encode()
)
texts = st.one_of(
    st.binary(max_size=60),
    st.dictionaries(st.sampled_from(FIELDS), values, max_size=5).map(lambda job: json.dumps(job).encode()),
    nearly.map(lambda job: json.dumps(job).encode()),
    deep,
    large,
)


def drain(database_url: str, name: str, door: Any, straight: bool) -> Counter[str]:
    """Read a door until it is empty; how many went which way."""
    claims: list[Claim | None] = []
    with opened(database_url) as engine:
        onward = Onward(lambda: TERMS if straight else None, claims.append)
        assert Reader(engine, settings(), name, door, onward).run(lambda: True, waits=False)
        with engine.begin() as conn:
            told = conn.exec_driver_sql(
                """select (select count(*) from rejections) as rejected,
                    (select count(*) from inbox) as left_behind,
                    (select count(*) from interactions where externalid like 'good-%%') as good"""
            ).one()
            conn.exec_driver_sql(
                "truncate interactions, invocations, events, receipts, rejections, routes, inbox"
            )
    return Counter(rejected=told.rejected, left=told.left_behind, good=told.good)


@examples(
    max_examples=60,
)
@given(hostile=st.lists(texts, min_size=1, max_size=8), straight=st.booleans())
def test_hostile_entries(database_url: str, redis_url: str, hostile: list[bytes], straight: bool) -> None:
    """Whatever stands in the stream, what stands between is recorded, and the stream is empty afterwards."""
    with redis.Redis.from_url(redis_url, protocol=2) as server:
        server.flushdb()
        for number, text in enumerate(hostile):
            server.xadd(STREAM, {"job": text})
            server.xadd(STREAM, {"job": json.dumps({"externalid": f"good-{number}", "route": "R"})})
        counted = drain(database_url, "stream", lambda _: Stream(server), straight)
        assert counted["good"] == len(hostile)
        assert counted["rejected"] <= len(hostile)
        assert server.xlen(STREAM) == 0


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.just("x" * 9_000),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS[:-1]), inner, max_size=4)
    ),
    max_leaves=8,
)


@examples(max_examples=60)
@given(
    hostile=st.lists(
        plain | nearly.filter(lambda job: "\\u0000" not in json.dumps(job)), min_size=1, max_size=8
    ),
    straight=st.booleans(),
)
def test_hostile_rows(database_url: str, hostile: list[Any], straight: bool) -> None:
    """Whatever JSON a service inserts, what stands between is recorded, and the inbox is empty afterwards."""
    with opened(database_url) as engine, engine.begin() as conn:
        for number, job in enumerate(hostile):
            good = {"externalid": f"good-{number}", "route": "R"}
            for row in (job, good):
                conn.exec_driver_sql(
                    "insert into inbox (job) values (%(job)s::text::jsonb)", {"job": json.dumps(row)}
                )
    counted = drain(database_url, "inbox", Inbox, straight)
    assert (counted["good"], counted["left"]) == (len(hostile), 0)
    assert counted["rejected"] <= len(hostile)


def test_one_requestid_with_different_content(database_url: str, redis_url: str) -> None:
    """Of jobs that share a requestid the first counts; the same again changes nothing, another is rejected."""
    with redis.Redis.from_url(redis_url, protocol=2) as server:
        for job in (
            {"externalid": "good-1", "route": "R", "requestid": "q"},
            {"externalid": "good-1", "route": "R", "requestid": "q"},
            {"externalid": "good-2", "route": "R", "requestid": "q"},
            {"externalid": "good-1", "action": "release", "requestid": "q"},
        ):
            server.xadd(STREAM, {"job": json.dumps(job)})
        counted = drain(database_url, "stream", lambda _: Stream(server), straight=True)
        assert (counted["good"], counted["rejected"]) == (1, 2)


def test_entries_that_are_kept_whole(database_url: str, redis_url: str) -> None:
    """Five megabytes that are no job are kept to the last byte."""
    text = b'["' + b"1," * 2_500_000 + b'"]'
    with redis.Redis.from_url(redis_url, protocol=2) as server, opened(database_url) as engine:
        server.xadd(STREAM, {"job": text})
        (entry,) = Stream(server).read(10, 1_000_000)
        assert isinstance(entry, Incoming)
        onward = Onward(lambda: None, lambda _: None)
        Reader(engine, settings(), "stream", lambda _: Stream(server), onward).run(lambda: True, waits=False)
        with engine.begin() as conn:
            kept = conn.exec_driver_sql("select job, place from rejections").one()
        assert bytes(kept.job) == text
        assert kept.place == f"entry {entry.requestid}"
