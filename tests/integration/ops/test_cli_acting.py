"""An operator's word: dispatch, release, retry, pause, resume, prune."""

import io
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis
from sqlalchemy import Engine

from tests.integration.ops.conftest import Vcc, own_broker
from worker.ops import acting
from worker.simulator.run import Background
from worker.store import audit

Stats = Callable[[], dict[str, Any]]
Send = Callable[[], None]
NOTHING_LISTENS = "redis://:geheim@127.0.0.1:1/0"


def test_the_seeds_example_is_sent_as_documented(vcc: Vcc, house: Background, send: Send) -> None:
    """A dispatch of an id to a route, then its release: exactly the members that the API documents."""
    assert vcc("dispatch", "sourceObjectName", "--route", "Route Interaction NR").code == 0
    send()
    (sent,) = house.last()["body"]["requests"]
    dispatched = sent.pop("requestid")
    assert sent == {
        "action": "dispatch",
        "externalid": "sourceObjectName",
        "route": "Route Interaction NR",
        "routingdata": {"interactiontype": "nonlive"},
    }
    assert vcc("release", "sourceObjectName").code == 0
    send()
    (sent,) = house.last()["body"]["requests"]
    assert sent.pop("requestid") != dispatched
    assert sent == {"action": "release", "externalid": "sourceObjectName"}


def test_a_dispatch_takes_everything_that_a_job_has(vcc: Vcc, house: Background, send: Send) -> None:
    """Each option reaches the call."""
    linked = [{"type": "name", "value": "A case"}]
    result = vcc(
        "dispatch", "e", "--route", "R", "--provider", "P", "--requestid", "D1", "--lane", "backlog",
        "--interactiontype", "chat", "--routingdata", '{"skills": [{"name": "s"}]}',
        "--linkeddata", msgspec.json.encode(linked).decode(), "--extra", '{"sms": 1}', "--json",
    )  # fmt: skip
    assert result.json == {
        "externalid": "e",
        "requestid": "D1",
        "verdict": "opened",
        "detail": "recorded; will be sent",
    }
    send()
    body = house.last()["body"]
    assert body["provider"] == "P"
    assert body["requests"] == [
        {
            "action": "dispatch",
            "requestid": "D1",
            "externalid": "e",
            "route": "R",
            "linkeddata": linked,
            "routingdata": {"interactiontype": "chat", "skills": [{"name": "s"}]},
            "sms": 1,
        }
    ]
    (listed,) = vcc("list", "--json").json
    assert listed["lane"] == "backlog"


def test_a_dispatch_wakes_the_workers(vcc: Vcc, house: Background, redis_url: str) -> None:
    """A message asks for a delivery, so that nobody waits for the tick."""
    vcc("dispatch", "e", "--route", "R")
    with redis.Redis.from_url(redis_url) as client:
        assert client.llen("deliver") == 1


def test_a_duplicate_is_told_in_plain_words(vcc: Vcc, house: Background) -> None:
    """The second dispatch of an open lifecycle sends nothing, says so, and is no failure."""
    vcc("dispatch", "e", "--route", "R")
    result = vcc("dispatch", "e", "--route", "R")
    assert (result.code, result.out) == (0, "e: duplicate dispatch ignored: one is pending already\n")


def test_the_same_requestid_changes_nothing(vcc: Vcc, house: Background, stats: Stats) -> None:
    """A command that is repeated with its requestid is recognised."""
    for _ in range(2):
        result = vcc("dispatch", "e", "--route", "R", "--requestid", "D1")
        assert result.code == 0
    assert result.out == "e: nothing changes: this requestid has been here before\n"
    assert stats()["states"]["pending"] == 1


def test_again_opens_a_new_lifecycle(vcc: Vcc, house: Background, send: Send) -> None:
    """The customer wrote again: what is dispatched ends and a new one begins."""
    vcc("dispatch", "e", "--route", "R")
    send()
    assert vcc("dispatch", "e", "--route", "R", "--again", "--json").json["verdict"] == "opened"
    found = vcc("show", "e", "--json").json["lifecycles"]
    assert [lifecycle["state"] for lifecycle in found] == ["ended", "pending"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--extra", '{"route": 1}'], "extra.route: is a field of the job itself"),
        (["--linkeddata", '{"type": "name"}'], "linkeddata: is an object; it must be a list"),
        (
            ["--routingdata", "7", "--interactiontype", "chat"],
            "routingdata: is a number; it must be an object",
        ),
        (["--requestid", "L1"], "requestid: belongs to another job already"),
    ],
)
def test_a_wrong_dispatch_is_told_and_not_kept(
    vcc: Vcc, house: Background, stats: Stats, options: list[str], words: str
) -> None:
    """The operator sees at once what is wrong, so it does not go into rejections."""
    vcc("release", "other", "--requestid", "L1")
    result = vcc("dispatch", "e", "--route", "R", *options)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"error: {words}")
    assert stats()["rejections"] == 0


def test_a_route_that_is_not_allowed_is_refused(
    vcc: Vcc, house: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VCC_ROUTES holds for the command line too."""
    monkeypatch.setenv("VCC_ROUTES", "Emails, Chats")
    assert vcc("dispatch", "e", "--route", "Emails").code == 0
    result = vcc("dispatch", "f", "--route", "Other")
    assert result.code == 1
    assert "VCC_ROUTES" in result.err


def test_releases_say_what_each_came_to(vcc: Vcc, house: Background, send: Send) -> None:
    """Sent, unsent, unknown, released: each externalid has its answer."""
    vcc("dispatch", "sent", "--route", "R")
    send()
    vcc("dispatch", "unsent", "--route", "R")
    result = vcc("release", "sent", "unsent", "unknown", "sent", "--json")
    assert [(one["externalid"], one["verdict"]) for one in result.json] == [
        ("sent", "releasing"),
        ("unsent", "cancelled"),
        ("unknown", "held"),
        ("sent", "nothing"),
    ]
    assert vcc("release", "sent").out == "sent: release ignored: it is releasing already\n"


def test_force_releases_what_was_dispatched_elsewhere(vcc: Vcc, house: Background, send: Send) -> None:
    """An externalid that is not known here is released all the same, with the provider that is named."""
    result = vcc("release", "theirs", "--force", "--provider", "P", "--requestid", "L1")
    assert (result.code, result.out) == (0, "theirs: recorded; its release will be sent\n")
    send()
    body = house.last()["body"]
    assert body["provider"] == "P"
    assert body["requests"] == [{"action": "release", "requestid": "L1", "externalid": "theirs"}]


def test_redis_being_down_keeps_nobody_from_recording(
    vcc: Vcc, house: Background, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job is recorded, and the operator is told when it goes; no password is shown."""
    monkeypatch.setenv("REDIS_URL", NOTHING_LISTENS)
    with own_broker(NOTHING_LISTENS):
        result = vcc("dispatch", "e", "--route", "R")
    assert (result.code, result.out) == (0, "e: recorded; will be sent\n")
    assert result.err == "warning: recorded; Redis can't be reached, so delivery starts when it is back\n"
    assert stats()["due"] == 1


def test_no_redis_at_all_keeps_nobody_from_recording(
    vcc: Vcc, house: Background, stats: Stats, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the database is known, the tick of the workers has to do."""
    monkeypatch.delenv("REDIS_URL")
    result = vcc("dispatch", "e", "--route", "R")
    assert result.code == 0
    assert "next tick" in result.err
    assert stats()["due"] == 1


@pytest.fixture
def failed(vcc: Vcc, house: Background, send: Send) -> Background:
    """Give two failed interactions, ``a`` of the route A and ``b`` of B, whose fault is mended."""
    vcc("dispatch", "good", "--route", "A")
    send()
    house.faults(poison=["a", "b"])
    vcc("dispatch", "a", "--route", "A")
    vcc("dispatch", "b", "--route", "B")
    send()
    house.clear_faults()
    return house


def test_retry_tells_how_many_and_tries_them(vcc: Vcc, failed: Background, send: Send, stats: Stats) -> None:
    """A dry run changes nothing; the retry is sent; the second finds nothing left."""
    assert vcc("retry", "--dry-run").out == "2 could be tried again\n"
    assert vcc("retry", "--dry-run", "--json").json == {"matching": 2, "retried": 0}
    assert stats()["states"]["failed"] == 2
    assert vcc("retry", "--json").json == {"matching": 2, "retried": 2}
    send()
    assert stats()["states"]["dispatched"] == 3
    assert vcc("retry", "--json").json == {"matching": 0, "retried": 0}


@pytest.mark.parametrize("which", [["--route", "A"], ["a"]])
def test_retry_can_be_narrowed(vcc: Vcc, failed: Background, which: list[str], stats: Stats) -> None:
    """By route, or by name."""
    assert vcc("retry", *which).out == "1 of 1 are tried again\n"
    assert stats()["states"]["failed"] == 1


class Terminal(io.StringIO):
    """Somebody who types."""

    def isatty(self) -> bool:
        """Be a terminal."""
        return True


@pytest.mark.parametrize(("answer", "left"), [("n\n", 2), ("y\n", 0)])
def test_retry_asks_on_a_terminal(
    vcc: Vcc, failed: Background, monkeypatch: pytest.MonkeyPatch, stats: Stats, answer: str, left: int
) -> None:
    """Somebody who is there is asked first, and a no changes nothing."""
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert vcc("retry").code == 0
    assert stats()["states"]["failed"] == left


def test_retry_with_yes_does_not_ask(vcc: Vcc, failed: Background, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--yes`` is the answer."""
    monkeypatch.setattr("sys.stdin", Terminal(""))
    assert vcc("retry", "--yes", "--json").json == {"matching": 2, "retried": 2}


def test_pause_and_resume_move_the_valve(vcc: Vcc, house: Background) -> None:
    """A pause closes it with its reason, resume opens it."""
    assert vcc("pause", "closed\ntoday").out == "valve: closed: paused (closed\ufffdtoday)\n"
    gate = vcc("pause", "--json").json["gate"]
    assert (gate["open"], gate["reason"]) == (False, "paused")
    assert vcc("resume").out == "valve: open\n"
    assert vcc("resume", "--json").json["gate"]["open"] is True


def test_a_route_that_is_not_held_can_t_be_resumed(vcc: Vcc, house: Background) -> None:
    """The operator may have mistyped it."""
    result = vcc("resume", "--route", "Emials")
    assert result.code == 1
    assert result.err.startswith("error: the route 'Emials' is not held: `vcc stats`")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_held_route_is_let_go(
    vcc: Vcc, engine: Engine, redis_url: str, as_json: bool, stats: Stats
) -> None:
    """Its rows become due, and the workers are woken."""
    vcc("dispatch", "e", "--route", "R")
    with engine.begin() as conn:
        conn.exec_driver_sql(
            "insert into routes (route, held_at, message) values ('R', now(), 'no such route')"
        )
        conn.exec_driver_sql("update interactions set due_at = 'infinity'")
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
        result = vcc("resume", "--route", "R", *["--json"] * as_json)
        assert client.llen("deliver") == 1
    assert result.code == 0
    if as_json:
        assert result.json == {"route": "R", "released": 1}
    else:
        assert result.out.startswith("1 interactions of R go on")
    assert stats()["due"] == 1


def test_prune_deletes_what_is_old(vcc: Vcc, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended lifecycles that nobody touched for VCC_KEEP_FOR go; what is open stays."""
    vcc("dispatch", "open", "--route", "R")
    vcc("dispatch", "over", "--route", "R")
    vcc("release", "over")
    with engine.begin() as conn:
        conn.exec_driver_sql("update interactions set updated_at = now() - interval '2 days'")
    assert vcc("prune", "--json").json["interactions"] == 0
    monkeypatch.setenv("VCC_KEEP_FOR", "1d")
    assert vcc("prune").out.startswith("deleted: 1 interactions")
    assert [row["externalid"] for row in vcc("list", "--json").json] == ["open"]


def test_what_an_operator_changes_is_in_the_audit(
    vcc: Vcc, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who, what and about what, the newest first; what changed nothing is not in it."""
    monkeypatch.setattr("getpass.getuser", lambda: "marvin")
    vcc("resume", "--route", "R")  # is not held
    vcc("retry")  # there is none
    vcc("pause", "closed today")
    vcc("resume")
    with engine.begin() as conn:
        conn.exec_driver_sql("insert into routes (route, held_at) values ('R', now())")
        conn.exec_driver_sql(
            "insert into interactions (externalid, state, route, dispatch_requestid) values ('e', 'failed', 'R', 'd')"
        )
    vcc("resume", "--route", "R")
    vcc("retry", "--route", "R", "--dry-run")
    vcc("retry", "--route", "R", "e")
    vcc("release", "a")
    vcc("release", "b", "c", "--force")
    vcc("release", *map(str, range(100, 122)), "--force")
    with engine.connect() as conn:
        found = audit.newest(conn)
    assert [(one["action"], one["detail"]) for one in reversed(found)] == [
        ("pause", "closed today"),
        ("resume", ""),
        ("resume", "route R: 0"),
        ("retry", "1 failed, route R, e"),
        ("release by force", "b, c"),
        ("release by force", f"{', '.join(map(str, range(100, 120)))} and 2 more"),
    ]
    assert {one["who"] for one in found} == {"cli:marvin"}


def test_an_account_without_a_name_is_told_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is in a container that runs as any user."""

    def nobody() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", nobody)
    assert acting.who() == f"cli:{os.getuid()}"
