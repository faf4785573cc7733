"""What the pages show of a real table, and what an operator changes from them."""

import html
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from markupsafe import escape
from starlette.testclient import TestClient

from tests.factories import Store, dispatch, opened, release
from tests.integration.web.visiting import House, Visitor
from worker.client import Client
from worker.domain.lifecycle import State
from worker.domain.outcome import Refused
from worker.ops.web import charts, render
from worker.store import gate, imports
from worker.store.record import Rejection, reject
from worker.store.tallies import Bin

SCRIPT = "<script>alert('planted')</script>"
WORDS = "My parcel never came"


@pytest.fixture
def house(database_url: str, redis_url: str) -> Iterator[House]:
    """Give a page with a viewer and an operator."""
    with opened(database_url) as engine:
        yield House(engine, redis_url)


@pytest.fixture
def store(house: House) -> Store:
    """Give the table behind the page."""
    return Store(house.engine)


def text(page: Any) -> str:
    """A page's text, without its tags."""
    assert page.status_code in (200, 422), page.text
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page.text)).split())


def refuse(store: Store, *names: str, error: str = "no such route", **fields: Any) -> None:
    """Have interactions dispatched and refused."""
    store.record(*(dispatch(name, **fields) for name in names))
    for _ in names:
        store.settle(store.claim(limit=1), Refused, status=400, error=error, seconds=0.2)


def test_the_overview_tells_the_whole(house: House, store: Store, redis_url: str) -> None:
    """States, lanes, what is due, the doors, imports, errors with their counts, held routes, latency."""
    store.record(dispatch("a"), dispatch("b"))
    store.deliver(seconds=0.03)
    refuse(store, "c", "d")
    store.record(dispatch("e", lane="backlog"), dispatch("f", lane="backlog"))
    Client(redis_url).dispatch("g", "R")
    with house.engine.begin() as conn:
        running = imports.begin(conn, "cli:anna", "backlog.mbox", "Emails")
        imports.report(conn, running, 0.25, 1000, 990, 8, 2)
        conn.exec_driver_sql(
            "insert into routes (route, refused, held_at, message) values ('Claims', 20, now(), 'No such queue')"
        )
    shown = text(house.operator().get("/"))
    for part in (
        "Open : calls are made",
        "dispatched 2 0",
        "failed 2 0",
        "pending 0 2",
        "backlog 2",
        "stream 1",
        "inbox 0",
        "backlog.mbox → Emails cli:anna 25 % 1,000 990 8 2",
        "2 failed no such route",
        "route Claims No such queue",
        "p95",
    ):
        assert part in shown


def test_pause_and_resume(house: House) -> None:
    """The valve closes with the reason beside it, opens again, and the audit has both."""
    operator = house.operator()
    assert operator.submit("/pause", {"reason": "lunch <b>"}, found_on="/").headers["location"] == "/"
    shown = operator.get("/").text
    assert "Closed: paused" in shown
    assert "lunch &lt;b&gt;" in shown
    assert ", by oskar; until somebody resumes" in text(operator.get("/"))
    since = house.ask("select paused_at from gate")
    operator.submit("/pause", {"reason": ""}, found_on="/")
    assert since.strftime("%H:%M:%S") in text(operator.get("/"))
    assert "lunch" in text(operator.get("/"))
    operator.submit("/resume", found_on="/")
    assert "Open" in operator.get("/").text
    assert house.ask("select string_agg(action, ',' order by id) from audit where action <> 'login'") == (
        "pause,pause,resume"
    )


def test_a_held_route_is_let_go(house: House) -> None:
    """Its button frees what waits; asked a second time, the page says that it is not held."""
    route = " Kunden\u00a0Service "
    house.run(f"insert into routes (route, refused, held_at) values ('{route}', 20, now())")
    operator = house.operator()
    found = re.search(r'name="route" value="([^"]*)"', operator.get("/").text)
    assert found is not None
    assert operator.submit("/resume", {"route": found[1]}).status_code == 303
    assert house.ask("select count(*) from routes where held_at is not null") == 0
    assert operator.submit("/resume", {"route": route}).status_code == 409


def test_filters_narrow_the_list_together(house: House, store: Store) -> None:
    """Each filter of the form counts, and all of them at once."""
    refuse(store, "one", error="No such QUEUE", route="Claims", provider="P")
    refuse(store, "two", route="Claims")
    store.record(dispatch("three", lane="backlog"))
    visitor = house.viewer()
    for query, expected in {
        "": "one two three",
        "state=failed": "one two",
        "route=Claims&provider=P": "one",
        "lane=backlog": "three",
        "error=queue": "one",
        "externalid=two": "two",
        "age=1h": "one two three",
        "older=1h": "",
        "state=failed&route=Claims&error=route&lane=live&age=1h": "two",
    }.items():
        shown = visitor.get(f"/interactions?{query}").text
        found = {name for name in ("one", "two", "three") if f">{name}</a>" in shown}
        assert found == set(expected.split()), query


def test_older_ones_are_on_the_next_page(house: House, store: Store) -> None:
    """The link leads on from the last row: nothing is left out and nothing shown twice."""
    store.record(*(dispatch(f"n{number:03}") for number in range(120)))
    visitor, path, found = house.viewer(), "/interactions?lane=live", []
    while path:
        page = visitor.get(path).text
        found += re.findall(r">(n\d{3})</a>", page)
        following = re.search(r'rel="next" href="([^"]+)"', page)
        path = html.unescape(following[1]) if following else ""
    assert found == [f"n{number:03}" for number in reversed(range(120))]


def test_an_externalid_is_found(house: House, store: Store) -> None:
    """The search leads to its one lifecycle, to the list of several, or says what to do where there is none."""
    store.record(dispatch("a b&c"))
    visitor = house.viewer()
    (where,) = [visitor.get("/find", params={"externalid": "a b&c"}).headers["location"]]
    assert "a b&c" in text(visitor.get(where))
    assert visitor.get("/find", params={"externalid": " a b&c\t"}).headers["location"] == where
    nothing = visitor.get("/find", params={"externalid": "nobody"}).headers["location"]
    assert "No such interaction as nobody: see what was rejected" in text(visitor.get(nothing))


def test_one_interaction_tells_its_story(house: House, store: Store) -> None:
    """Its timeline has each call with outcome, status, latency and, for operators, the API's answer and the words."""
    store.record(dispatch("a", linkeddata=[{"type": "subject", "value": WORDS}]))
    store.deliver(Refused, status=400, error="no such route", seconds=0.2, body='{"message": "said so"}')
    operator, viewer = (text(who.get("/interactions/1")) for who in (house.operator(), house.viewer()))
    for part in ("a failed", "recorded", "dispatch sent refused HTTP 400 in 200 ms", "no such route"):
        assert part in operator
        assert part in viewer
    assert WORDS in operator
    assert "said so" in operator
    assert "Retry" in operator
    for part in (WORDS, "said so", "Retry"):
        assert part not in viewer


@pytest.mark.parametrize(
    "path", ["/interactions/2", "/interactions/x", "/interactions/99999999999999999999", "/nothing"]
)
def test_what_is_not_there(house: House, path: str) -> None:
    """A page says that there is nothing."""
    answer = house.viewer().get(path)
    assert answer.status_code == 404
    assert "<h1>Not Found</h1>" in answer.text


def test_all_that_match_are_tried_again_once_confirmed(house: House, store: Store) -> None:
    """The page says how many, and what is confirmed are just those, not what failed meanwhile."""
    refuse(store, "a", "b", error="no such queue")
    refuse(store, "c")
    operator = house.operator()
    form = {"what": "all", "state": "failed", "error": "QUEUE"}
    asked = operator.submit("/retry", form)
    assert "Try 2 interactions again?" in text(asked)
    assert house.ask("select count(*) from interactions where state = 'failed'") == 3
    refuse(store, "d", error="no such queue")
    assert confirmed(operator, asked).status_code == 303
    assert (
        house.ask("select string_agg(externalid, '' order by id) from interactions where state = 'pending'")
        == "ab"
    )
    assert "2 are tried again" in operator.get("/interactions").text
    detail = house.ask("select detail from audit where action = 'retry'")
    assert "failed" in detail
    assert "QUEUE" not in detail


def test_a_confirmation_that_is_sent_twice(house: House, store: Store) -> None:
    """Refused once more since it was confirmed, they are not tried again by the same form, chosen or all."""
    refuse(store, "a")
    operator = house.operator()
    for form in ({"what": "all", "state": "failed"}, {"what": "chosen", "id": ["1"]}):
        asked = operator.submit("/retry", form)
        confirmed(operator, asked)
        store.settle(store.claim(limit=1), Refused, status=400)
        confirmed(operator, asked)
        assert "0 are tried again" in operator.get("/interactions").text
    assert house.ask("select state::text from interactions") == "failed"


def test_the_ages_are_told(house: House, store: Store) -> None:
    """Who narrows by age is asked about that age, and the audit has it."""
    refuse(store, "a")
    operator = house.operator()
    asked = operator.submit("/retry", {"what": "all", "age": "1h"})
    assert re.search(r"all that match: recorded from 20\d\d-", text(asked))
    assert confirmed(operator, asked).headers["location"] == "/interactions?age=1h"
    assert "recorded from 20" in house.ask("select detail from audit where action = 'retry'")


def test_the_chosen_are_tried_again(house: House, store: Store) -> None:
    """Of what is ticked, those that can be tried again are, whatever else is among it."""
    refuse(store, "a", "b", "c")
    store.record(dispatch("d"))
    operator = house.operator()
    asked = operator.submit("/retry", {"what": "chosen", "id": ["1", "3", "4"]})
    assert "Try 2 interactions again?" in text(asked)
    confirmed(operator, asked)
    assert (
        house.ask("select string_agg(externalid, '' order by id) from interactions where state = 'failed'")
        == "b"
    )


def test_only_what_failed_can_be_tried_again(house: House, store: Store) -> None:
    """A filter that names another state is refused."""
    store.record(dispatch("a"))
    assert house.operator().submit("/retry", {"what": "all", "state": "pending"}).status_code == 400


def confirmed(operator: Visitor, asked: Any) -> Any:
    """Send the form of a confirmation as it stands there."""
    fields: dict[str, list[str]] = {"confirm": ["yes"]}
    for name, value in re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', asked.text):
        if name != "csrf":
            fields.setdefault(name, []).append(html.unescape(value))
    return operator.submit("/retry", fields)


def rejected(house: House, job: bytes, reason: str = "route: required") -> None:
    """Have a job rejected."""
    reject(house.engine, "stream", [Rejection(job, reason, "entry 1-0")])


def test_a_rejected_job_is_mended_and_sent_again(house: House) -> None:
    """As it came, with the reason; mended it is recorded and gone, and sending the form twice makes one interaction."""
    rejected(house, b'{"externalid": "a", "text": "%s"}' % WORDS.encode())
    operator = house.operator()
    assert "route: required" in text(operator.get("/rejections"))
    page = operator.get("/rejections/1")
    assert WORDS in page.text
    assert WORDS not in house.viewer().get("/rejections/1").text
    token = operator.token()
    form = {"csrf": token, "job": '{"externalid": "a", "route": "R"}'}
    assert [operator.post("/rejections/1", data=form).status_code for _ in range(2)] == [303, 404]
    assert house.ask("select count(*) from interactions") == 1
    assert house.ask("select dispatch_requestid from interactions") in page.text
    assert house.ask("select count(*) from rejections") == 0
    assert "rejection 1" in house.ask("select detail from audit where action = 'send again'")


def test_a_mended_job_keeps_every_character(house: House) -> None:
    """What is no letter and no blank of the usual kind comes back from the form as it went there."""
    words = "Kunden\u00a0Service \u3000\U0001f468\u200d\U0001f469 \u202e"
    rejected(house, f'{{"externalid": "a", "linkeddata": [{{"type": "t", "value": "{words}"}}]}}'.encode())
    operator = house.operator()
    found = re.search(r"<textarea[^>]*>\n(.*?)</textarea>", operator.get("/rejections/1").text, re.DOTALL)
    assert found is not None
    job = html.unescape(found[1]).replace('"a",', '"a", "route": "R",')
    operator.submit("/rejections/1", {"job": job})
    assert house.ask("select request->'linkeddata'->0->>'value' from interactions") == words


def test_a_mended_job_that_sends_nothing(house: House, store: Store) -> None:
    """Where the externalid is dispatched already, whoever mends it reads that nothing is sent."""
    store.record(dispatch("a"))
    rejected(house, b'{"externalid": "a"}')
    operator = house.operator()
    operator.submit("/rejections/1", {"job": '{"externalid": "a", "route": "R"}'})
    assert "but nothing is sent: its externalid is dispatched already" in text(operator.get("/rejections"))


def test_killed_while_a_mended_job_is_sent(
    house: House, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded, and the page dead before the rejection was ended: sent again by a new form, it is dispatched once."""
    rejected(house, b'{"externalid": "a"}')
    operator = house.operator()
    form = {"job": '{"externalid": "a", "route": "R"}'}
    with monkeypatch.context() as patch:
        patch.setattr("worker.store.mended.end", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            operator.submit("/rejections/1", form)
    store.deliver()
    store.record(release("a"))
    store.deliver()
    assert operator.submit("/rejections/1", form).status_code == 303
    assert house.ask("select string_agg(state::text, ',') from interactions") == "released"
    assert house.ask("select count(*) from rejections") == 0


def test_a_job_that_is_rejected_again(house: House) -> None:
    """The page says why, keeps what was written, and there is still one rejection."""
    rejected(house, b"\xff\0{")
    operator = house.operator()
    assert r"\xff" in operator.get("/rejections/1").text
    answer = operator.submit(
        "/rejections/1", {"job": f'{{"externalid": "{SCRIPT}"}}'}, found_on="/rejections/1"
    )
    assert answer.status_code == 422
    assert "Rejected again: route" in text(answer)
    assert str(escape(f'{{"externalid": "{SCRIPT}"}}')) in answer.text
    assert house.ask("select count(*) from rejections") == 1
    assert house.ask("select count(*) from interactions") == 0


def test_planted_scripts_are_text(house: House, store: Store) -> None:
    """Wherever customers' words, ids, errors and names stand, their angle brackets are escaped."""
    words = [{"type": SCRIPT, "value": SCRIPT}]
    refuse(store, SCRIPT, error=SCRIPT, route=SCRIPT, provider=SCRIPT, linkeddata=words)
    rejected(house, SCRIPT.encode(), SCRIPT)
    with house.engine.begin() as conn:
        gate.pause(conn, SCRIPT)
        imports.begin(conn, SCRIPT, SCRIPT, SCRIPT)
        conn.exec_driver_sql(
            "update routes set held_at = now(), message = %(s)s",
            {"s": SCRIPT},
        )
        conn.exec_driver_sql(
            "insert into audit (who, action, detail) values (%(s)s, %(s)s, %(s)s)", {"s": SCRIPT}
        )
    operator = house.operator()
    for path in (
        "/", "/interactions", f"/interactions?route={SCRIPT}&error={SCRIPT}", "/interactions/1", "/rejections",
        "/rejections/1", "/audit",
    ):  # fmt: skip
        page = operator.get(path)
        assert page.status_code == 200
        assert str(escape(SCRIPT)) in page.text, path
        assert SCRIPT not in page.text, path


def test_control_characters_are_shown_as_such(house: House, store: Store) -> None:
    """What a browser would not show, or take for something else, stands there as a replacement."""
    store.record(dispatch("a\x1b[31m\u202eb"))
    assert "a\ufffd[31m\ufffdb" in house.viewer().get("/interactions").text


def test_every_state_has_a_page(house: House, store: Store) -> None:
    """Whatever happened, the list and the interaction's page can be shown."""
    store.record(dispatch("a"), release("b"))
    store.deliver()
    house.run("update interactions set forgotten_at = now() where externalid = 'a'")
    visitor = house.operator()
    for state in State:
        assert visitor.get(f"/interactions?state={state}").status_code == 200
    assert "Erased" in visitor.get("/interactions/1").text
    assert visitor.get("/interactions/2").status_code == 200
    assert set(render.STATES) == set(State)


def test_the_database_is_away(house: House, database_url: str) -> None:
    """Each page says so in a sentence, and is there again when the database is."""
    visitor = house.viewer()
    house.run("alter table interactions rename to gone")
    for path in ("/", "/interactions", "/interactions/1"):
        answer = visitor.get(path)
        assert answer.status_code == 503
        assert "The database can" in answer.text
    house.run("alter table gone rename to interactions")
    assert visitor.get("/interactions").status_code == 200


def test_redis_is_away(house: House) -> None:
    """The overview is there all the same, and says that Redis is not."""
    house.redis.connection_pool.connection_kwargs["port"] = 1
    house.redis.connection_pool.disconnect()
    assert "Redis can't be asked" in house.viewer().get("/").text


def test_what_nobody_foresaw(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours is a page without a word of what went wrong."""
    monkeypatch.setattr("worker.store.browse.page", lambda *_, **__: 1 / 0)
    client = TestClient(house.app, base_url="http://127.0.0.1", raise_server_exceptions=False)
    client.cookies = house.operator().cookies
    answer = client.get("/interactions")
    assert answer.status_code == 500
    assert "see the log" in answer.text
    assert "division" not in answer.text


def test_a_chart_stands_beside_its_numbers() -> None:
    """What is drawn can be read as a table, and nothing is drawn where there was nothing."""
    when = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
    bins = [Bin(when, {"accepted": (4, 40), "lost": (1, 10)}, [5, *[0] * 9], 0.1), Bin(when)]
    drawn = charts.stacked("Calls a minute", bins, 0, 2.0)
    assert drawn.rows == [("12:30", "2.0", "0.0", "0.0", "0.5")]
    assert drawn.svg.count("<rect") == 2
    assert drawn.top == "2.5"
    slow = charts.latencies("Latency", bins)
    assert slow.rows[0][0] == "12:30"
    assert slow.svg.count("<polyline") == len(charts.QUANTILES)
