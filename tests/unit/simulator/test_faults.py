"""Scripted faults: what each does to a call, to the book, and for how long."""

import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from tests.unit.simulator.caller import Caller, dispatch, release
from tests.waiting import until
from worker.simulator.faults import Faults, Rule, Throttle
from worker.simulator.run import Background
from worker.simulator.script import Script


def _statuses(caller: Caller, calls: int) -> list[int]:
    return [caller.invoke(dispatch(str(number))).status_code for number in range(calls)]


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ({"throttle": {"calls": 1}}, 429),
        ({"unauthorised": {"calls": 1}}, 401),
        ({"not_found": {"calls": 1}}, 404),
        ({"redirect": {"calls": 1}}, 302),
        ({"status": {"calls": 1}}, 500),
        ({"status": {"calls": 1, "status": 408}}, 408),
        ({"html503": {"calls": 1}}, 503),
        ({"html200": {"calls": 1}}, 200),
    ],
)
def test_a_scripted_answer_processes_nothing(
    sim: Background, caller: Caller, faults: dict[str, Any], status: int
) -> None:
    """The next call gets the answer and is not processed; the one after it is accepted."""
    sim.faults(**faults)

    assert caller.invoke(dispatch("a")).status_code == status
    assert (sim.book()["dispatched"], sim.book()["accepted_calls"]) == (0, 0)

    assert caller.invoke(dispatch("b")).json() == {}
    assert (sim.book()["dispatched"], sim.book()["accepted_calls"]) == (1, 1)


def test_a_proxys_answer_is_html(sim: Background, caller: Caller) -> None:
    """html200 and html503 answer with HTML, which is no JSON."""
    sim.faults(html200={"calls": 1}, html503={"calls": 1})

    for status in (503, 200):
        answer = caller.invoke(dispatch())
        assert answer.status_code == status
        assert answer.headers["content-type"].startswith("text/html")
        assert "<html>" in answer.text


def test_a_redirect_names_a_place(sim: Background, caller: Caller) -> None:
    """The redirect has a Location."""
    sim.faults(redirect={})

    assert caller.invoke(dispatch()).headers["location"] == "/elsewhere"


def test_a_throttled_call_may_have_no_retry_after(sim: Background, caller: Caller) -> None:
    """Without ``retry_after`` the header is missing, and no later call counts as made while throttled."""
    sim.faults(throttle={"calls": 2})

    assert "retry-after" not in caller.invoke(dispatch()).headers
    caller.invoke(dispatch())
    assert sim.book()["calls_while_throttled"] == 0


@pytest.mark.parametrize(("seconds", "text"), [(0, "0"), (30, "30"), (1.5, "1.5"), (1_000_000, "1000000")])
def test_retry_after_in_seconds(sim: Background, caller: Caller, seconds: float, text: str) -> None:
    """The header carries the seconds that were asked for."""
    sim.faults(throttle={"retry_after": seconds})

    assert caller.invoke(dispatch()).headers["retry-after"] == text


def test_retry_after_as_a_date(sim: Background, caller: Caller) -> None:
    """As an HTTP date it lies at least the asked seconds ahead, and less than two seconds more."""
    sim.faults(throttle={"retry_after": 30, "http_date": True})
    before = time.time()

    date = parsedate_to_datetime(caller.invoke(dispatch()).headers["retry-after"]).timestamp()

    assert before + 30 <= date < time.time() + 32


@pytest.mark.parametrize("http_date", [False, True])
def test_a_call_before_retry_after_is_noticed(sim: Background, caller: Caller, http_date: bool) -> None:
    """The throttled call itself is innocent, the next one too early."""
    sim.faults(throttle={"calls": 1, "retry_after": 30, "http_date": http_date})

    caller.invoke(dispatch())
    assert sim.book()["calls_while_throttled"] == 0
    caller.invoke(dispatch())
    assert sim.book()["calls_while_throttled"] == 1


def test_a_connection_is_cut_before_processing(sim: Background, caller: Caller) -> None:
    """The caller gets no answer, nothing is processed, the next call works."""
    sim.faults(cut_before={"calls": 1})

    with pytest.raises(httpx.RemoteProtocolError):
        caller.invoke(dispatch("a"))
    book = sim.book()
    assert (book["calls_by_status"], book["dispatched"], book["accepted_calls"]) == ({"cut": 1}, 0, 0)

    assert caller.invoke(dispatch("a")).status_code == 200


def test_a_connection_is_cut_after_processing(sim: Background, caller: Caller) -> None:
    """The caller gets no answer to what was processed; the repeated requestid is recognised."""
    sim.faults(cut_after={"calls": 1})
    request = dispatch("a")

    with pytest.raises(httpx.RemoteProtocolError):
        caller.invoke(request)
    book = sim.book()
    assert (book["calls_by_status"], book["dispatched"], book["accepted_calls"]) == ({"cut": 1}, 1, 0)

    caller.invoke(request)
    assert sim.book()["repeated_requestids"] == 1


def test_a_refused_call_is_not_cut_after_processing(sim: Background, caller: Caller) -> None:
    """What was not processed is answered, and does not count as the call to cut."""
    sim.faults(cut_after={"calls": 1})

    assert caller.send(b"{").status_code == 400
    with pytest.raises(httpx.RemoteProtocolError):
        caller.invoke(dispatch())


def test_a_delayed_answer_holds_up_no_other_call(sim: Background, caller: Caller) -> None:
    """A call is processed at once and answered late; meanwhile others are answered."""
    sim.faults(delay={"by": 30, "calls": 1})

    with pytest.raises(httpx.ReadTimeout):
        caller.http.post(
            "/interactions/Invoke",
            json={"requests": [dispatch("a")]},
            headers={
                "accept": "application/vnd.newvoicemedia.v1+json",
                "authorization": caller.authorization,
            },
            timeout=0.2,
        )

    assert sim.book()["dispatched"] == 1
    assert caller.invoke(dispatch("b")).status_code == 200


def test_a_delay_takes_its_time(sim: Background, caller: Caller) -> None:
    """The answer comes after the asked seconds, and is the usual one."""
    sim.faults(delay={"by": 0.2})
    start = time.monotonic()

    assert caller.invoke(dispatch()).json() == {}

    assert time.monotonic() - start >= 0.2


def test_a_dripped_answer_comes_byte_by_byte(sim: Background, caller: Caller) -> None:
    """It takes its time, comes in many pieces and is still JSON."""
    sim.faults(drip={"over": 0.3})
    request = caller.http.build_request("POST", "/interactions/Invoke", json={"requests": [dispatch()]})
    request.headers.update(
        {
            "accept": "application/vnd.newvoicemedia.v1+json",
            "authorization": caller.authorization,
        }
    )
    start = time.monotonic()

    answer = caller.http.send(request, stream=True)
    pieces = list(answer.iter_raw())

    assert answer.status_code == 200
    assert b"".join(pieces).strip() == b"{}"
    assert len(pieces) > 3
    assert time.monotonic() - start >= 0.25


def test_a_dripped_answer_is_complete(sim: Background, caller: Caller) -> None:
    """The connection serves the next call after it."""
    sim.faults(drip={"over": 0.05, "calls": 1})

    ports = [
        caller.invoke(dispatch()).extensions["network_stream"].get_extra_info("client_addr") for _ in range(2)
    ]

    assert ports[0] == ports[1]


def test_a_dripped_429_still_opens_its_window(sim: Background, caller: Caller) -> None:
    """A throttled answer that is dripped asks for a pause like any other."""
    sim.faults(drip={"over": 0.05}, throttle={"calls": 1, "retry_after": 30})

    caller.invoke(dispatch())
    caller.invoke(dispatch())

    assert sim.book()["calls_while_throttled"] == 1


def test_a_provider_may_be_forbidden(sim: Background, caller: Caller) -> None:
    """Calls for a forbidden provider are 403, others pass."""
    sim.faults(forbidden_providers=["P"])

    assert caller.invoke(dispatch("a"), provider="P").status_code == 403
    assert caller.invoke(dispatch("a"), provider="Q").status_code == 200
    assert caller.invoke(dispatch("a")).status_code == 200


def test_poison_refuses_the_whole_call(sim: Background, caller: Caller) -> None:
    """One poisonous externalid refuses all; the message names it and nothing else of the request's."""
    sim.faults(poison=["bad"])

    answer = caller.invoke(dispatch("good"), release("bad"))

    assert (answer.status_code, answer.json()) == (400, {"message": "Interaction 'bad' is refused"})
    assert sim.book()["dispatched"] == 0
    assert caller.invoke(dispatch("good")).status_code == 200


def test_poison_may_be_a_500(sim: Background, caller: Caller) -> None:
    """An externalid can make the API fail without processing."""
    sim.faults(poison_500=["bad"])

    assert caller.invoke(dispatch("bad")).status_code == 500
    assert sim.book()["dispatched"] == 0


def test_a_route_may_not_exist(sim: Background, caller: Caller) -> None:
    """A dispatch to a refused route is 400 by name; a release of what went there is not."""
    caller.invoke(dispatch("a", route="Sales"))
    sim.faults(refuse_routes=["Sales"])

    answer = caller.invoke(dispatch("b", route="Sales"))

    assert (answer.status_code, answer.json()) == (400, {"message": "Route 'Sales' does not exist"})
    assert caller.invoke(release("a")).status_code == 200


def test_a_rate_is_kept(sim: Background, caller: Caller) -> None:
    """Of many calls at once only so many are taken; a second later the next ones are."""
    sim.faults(rate=2)

    assert _statuses(caller, 4) == [200, 200, 429, 429]
    until(lambda: caller.invoke(dispatch()).status_code == 200)


def test_a_rate_set_anew_starts_anew(sim: Background, caller: Caller) -> None:
    """Calls that were taken under an earlier rate do not count under the next."""
    sim.faults(rate=1)
    assert _statuses(caller, 2) == [200, 429]

    sim.faults(rate=1)

    assert _statuses(caller, 2) == [200, 429]


def test_faults_at_the_token_endpoint(sim: Background, caller: Caller) -> None:
    """A rule strikes Invoke unless it says ``token`` or ``both``."""
    sim.faults(status={"at": "token"}, unauthorised={"at": "both"}, cut_before={"at": "token", "calls": 1})

    with pytest.raises(httpx.RemoteProtocolError):
        caller.token()
    assert caller.token().status_code == 401
    assert caller.invoke(dispatch()).status_code == 401
    sim.faults(unauthorised=None)
    assert caller.token().status_code == 500
    assert caller.invoke(dispatch()).status_code == 200


def test_a_token_may_be_cut_off_late_and_dripped(sim: Background, caller: Caller) -> None:
    """The other rules work at the token endpoint too; the rate is Invoke's alone."""
    sim.faults(cut_after={"at": "token", "calls": 1}, drip={"at": "token", "over": 0.05}, rate=1)

    with pytest.raises(httpx.RemoteProtocolError):
        caller.token()
    assert caller.token().json()["token_type"] == "bearer"
    assert sim.book()["tokens_issued"] == 3


def test_a_rule_ends_after_its_calls(sim: Background, caller: Caller) -> None:
    """``calls`` counts the calls that the rule struck; of two rules one at a time counts down."""
    sim.faults(status={"calls": 2}, throttle={"calls": 1})

    assert _statuses(caller, 5) == [429, 500, 500, 200, 200]


def test_a_rule_ends_after_its_seconds(sim: Background, caller: Caller) -> None:
    """``seconds`` runs from the moment the fault is scripted."""
    sim.faults(status={"seconds": 0.3})

    assert caller.invoke(dispatch()).status_code == 500
    until(lambda: caller.invoke(dispatch()).status_code == 200)


def test_chance_is_seeded(sim: Background, caller: Caller) -> None:
    """A probability strikes some calls, the same ones for the same seed."""
    runs = []
    for seed in (1, 1, 2):
        sim.faults(status={"probability": 0.5}, seed=seed)
        runs.append(_statuses(caller, 20))

    assert runs[0] == runs[1] != runs[2]
    assert set(runs[0]) == {200, 500}


def test_faults_are_merged_by_name(sim: Background, caller: Caller) -> None:
    """A named fault is replaced, null takes it away, the others stay with their counts."""
    sim.faults(status={"calls": 2}, poison=["a"])
    assert caller.invoke(dispatch()).status_code == 500

    sim.faults(poison=["b"])
    assert _statuses(caller, 2) == [500, 200]
    assert caller.invoke(dispatch("a")).status_code == 200
    assert caller.invoke(dispatch("b")).status_code == 400

    sim.faults(poison=None)
    assert caller.invoke(dispatch("b")).status_code == 200


def test_faults_are_cleared(sim: Background, caller: Caller) -> None:
    """After clearing everything goes well, and no fault is shown."""
    sim.faults(status={}, rate=1, poison=["a"])
    assert caller.http.get("/_sim/faults").json() == {"status": {}, "rate": 1, "poison": ["a"]}

    sim.clear_faults()

    assert _statuses(caller, 3) == [200, 200, 200]
    assert caller.http.get("/_sim/faults").json() == {}


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'"\xff"',
        b'{"typo": 1}',
        b'{"typo": null}',
        b'{"throttle": {"every": 2}}',
        b'{"delay": {}}',
    ],
)
def test_wrong_faults_are_refused(sim: Background, caller: Caller, content: bytes) -> None:
    """What is no fault is 400 with a message, and those in force stay."""
    sim.faults(status={})

    answer = caller.http.post("/_sim/faults", content=content)

    assert (answer.status_code, answer.json().keys()) == (400, {"message"})
    assert caller.invoke(dispatch()).status_code == 500


def test_faults_from_the_start() -> None:
    """Faults can be in force before the first call."""
    script = Script(Faults(throttle=Throttle(calls=1), cut_before=Rule(calls=1)))

    assert script.fires("cut_before", "invoke")
    answer = script.answer("invoke")
    assert answer is not None
    assert answer.status_code == 429
    assert script.answer("invoke") is None


def test_an_answer_breaks_off(sim: Background, caller: Caller) -> None:
    """A garbled answer is a 200 whose JSON can't be read, to what was processed."""
    sim.faults(garbled={"calls": 1})

    answer = caller.invoke(dispatch("a"))
    assert answer.status_code == 200
    with pytest.raises(ValueError, match="Unterminated string"):
        answer.json()
    assert sim.book()["dispatched"] == 1


def test_a_token_is_taken_back(sim: Background, caller: Caller) -> None:
    """The revoked token is refused from then on, a fresh one holds."""
    sim.faults(revoke={"calls": 1})

    assert [caller.invoke(dispatch("a")).status_code for _ in range(2)] == [401, 401]
    assert sim.book()["dispatched"] == 0

    caller.log_in()
    assert caller.invoke(dispatch("a")).status_code == 200


def test_a_call_is_processed_late(sim: Background, caller: Caller) -> None:
    """A late call is processed all the same, when its caller has long gone."""
    sim.faults(late={"calls": 1, "by": 0.3})

    caller.http.timeout = httpx.Timeout(0.1)
    with pytest.raises(httpx.ReadTimeout):
        caller.invoke(dispatch("a"))
    assert sim.book()["dispatched"] == 0
    until(lambda: sim.book()["dispatched"] == 1)
