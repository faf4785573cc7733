"""What operations ask: counts, lists, and the story of one externalid."""

from typing import Any

from tests.factories import Store, dispatch, release
from worker.domain.lifecycle import State
from worker.domain.outcome import Refused, Throttled, Unknown
from worker.store import queries
from worker.store.record import Rejection, reject


def ask(store: Store, query: Any, *args: Any, **options: Any) -> Any:
    """Ask one of the queries."""
    with store.engine.connect() as conn:
        return query(conn, *args, **options)


def events(story: dict[str, Any]) -> list[str]:
    """Tell what happened, in its order."""
    return [moment["event"] for moment in story["timeline"]]


def test_stats_of_nothing(store: Store) -> None:
    """An empty database has every number, and each is nought."""
    found = ask(store, queries.stats)
    expected: dict[str, Any] = {
        "states": dict.fromkeys(map(str, State), 0),
        "due": 0,
        "oldest_due_seconds": None,
        "in_flight": 0,
        "gate": {"open": True, "reason": None, "message": None, "opens_at": None, "rate": None},
        "held_routes": {},
        "held_providers": {},
        "invocations": {"calls": 0, "accepted": 0, "interactions": 0},
        "rejections": 0,
    }
    # there may be more
    found["invocations"] = {name: found["invocations"][name] for name in expected["invocations"]}
    assert {name: found[name] for name in expected} == expected


def test_stats(store: Store) -> None:
    """The numbers are those of the tables."""
    store.record(dispatch("a"), dispatch("b"))
    store.deliver(status=200)
    store.record(release("a"))
    store.deliver(Unknown)
    store.record(dispatch("c"))
    store.claim(limit=1)
    store.record(dispatch("d"), dispatch("h"))
    store.run("insert into routes (route, held_at, message) values ('H', now(), 'no such route')")
    store.run("insert into providers values ('P', now() + interval '1 minute', 1, 'not yours')")
    store.run("update interactions set due_at = 'infinity' where externalid = 'h'")
    reject(store.engine, "door", [Rejection(b"x", "no")])
    reject(store.engine, "door", [])
    found = ask(store, queries.stats)
    assert {state: n for state, n in found["states"].items() if n} == {
        "pending": 3,
        "dispatched": 1,
        "releasing": 1,
    }
    assert (found["due"], found["in_flight"], found["rejections"]) == (1, 1, 1)
    assert 0 <= found["oldest_due_seconds"] < 60
    assert found["invocations"].items() >= {"calls": 2, "accepted": 1, "interactions": 2}.items()
    assert (found["held_routes"], found["held_providers"]) == ({"H": "no such route"}, {"P": "not yours"})
    assert (found["gate"]["open"], found["gate"]["reason"]) == (False, "unreachable")


def test_listing(store: Store) -> None:
    """The newest come first, narrowed by what is given; what is held has no time."""
    store.record(dispatch("a"), dispatch("b", route="S", lane="backlog"), release("c"))
    store.run("update interactions set due_at = 'infinity' where externalid = 'b'")
    listed = ask(store, queries.listing)
    assert [row["externalid"] for row in listed] == ["c", "b", "a"]
    assert list(listed[0]) == queries.LISTED
    assert [row["due_at"] is None for row in listed] == [False, True, False]
    for narrowed, expected in (
        ({"state": "pending"}, ["b", "a"]),
        ({"route": "S"}, ["b"]),
        ({"lane": "live"}, ["c", "a"]),
        ({"limit": 1}, ["c"]),
        ({"state": "failed"}, []),
    ):
        assert [row["externalid"] for row in ask(store, queries.listing, **narrowed)] == expected


def test_story(store: Store) -> None:
    """An externalid's lifecycles come oldest first, each with everything that happened to it in its order."""
    store.record(dispatch(requestid="d1"))
    store.deliver(Throttled, status=429, error="slow down")
    store.deliver(status=200)
    store.record(dispatch())
    store.record(release(requestid="r1"))
    store.deliver()
    store.record(dispatch(requestid="d2"))
    store.deliver(Refused, status=400, error="no")
    first, second = ask(store, queries.show, "e")
    assert (first["state"], first["dispatch_requestid"], first["release_requestid"]) == (
        "released",
        "d1",
        "r1",
    )
    assert events(first) == [
        "recorded",
        "dispatch sent",
        "dispatch sent",
        "dispatched",
        "duplicate",
        "release requested",
        "release sent",
        "released",
    ]
    sent = [moment["detail"] for moment in first["timeline"] if moment["event"] == "dispatch sent"]
    assert sent == ["call 1, with 1, throttled, HTTP 429, slow down", "call 2, with 1, accepted, HTTP 200"]
    assert events(second) == ["recorded", "dispatch sent", "failed"]
    assert second["timeline"][-1]["detail"] == "refused by the API"
    assert second["last_error"] == "no"


def test_story_of_a_call_in_flight(store: Store) -> None:
    """A call that has no outcome yet is told as such; so are a held release and one that waits."""
    store.record(dispatch(requestid="d"))
    store.claim()
    [story] = ask(store, queries.show, "e")
    assert story["timeline"][-1]["detail"] == "call 1, with 1, no outcome yet"
    store.record(release("held"))
    assert ask(store, queries.show, "held")[0]["timeline"][0]["detail"] == "before its dispatch"
    assert ask(store, queries.show, "unheard of") == []


def test_every_lifecycle_is_shown(store: Store) -> None:
    """Ended, open, waiting, and held by name: each is in the story once."""
    store.record(dispatch(requestid="d1"))
    store.deliver()
    store.record(dispatch(requestid="d2", again=True))
    store.deliver()
    store.record(release(), dispatch(requestid="d3"), release(dispatch_requestid="d4"))
    states = [story["state"] for story in ask(store, queries.show, "e")]
    assert sorted(states) == ["awaiting_dispatch", "ended", "releasing", "waiting"]


def test_with_lifecycle(store: Store) -> None:
    """Those that were ever recorded are known, whatever became of them."""
    store.record(dispatch("open"), dispatch("over"), release("over"), release("held", dispatch_requestid="d"))
    found = ask(store, queries.with_lifecycle, ["open", "over", "held", "new", "new"])
    assert found == {"open", "over", "held"}


def test_progress(store: Store) -> None:
    """Of the interactions after an id it is told how many are still to be sent, and how many failed or are held."""
    store.record(dispatch("before"))
    after = ask(store, queries.newest_id)
    store.record(dispatch("a"), dispatch("b"), dispatch("c"))
    until = ask(store, queries.newest_id)
    store.record(dispatch("later"))
    store.run("update interactions set due_at = 'infinity' where externalid = 'a'")
    store.run("update interactions set state = 'failed', due_at = null where externalid = 'b'")
    found = ask(store, queries.progress, after, until)
    assert found.items() >= {"to_be_sent": 2, "failed": 1, "held": 1}.items()


def test_newest_of_nothing(store: Store) -> None:
    """Without interactions the newest id is nought."""
    assert ask(store, queries.newest_id) == 0


def test_rejections(store: Store) -> None:
    """The newest rejections come first, without what the job held."""
    reject(store.engine, "celery", [Rejection(b"secret", "first", "here"), Rejection(b"secret", "second")])
    found = ask(store, queries.rejections, 1)
    assert [(row["door"], row["place"], row["reason"]) for row in found] == [("celery", "", "second")]
    assert "secret" not in str(found)
