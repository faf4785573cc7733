"""What there is to see: show, list, rejections, stats."""

import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import Engine

from tests.integration.ops.conftest import Vcc
from worker.ops import looking
from worker.simulator.run import Background

Send = Callable[[], None]


def test_show_tells_the_whole_story(vcc: Vcc, house: Background, send: Send) -> None:
    """Lifecycles in the documented shape, the timeline in order, times in ISO 8601."""
    vcc("dispatch", "e", "--route", "R")
    send()
    vcc("release", "e")
    send()
    found = vcc("show", "e", "--json").json
    assert found["externalid"] == "e"
    (lifecycle,) = found["lifecycles"]
    wanted = "state route provider lane dispatch_requestid release_requestid attempts last_error timeline"
    assert set(wanted.split()) <= set(lifecycle)
    assert lifecycle["state"] == "released"
    events = [moment["event"] for moment in lifecycle["timeline"]]
    assert events[0] == "recorded"
    assert events.index("dispatch sent") < events.index("release sent")
    assert all(moment["at"].endswith("Z") and "T" in moment["at"] for moment in lifecycle["timeline"])


def test_show_prints_the_story_for_people(vcc: Vcc, house: Background) -> None:
    """State, facts and a table of what happened when."""
    vcc("dispatch", "e", "--route", "Route NR", "--provider", "P")
    vcc("release", "e")
    out = vcc("show", "e").out
    assert out.startswith("e: cancelled (released before it was sent)\n  route: Route NR\n  provider: P\n")
    assert "release requested" in out


def test_show_of_an_unknown_externalid_fails(vcc: Vcc, house: Background) -> None:
    """Scripts can tell; stdout stays empty also with --json."""
    result = vcc("show", "nobody", "--json")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: nothing is known of nobody")


def test_list_has_the_documented_columns_and_filters(vcc: Vcc, house: Background) -> None:
    """Newest first, narrowed by state, route and lane."""
    for name, options in (("a", ["--route", "A"]), ("b", ["--route", "B", "--lane", "backlog"])):
        vcc("dispatch", name, *options)
    vcc("release", "c")
    found = vcc("list", "--json").json
    assert [row["externalid"] for row in found] == ["c", "b", "a"]
    wanted = "id externalid state route provider lane attempts due_at last_error created_at updated_at"
    assert list(found[0]) == wanted.split()
    for options, names in (
        (["--state", "pending"], ["b", "a"]),
        (["--route", "A"], ["a"]),
        (["--lane", "backlog"], ["b"]),
        (["--limit", 1], ["c"]),
        (["--state", "failed"], []),
    ):
        assert [row["externalid"] for row in vcc("list", "--json", *options).json] == names


def test_list_is_a_table_for_people(vcc: Vcc, house: Background) -> None:
    """Ids are shown as they are, but for what would steer the terminal."""
    vcc("dispatch", "[bold]\x1b[31m e", "--route", "R")
    out = vcc("list").out
    assert "externalid" in out.splitlines()[0]
    assert "[bold]\ufffd[31m e" in out


def test_rejections_are_listed_without_what_they_hold(vcc: Vcc, house: Background, backlog: object) -> None:
    """Where each stood and why it was rejected."""
    assert vcc("rejections").out == "nothing was rejected\n"
    vcc("import", backlog, "--route", "R")
    found = vcc("rejections", "--json").json
    assert len(found) == 3
    assert list(found[0]) == ["id", "at", "door", "place", "reason"]
    assert len(vcc("rejections", "--json", "--limit", 2).json) == 2
    assert "backlog.mbox: message" in vcc("rejections").out


def test_stats_have_the_documented_shape(vcc: Vcc, house: Background, send: Send) -> None:
    """Every figure has its place, also those that are nought."""
    vcc("dispatch", "e", "--route", "R")
    send()
    found = vcc("stats", "--json").json
    wanted = "states due oldest_due_seconds in_flight gate held_routes invocations rejections"
    assert set(wanted.split()) <= set(found)
    assert found["states"]["dispatched"] == 1
    assert found["states"]["failed"] == 0
    assert {"open", "reason", "opens_at", "rate"} <= set(found["gate"])
    assert {"calls": 1, "accepted": 1, "interactions": 1}.items() <= found["invocations"].items()


def test_stats_say_why_calls_are_not_made(vcc: Vcc, engine: Engine) -> None:
    """The valve with its reason and the API's words, held routes and providers, what waits for how long."""
    assert "none yet" in vcc("stats").out
    vcc("dispatch", "e", "--route", "R")
    with engine.begin() as conn:
        conn.exec_driver_sql("update interactions set due_at = due_at - interval '1 hour',"
                             " updated_at = updated_at - interval '1 hour'")  # fmt: skip
        conn.exec_driver_sql("update gate set failures = 1, reason = 'throttled', message = 'slow down', rate = 2,"
                             " slowed_at = now(), closed_until = now() + interval '1 minute'")  # fmt: skip
        conn.exec_driver_sql(
            "insert into routes (route, held_at, message) values ('R', now(), 'no such route')"
        )
        conn.exec_driver_sql("insert into providers values ('P', now() + interval '1 minute', 1, null)")
    out = vcc("stats").out
    assert "due:         1, the oldest for 3,600 s" in out
    assert "closed: throttled (slow down), next try 20" in out
    assert "slowed to 2.0 calls/s" in out
    assert "route R: no such route" in out
    assert "provider P: no message" in out
    with engine.begin() as conn:
        conn.exec_driver_sql("update gate set failures = 0, closed_until = null, reason = null")
    assert "valve:       open; slowed to" in vcc("stats").out


@pytest.mark.parametrize("as_json", [True, False])
def test_stats_can_be_watched_until_ctrl_c(
    vcc: Vcc, house: Background, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    """It looks again and again; to stop it is no failure."""
    looks: list[None] = []
    look = looking._stats

    def twice(engine: Engine) -> Any:
        if len(looks) == 2:
            signal.raise_signal(signal.SIGINT)
        looks.append(None)
        return look(engine)

    monkeypatch.setattr(looking, "_stats", twice)
    monkeypatch.setattr(looking, "WATCH_EVERY", 0.01)
    result = vcc("stats", "--watch", *["--json"] * as_json)
    assert result.code == 0
    if as_json:
        lines = [msgspec.json.decode(line) for line in result.out.splitlines()]
        assert len(lines) == 2
        assert lines[0]["due"] == 0
    else:
        assert result.out.count("valve:") == 1  # a pipe gets the last look only
