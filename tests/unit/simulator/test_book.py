"""The honest witness: what the book says after which calls."""

import httpx
import pytest
from msgspec import Raw

from tests.unit.simulator.caller import Caller, dispatch, release
from worker.simulator.book import Book, Call
from worker.simulator.run import Background


def test_a_new_book_is_empty(sim: Background) -> None:
    """Before the first call every count is zero."""
    assert sim.book() == {
        "calls": 0,
        "calls_by_status": {},
        "accepted_calls": 0,
        "interactions": {"dispatched": 0, "released": 0},
        "dispatched": 0,
        "released": 0,
        "repeated_requestids": 0,
        "redispatched": 0,
        "unknown_releases": 0,
        "releases_without_provider": 0,
        "largest_body": 0,
        "largest_requests": 0,
        "calls_while_throttled": 0,
        "tokens_issued": 0,
        "unknown_members": 0,
    }


def test_dispatches_and_releases_are_counted(sim: Background, caller: Caller) -> None:
    """The totals count interactions, the states say where these stand now."""
    caller.invoke(dispatch("a"), dispatch("b"), dispatch("c"))
    caller.invoke(release("a"))
    caller.send(b"{")

    book = sim.book()

    assert book["interactions"] == {"dispatched": 2, "released": 1}
    assert (book["dispatched"], book["released"], book["largest_requests"]) == (3, 1, 3)
    assert (book["calls"], book["calls_by_status"]) == (3, {"200": 2, "400": 1})
    assert book["accepted_calls"] == 2


def test_a_requestid_is_processed_once(sim: Background, caller: Caller) -> None:
    """Of two objects with one requestid only the first counts, in one call and across calls."""
    caller.invoke(dispatch("a", requestid="1"), dispatch("b", requestid="1"))
    caller.invoke(dispatch("c", requestid="1"))

    book = sim.book(full=True)

    assert (book["dispatched"], book["repeated_requestids"]) == (1, 2)
    assert list(book["ledger"]) == ["a"]


def test_a_second_dispatch_of_a_live_interaction_is_noticed(sim: Background, caller: Caller) -> None:
    """A new requestid for a live externalid counts; after its release, or under another provider, not."""
    caller.invoke(dispatch("a"))
    caller.invoke(dispatch("a"), provider="P")
    assert sim.book()["redispatched"] == 0
    caller.invoke(dispatch("a"))
    assert sim.book()["redispatched"] == 1

    caller.invoke(release("a"))
    caller.invoke(dispatch("a"))

    assert sim.book()["redispatched"] == 1


def test_a_release_of_nothing_live_is_noticed(sim: Background, caller: Caller) -> None:
    """A release of an externalid never dispatched, or released before, is unknown."""
    caller.invoke(dispatch("a"), release("b"), release("a"), release("a"))

    book = sim.book()

    assert (book["unknown_releases"], book["released"]) == (2, 1)


def test_a_provider_under_no_dispatch_makes_a_release_unknown(sim: Background, caller: Caller) -> None:
    """A release that names a provider finds no interaction that was dispatched without one."""
    caller.invoke(dispatch("a"))
    caller.invoke(release("a"), provider="P")

    assert sim.book()["unknown_releases"] == 1


@pytest.mark.parametrize("provider", [{}, {"provider": "Q"}])
def test_a_release_without_its_provider_is_noticed(
    sim: Background, caller: Caller, provider: dict[str, str]
) -> None:
    """A release must name the provider of its dispatch, else the interaction stays."""
    caller.invoke(dispatch("a"), provider="P")

    caller.invoke(release("a"), **provider)
    book = sim.book()
    assert (book["releases_without_provider"], book["released"]) == (1, 0)

    caller.invoke(release("a"), provider="P")
    assert sim.book()["interactions"] == {"dispatched": 0, "released": 1}


def test_a_dispatch_without_externalid_is_an_interaction_of_its_own(sim: Background, caller: Caller) -> None:
    """Two dispatches that name no externalid are two interactions."""
    requests = [dispatch(requestid=name) for name in "xy"]
    for request in requests:
        del request["externalid"]

    caller.invoke(*requests)

    book = sim.book(full=True)
    assert (book["dispatched"], book["redispatched"]) == (2, 0)
    assert list(book["ledger"]) == ["requestid:x", "requestid:y"]


def test_the_full_book_has_ledger_and_log(sim: Background, caller: Caller) -> None:
    """The ledger tells per externalid what was processed, the log what each call carried."""
    first = dispatch("a")
    caller.invoke(first, *(dispatch(str(number)) for number in range(6)), release("a"), provider="P")

    book = sim.book(full=True)

    entries = book["ledger"]["a"]
    assert [entry["action"] for entry in entries] == ["dispatch", "release"]
    assert entries[0].keys() == {"action", "requestid", "provider", "at"}
    assert (entries[0]["requestid"], entries[0]["provider"]) == (first["requestid"], "P")
    (line,) = book["log"]
    assert line["externalids"] == ["a", "0", "1", "2", "3"]
    assert (line["status"], line["requests"], line["actions"]) == ("200", 8, {"dispatch": 7, "release": 1})
    assert line["bytes"] == sim.book()["largest_body"]
    assert line["at"] == entries[0]["at"]


def test_the_last_call_is_shown_without_its_token(sim: Background, caller: Caller) -> None:
    """The headers and the parsed body of the last call, the authorization cut to its scheme."""
    request = dispatch("ä")
    caller.invoke(request)

    last = sim.last()

    assert last["body"] == {"requests": [request]}
    assert last["headers"]["accept"] == "application/vnd.newvoicemedia.v1+json"
    assert last["headers"]["content-type"] == "application/json"
    assert last["headers"]["authorization"] == "Bearer"


def test_a_call_without_authorization_is_shown_as_it_came(sim: Background, caller: Caller) -> None:
    """No header is invented, and JSON that breaks the contract is shown too."""
    caller.http.post("/interactions/Invoke", json={"any": "thing"})

    assert "authorization" not in sim.last()["headers"]
    assert sim.last()["body"] == {"any": "thing"}


def test_there_is_no_last_call_before_the_first(sim: Background) -> None:
    """Asking for the last call of none is an error."""
    with pytest.raises(httpx.HTTPStatusError):
        sim.last()


def test_calls_are_kept_whole(sim: Background, caller: Caller) -> None:
    """Each call is kept with its body, in order; no body is shown for what is no JSON."""
    caller.invoke(dispatch("a"))
    caller.send(b'{"requests": \xff}')

    first, second = sim.calls()

    assert first["body"]["requests"][0]["externalid"] == "a"
    assert (second["status"], second["body"]) == ("400", None)


def test_a_new_book_forgets_requestids_and_keeps_tokens(sim: Background, caller: Caller) -> None:
    """After a fresh start the same requestid is new, and the token still holds."""
    caller.invoke(dispatch("a", requestid="1"))
    sim.new_book()
    assert sim.book()["calls"] == 0

    assert caller.invoke(dispatch("a", requestid="1")).status_code == 200

    book = sim.book()
    assert (book["repeated_requestids"], book["redispatched"], book["dispatched"]) == (0, 0, 1)


@pytest.mark.parametrize(("at", "counted"), [(99.9, 0), (100.5, 0), (100.6, 1), (102.9, 1), (103.0, 0)])
def test_calls_while_throttled(at: float, counted: int) -> None:
    """Calls count that begin after the 429 was sent, plus the allowance, and before Retry-After is over."""
    book = Book(allowance=0.5)
    book.throttled(sent_at=100.0, ends=103.0)

    book.enter(Call(at, "200", {}, Raw(b"null")), 0, None, accepted=True)

    assert book.summary()["calls_while_throttled"] == counted
