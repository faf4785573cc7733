"""A customer's words are erased for good, and nothing else."""

import io
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy import Engine

from tests.factories import Store
from tests.integration.ops.conftest import Vcc
from tests.waiting import until
from worker.domain.outcome import Refused, Unknown
from worker.ops import forgetting as window
from worker.simulator.run import Background
from worker.store import forget as forgetting
from worker.store.forget import StillNeededError, externalids, forget
from worker.store.retry import Which, retry

WORDS = ("Zaphod Beeblebrox", "zaphod@heart.example", "towel-note", "answered-words", "error-words")
LINKED = [{"type": "name", "value": WORDS[0]}, {"type": "clid", "value": WORDS[1]}]


@pytest.fixture
def store(engine: Engine) -> Store:
    """Give the steps of a delivery."""
    return Store(engine)


def dispatch(vcc: Vcc, externalid: str, *options: str) -> None:
    """Record a dispatch full of words."""
    extra = json.dumps({"note": WORDS[2]})
    result = vcc(
        "dispatch", externalid, "--route", "R", "--linkeddata", json.dumps(LINKED), "--extra", extra, *options
    )
    assert result.code == 0


def answered(store: Store, kind: Any, **answer: Any) -> None:
    """Settle everything that is due, with an answer that repeats words."""
    store.make_due()
    store.deliver(kind, body=WORDS[3], error=WORDS[4], **answer)


def found(database_url: str) -> dict[str, str]:
    """Look for the words in every table, every column; what of them is where."""
    with psycopg.connect(database_url) as conn:
        tables = [
            name
            for (name,) in conn.execute(
                "select tablename from pg_tables where schemaname = 'public' order by 1"
            )
        ]
        texts = {
            name: "\n".join(row for (row,) in conn.execute(f"select {_as_text(name)} from {name} t".encode()))
            for name in tables
        }
    return {name: word for name, text in texts.items() for word in WORDS if word in text}


def _as_text(table: str) -> str:
    return "encode(job, 'escape') || reason" if table == "rejections" else "t::text"


def test_no_word_is_left_and_the_skeleton_is(
    vcc: Vcc, store: Store, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows, answers, messages and rejected jobs lose their words; ids, states, times and outcomes stay."""
    monkeypatch.setattr("getpass.getuser", lambda: "ford")
    dispatch(vcc, "e")
    answered(store, Unknown, status=503)
    answered(store, Refused, status=400)
    other = json.dumps({"externalid": "other", "note": "kept"}).encode()
    for job in (
        {"externalid": "e", "subject": WORDS[0]},
        {"kwargs": {"externalid": "e", "linkeddata": WORDS[1]}, "args": []},
    ):
        store.run(
            "insert into rejections (door, reason, job) values ('x', 'r', %(j)s)", j=json.dumps(job).encode()
        )
    store.run("insert into rejections (door, reason, job) values ('x', 'r', %(j)s)", j=other)
    assert set(found(database_url)) == {"gate", "interactions", "invocations", "routes", "rejections"}
    before = store.row()

    assert vcc("forget", "e", "--dry-run").out.startswith("e: would be erased: 1 lifecycles")
    assert found(database_url)
    result = vcc("forget", "e", "--json")

    assert result.json == {
        "externalid": "e", "erased": True, "known": 3, "lifecycles": 1, "calls": 2, "others": 0, "rejections": 2,
        "mentions": [],
    }  # fmt: skip
    assert found(database_url) == {}
    kept = "id externalid state lane route provider dispatch_requestid created_at updated_at attempts".split()
    assert all(getattr(store.row(), name) == getattr(before, name) for name in kept)
    assert store.all("select outcome, status from invocations order by id") == [
        ("unknown", 503),
        ("refused", 400),
    ]
    assert store.all("select job from rejections") == [(other,)]
    (noted,) = store.all("select who, action, detail from audit")
    assert (noted.who, noted.action, noted.detail[:2]) == ("cli:ford", "forget", "e:")
    (told,) = vcc("show", "e", "--json").json["lifecycles"]
    events = [moment["event"] for moment in told["timeline"]]
    assert [events.count(one) for one in ("dispatch sent", "forgotten")] == [2, 1]


def test_once_more_changes_nothing(vcc: Vcc, store: Store) -> None:
    """Who forgets twice is told so; the audit has it once."""
    dispatch(vcc, "e")
    store.deliver()
    assert vcc("forget", "e").code == 0
    result = vcc("forget", "e")
    assert (result.code, result.out) == (0, "e: there was nothing to erase any more\n")
    assert store.one("select count(*) from audit") == 1
    assert store.one("select count(*) from events where event = 'forgotten'") == 1


def test_it_is_released_all_the_same(
    vcc: Vcc, store: Store, house: Background, send: Callable[[], None]
) -> None:
    """What VCC holds is released as if nothing had been erased, with the provider that its dispatch named."""
    dispatch(vcc, "e", "--provider", "P")
    send()
    assert vcc("forget", "e").code == 0
    vcc("release", "e")
    send()
    assert house.last()["body"]["provider"] == "P"
    assert store.states() == ["released"]


def test_a_failed_one_is_not_tried_again(vcc: Vcc, store: Store) -> None:
    """There is nothing left to send; a later dispatch of the same externalid has words of its own."""
    dispatch(vcc, "e")
    answered(store, Refused, status=400)
    vcc("forget", "e")
    assert vcc("retry", "--json").json == {"matching": 0, "retried": 0}
    dispatch(vcc, "e")
    store.deliver()
    assert store.states() == ["failed", "dispatched"]
    assert store.row().request != {}


def test_what_is_still_to_be_sent_is_refused(vcc: Vcc, store: Store, database_url: str) -> None:
    """A dispatch that is to come and a call under way keep their words, and the remedy is told."""
    dispatch(vcc, "e")
    result = vcc("forget", "e")
    assert result.code == 1
    assert "vcc release" in result.err
    claimed = store.claim()
    vcc("release", "e")
    assert "under way" in vcc("forget", "e").err
    store.settle(claimed)
    store.claim()  # the release
    assert "under way" in vcc("forget", "e").err
    assert found(database_url) == {"interactions": WORDS[2]}
    assert store.one("select count(*) from audit") == 0


def test_a_release_that_waits_for_its_dispatch_gets_its_words_with_that(vcc: Vcc, store: Store) -> None:
    """There is nothing to erase before; what comes then is a customer's again, until it is forgotten."""
    vcc("release", "e")
    assert "nothing to erase" in vcc("forget", "e").out
    assert store.row().forgotten_at is None
    dispatch(vcc, "e")
    assert store.states() == ["cancelled"]
    assert vcc("forget", "e", "--json").json["lifecycles"] == 1
    assert store.row().request == {}


def test_one_that_waits_for_another_is_refused(vcc: Vcc, store: Store) -> None:
    """It holds words that will be sent; released, it can be forgotten."""
    for word in ("dispatch", "release", "dispatch"):
        if word == "dispatch":
            dispatch(vcc, "e")
        else:
            store.deliver()
            vcc("release", "e")
    assert store.states() == ["releasing", "waiting"]
    assert "vcc release" in vcc("forget", "e").err
    vcc("release", "e")
    assert vcc("forget", "e").code == 0


def test_a_call_of_an_answer_to_come_is_waited_for(vcc: Vcc, store: Store) -> None:
    """A worker that was given up may still settle its call, and write an answer: its call has to be over."""
    dispatch(vcc, "e")
    late = store.claim()
    store.make_due()
    store.deliver()
    assert "under way" in vcc("forget", "e").err
    store.settle(late, body=WORDS[3])
    assert vcc("forget", "e", "--json").json["calls"] == 1


def test_the_answer_to_others_goes_too(vcc: Vcc, store: Store, database_url: str) -> None:
    """A call carries many, and its answer may repeat any of them; their own words stay."""
    for name in ("e", "f", "g"):
        dispatch(vcc, name)
    answered(store, Unknown, status=503)
    result = vcc("forget", "e", "--json")
    assert result.code == 1
    answered(store, Refused, status=400)
    store.run("update interactions set due_at = now() + interval '1 hour' where externalid <> 'e'")
    while store.states() != ["failed"]:
        store.deliver(Refused, status=400)
    result = vcc("forget", "e", "--json")
    assert result.json["others"] == 2
    assert store.one("select count(*) from invocations where answer is not null") == 0
    assert store.one("select count(*) from interactions where request <> '{}'") == 2
    assert WORDS[4] not in str(store.all("select last_error from interactions"))


@pytest.mark.parametrize("door", ["inbox", "stream"])
def test_a_job_that_is_still_to_come_is_waited_for(vcc: Vcc, store: Store, redis_url: str, door: str) -> None:
    """Taken in afterwards, it would bring the words again."""
    dispatch(vcc, "e")
    store.deliver()
    job = json.dumps({"externalid": "e", "route": "R"})
    if door == "inbox":
        store.run("insert into inbox (job) values (%(j)s)", j=job)
    else:
        with redis.Redis.from_url(redis_url) as client:
            client.xadd("vcc:jobs", {"job": job})
    result = vcc("forget", "e")
    assert result.code == 1
    assert f"in the {door}" in result.err


def test_redis_away_is_told(vcc: Vcc, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be looked at is named, and the rest is done."""
    dispatch(vcc, "e")
    store.deliver()
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    result = vcc("forget", "e")
    assert result.code == 0
    assert "Redis can't be reached" in result.err


def test_more_jobs_than_are_looked_at_are_told(
    vcc: Vcc, store: Store, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stream is longer than what is read of it, nobody is told that no job is to come."""
    dispatch(vcc, "e")
    store.deliver()
    with redis.Redis.from_url(redis_url) as client:
        client.xadd("vcc:jobs", {"job": json.dumps({"externalid": "other", "route": "R"})})
    assert "were looked at" not in vcc("forget", "e", "--dry-run").err
    monkeypatch.setattr(window, "LOOKED_THROUGH", 1)
    result = vcc("forget", "e")
    assert (result.code, "only the first 1 jobs" in result.err) == (0, True)


def test_nothing_known_fails(vcc: Vcc, house: Background) -> None:
    """A slip of the pen is no success."""
    result = vcc("forget", "nobody")
    assert (result.code, result.out) == (1, "")
    assert "nothing is known of nobody" in result.err


def test_what_only_mentions_it_stays_and_is_told(vcc: Vcc, store: Store) -> None:
    """A rejected job that names others too, or that nobody can read, may be somebody else's."""
    dispatch(vcc, "e7")
    store.deliver()
    both = json.dumps([{"externalid": "e7"}, {"externalid": "other"}]).encode()
    for job in (both, b"{broken e7", b'{broken "externalid": "e7"', b"Subject: x\nMessage-ID: <e7>\n\n"):
        store.run("insert into rejections (door, reason, job) values ('x', 'r', %(j)s)", j=job)
    result = vcc("forget", "e7", "--json")
    assert (result.json["rejections"], result.json["mentions"]) == (2, [1, 2])
    assert "number 1, 2" in result.err


def test_it_asks_first_on_a_terminal(vcc: Vcc, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever says no has changed nothing."""
    dispatch(vcc, "e")
    store.deliver()
    terminal = io.StringIO("n\n")
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stdin", terminal)
    result = vcc("forget", "e")
    assert "Erase for good: 1 lifecycles" in result.err
    assert "would be erased" in result.out
    assert store.row().request != {}
    assert vcc("forget", "e", "--yes").out.startswith("e: erased")


def test_killed_before_its_end_nothing_has_happened(
    vcc: Vcc, store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one transaction, and the note in the audit is its last step."""
    dispatch(vcc, "e")
    store.deliver(body=WORDS[3])

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(forgetting.audit, "note", die)
    with pytest.raises(KeyboardInterrupt):
        forget(engine, "e", "x")
    assert store.row().request != {}
    assert store.one("select count(*) from invocations where answer is null") == 0
    assert store.one("select count(*) from events where event = 'forgotten'") == 0


def test_what_moves_before_it_is_locked_is_looked_at_again(
    vcc: Vcc, store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that is recorded meanwhile counts."""
    dispatch(vcc, "e")
    store.deliver()
    lock = forgetting.rows.lock

    def late(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(forgetting.rows, "lock", lock)
        dispatch(vcc, "e", "--again")
        return lock(*args, **options)

    monkeypatch.setattr(forgetting.rows, "lock", late)
    with pytest.raises(StillNeededError):
        forget(engine, "e", "x")


def test_a_retry_that_meets_it_leaves_it_alone(
    vcc: Vcc, store: Store, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen before the words were gone, locked after: it is not sent without them."""
    dispatch(vcc, "e")
    answered(store, Refused, status=400)
    locked, go = threading.Event(), threading.Event()

    def last_step(*_: object) -> None:
        locked.set()
        assert go.wait(60)

    monkeypatch.setattr(forgetting.audit, "note", last_step)
    with ThreadPoolExecutor(2) as pool:
        erased = pool.submit(forget, engine, "e", "x")
        assert locked.wait(60)
        retried = pool.submit(retry, engine, Which())
        until(lambda: _waits(store))
        go.set()
        assert (erased.result().lifecycles, retried.result()) == (1, 0)
    assert store.states() == ["failed"]


def _waits(store: Store) -> bool:
    """Whether somebody waits for a lock."""
    return bool(store.one("select exists (select from pg_locks where not granted)"))


def test_whom_a_rejected_job_names() -> None:
    """JSON at any depth, what is left of it, and an email's own header."""
    assert set(externalids(b'[{"externalid": "a"}, {"extra": {"externalid": "b"}}, {"externalid": 7}]')) == {
        "a",
        "b",
    }
    assert list(externalids(b'{"externalid" : "\\u00e9\\"x", ')) == ['é"x']
    assert list(externalids(b'{"externalid": "\\q"')) == ["\\q"]
    assert list(externalids(b"From: x\r\nmessage-id: <1@x>\r\nReferences: <2@x>\r\n")) == ["1@x"]
    assert list(externalids(b"[" * 100_000)) == []
