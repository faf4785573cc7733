"""Headers, bodies and tokens: what is taken and what is refused."""

import json
from typing import Any

import pytest

from tests.unit.simulator.caller import Caller, dispatch, release
from tests.waiting import until
from worker.simulator.contract import Invocation, Refusal, read
from worker.simulator.run import Background


def _body(*requests: Any, **members: Any) -> bytes:
    return json.dumps({"requests": list(requests), **members}).encode()


def test_a_correct_call_is_accepted(sim: Background, caller: Caller) -> None:
    """A call that keeps the contract is answered 200 with an empty JSON object."""
    answer = caller.invoke(dispatch())

    assert (answer.status_code, answer.json()) == (200, {})
    assert answer.headers["content-type"] == "application/json"
    assert sim.book()["accepted_calls"] == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"accept": "application/json"}, 400),
        ({"accept": "application/vnd.newvoicemedia.v2+json"}, 400),
        ({"content_type": "text/plain"}, 400),
        ({"content_type": "application/json; charset=utf-8"}, 200),
        ({"authorization": "Bearer nonsense"}, 401),
        ({"authorization": ""}, 401),
    ],
)
def test_headers_are_checked(sim: Background, caller: Caller, headers: dict[str, str], status: int) -> None:
    """A wrong header refuses the call and nothing is processed."""
    answer = caller.send(_body(dispatch()), **headers)

    assert answer.status_code == status
    assert sim.book()["dispatched"] == (status == 200)


def test_the_scheme_must_be_bearer(caller: Caller) -> None:
    """A good token under another scheme is refused."""
    token = caller.authorization.removeprefix("Bearer ")

    assert caller.send(_body(dispatch()), authorization=f"Basic {token}").status_code == 401


def test_the_limit_is_a_hundred_thousand_bytes(sim: Background, caller: Caller) -> None:
    """A body of 100,000 bytes is taken, one byte more is 413."""
    fits = _body(dispatch()).ljust(100_000)

    assert caller.send(fits).status_code == 200
    answer = caller.send(fits + b" ")
    assert (answer.status_code, answer.json()) == (413, {"message": "Payload Too Large"})
    assert sim.book()["largest_body"] == 100_001
    assert sim.last()["body"] is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"requests": [{"requestid": "\xff"}]}',
        b'{"requests": [{"action": "release", "externalid": "a", "requestid": "\\ud800"}]}',
        b'{"requests": ' + b"[" * 90_000,
        _body(),
        b"{}",
        _body(dispatch(), provider=""),
        _body(dispatch(), provider=None),
        _body(dispatch(), priority=1),
        _body("a"),
        _body(dispatch(action="close")),
        _body(dispatch(action=None)),
        _body(dispatch(requestid=7)),
        _body(dispatch(requestid="")),
        _body(dispatch(externalid=None)),
        _body(dispatch(route="")),
        _body(dispatch(routingdata={})),
        _body(dispatch(routingdata={"interactiontype": "email"})),
        _body(dispatch(routingdata={"interactiontype": "live", "skills": [{}]})),
        _body(dispatch(routingdata={"interactiontype": "live", "personalqueue": {"loggedintimeout": 1}})),
        _body(dispatch(linkeddata={"type": "clid"})),
        _body(dispatch(linkeddata=[{"type": "clid", "value": 44}])),
        _body({"action": "release", "requestid": "r"}),
        _body({"action": "release", "externalid": "a"}),
        _body({"requestid": "d", "externalid": "a"}),
    ],
)
def test_a_body_that_breaks_the_contract_is_refused(body: bytes) -> None:
    """Malformed JSON and wrong, empty, null or missing members are 400."""
    refusal = read(body)

    assert isinstance(refusal, Refusal)
    assert refusal.status == 400


def test_everything_that_the_reference_shows_is_taken() -> None:
    """The reference's own example is an Invocation without unknown members."""
    linked = [
        {"type": "object", "owner": "Crm", "key": "Contact", "value": "5"},
        {"type": "url", "label": "x"},
    ]
    routing = {
        "interactiontype": "chat",
        "personalqueue": {"agent": "A", "loggedintimeout": 20, "loggedouttimeout": 30},
        "skills": [{"name": "s", "expiryafter": 0}, {"name": "t"}],
    }

    found = read(_body(dispatch(linkeddata=linked, routingdata=routing), release("b"), provider="P"))

    assert isinstance(found, Invocation)
    assert (found.provider, len(found.requests), found.unknown_members) == ("P", 2, 0)


def test_dispatch_is_the_default_action(sim: Background, caller: Caller) -> None:
    """An Interaction without an action is a dispatch."""
    request = dispatch()
    del request["action"]

    assert caller.invoke(request).status_code == 200
    assert sim.book()["dispatched"] == 1


def test_unknown_members_are_counted_not_refused(sim: Background, caller: Caller) -> None:
    """Members of an Interaction that the reference does not show are accepted and counted."""
    answer = caller.invoke(dispatch(smsplan={"id": 1}, note="x"), release("b", route="R"))

    assert answer.status_code == 200
    assert sim.book()["unknown_members"] == 3


def test_one_bad_request_refuses_the_whole_call(sim: Background, caller: Caller) -> None:
    """Of a call with one bad request nothing is processed, and the message tells which one it is."""
    answer = caller.invoke(dispatch("a"), dispatch("b", route=5))

    assert answer.status_code == 400
    assert answer.json()["message"].startswith("requests[1]: ")
    assert sim.book()["dispatched"] == 0


def test_a_refusal_repeats_no_value() -> None:
    """The message about a value out of a closed set does not hold the value."""
    refusal = read(_body(dispatch(routingdata={"interactiontype": "from Jane - at home"})))

    assert refusal == Refusal(400, "requests[0]: Invalid value - at `$.routingdata.interactiontype`")


def test_a_token_is_given_for_the_credentials(sim: Background, caller: Caller) -> None:
    """The token's answer has the three documented members, and the book counts it."""
    answer = caller.token()

    assert answer.status_code == 200
    assert answer.json().keys() == {"access_token", "token_type", "expires_in"}
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("bearer", 7200)
    assert sim.book()["tokens_issued"] == 2


@pytest.mark.parametrize(
    ("wrong", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"scope": "interactions:read"}, 400, "invalid_scope"),
        ({"client_id": "other"}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
    ],
)
def test_wrong_credentials_get_no_token(
    caller: Caller, wrong: dict[str, str], status: int, error: str
) -> None:
    """Each wrong member of the form is refused with OAuth's error code."""
    answer = caller.token(**wrong)

    assert (answer.status_code, answer.json()) == (status, {"error": error})


def test_the_token_request_is_a_form(caller: Caller) -> None:
    """Credentials as JSON are refused."""
    answer = caller.http.post("/Auth/connect/token", json={"grant_type": "client_credentials"})

    assert (answer.status_code, answer.json()) == (400, {"error": "invalid_request"})


def test_a_token_expires() -> None:
    """After its time a token is refused at Invoke."""
    with Background(token_seconds=0.2) as sim:
        caller = Caller(sim.url)
        caller.log_in()
        assert caller.invoke(dispatch()).status_code == 200
        until(lambda: caller.invoke(dispatch()).status_code == 401)
        caller.http.close()
