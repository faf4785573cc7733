"""What there is to see: show, list, rejections, stats."""

import io
import signal
from collections.abc import Callable
from itertools import count
from typing import Any

import msgspec
import pytest
import redis
from rich.console import Console
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from tests.factories import Store, dispatch
from tests.integration.ops.conftest import Result, Vcc
from tests.waiting import until
from worker import settings
from worker.ops import looking, watching
from worker.ops.watching import Watch
from worker.simulator.run import Background
from worker.store import imports

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
    assert "due:         1, the oldest for 3,60" in out
    assert "closed: throttled (slow down), next try 20" in out
    assert "slowed to 2.0 calls/s" in out
    assert "route R: no such route" in out
    assert "provider P: no message" in out
    with engine.begin() as conn:
        conn.exec_driver_sql("update gate set failures = 0, closed_until = null, reason = null")
    assert "valve:       open; slowed to" in vcc("stats").out


def test_stats_tell_what_waits_at_the_doors(
    vcc: Vcc, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths and the oldest of stream and inbox; what Redis knows is null while it is away, the rest is told."""
    found = vcc("stats", "--json").json
    empty = {"length": 0, "oldest_seconds": None}
    assert (found["stream"], found["inbox"]) == (empty, empty)
    fill(engine, redis_url)
    found = vcc("stats", "--json").json
    assert [found[door]["length"] for door in ("stream", "inbox")] == [2, 1]
    assert [found[door]["oldest_seconds"] > 3000 for door in ("stream", "inbox")] == [True, True]
    assert "stream:      2, the oldest for 3,6" in vcc("stats").out
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    found = vcc("stats", "--json").json
    assert (found["stream"], found["inbox"]["length"]) == (None, 1)
    assert "Redis can't be reached" in vcc("stats").out


def fill(engine: Engine, redis_url: str) -> None:
    """Let jobs wait at both doors since an hour ago, and be a worker that did nothing for a minute."""
    Store(engine).run("insert into inbox (job, created_at) values ('{}', now() - interval '1 hour')")
    with redis.Redis.from_url(redis_url) as client:
        now = client.time()[0]
        for at in (now - 3600, now):
            client.xadd("vcc:jobs", {"job": "{}"}, id=f"{at}000-0")
        client.hset(
            "vcc:consumed", mapping={"deliver w1@x": now, "intake w1@x": now - 60, "deliver w2@x": now - 60}
        )


Watched = Callable[..., Result]


@pytest.fixture
def watched(vcc: Vcc, house: Background, monkeypatch: pytest.MonkeyPatch) -> Watched:
    """Give what watches for so many looks, until Ctrl-C; before each but the first, something may happen."""

    def watch(*options: str, looks: int = 2, between: Callable[[], None] = lambda: None) -> Result:
        seen: list[None] = []
        look = Watch.look

        def again(self: Watch) -> Any:
            if len(seen) == looks:
                signal.raise_signal(signal.SIGINT)
            if seen:
                between()
            seen.append(None)
            return look(self)

        monkeypatch.setattr(Watch, "look", again)
        monkeypatch.setattr(looking, "WATCH_EVERY", 0.01)
        monkeypatch.setattr(watching, "PATIENCE", 30.0)
        return vcc("stats", "--watch", *options)

    return watch


def test_stats_can_be_watched_as_json(watched: Watched, engine: Engine, redis_url: str) -> None:
    """A line each look, in the shape of a single one, with rates, workers, imports and the counts' age besides."""
    fill(engine, redis_url)
    with engine.begin() as conn:
        imports.begin(conn, "cli:ford", "backlog.mbox", "R")

    def deliver() -> None:
        store = Store(engine)
        store.record(dispatch(externalid=f"e{next(numbers)}"))
        store.deliver()

    numbers = count()
    result = watched("--json", looks=3, between=deliver)
    assert result.code == 0
    first, _, last = [msgspec.json.decode(line) for line in result.out.splitlines()]
    wanted = "states due oldest_due_seconds in_flight gate held_routes held_providers invocations rejections"
    assert set(wanted.split()) <= set(first)
    assert first["per_second"] == {"calls": None, "interactions": None}
    assert last["invocations"] == {"calls": 2, "accepted": 2, "interactions": 2}
    assert last["per_second"]["interactions"] > 0
    assert (last["stream"]["length"], last["inbox"]["length"]) == (2, 1)
    assert {name: seconds > 50 for name, seconds in last["workers"].items()} == {"w1@x": False, "w2@x": True}
    assert last["imports"][0]["source"] == "backlog.mbox"
    assert last["counted"]["seconds_ago"] >= 0
    assert last["states"]["failed"] == 0


def test_stats_can_be_watched_in_a_pipe(watched: Watched) -> None:
    """What is no terminal gets plain lines; to stop it is no failure."""
    result = watched()
    assert result.code == 0
    assert len(result.out.splitlines()) == 2
    assert all(line.startswith("due 0, in flight 0, ") for line in result.out.splitlines())
    assert "\x1b" not in result.out


@pytest.mark.parametrize("columns", [120, 30])
def test_stats_can_be_watched_on_a_terminal(
    watched: Watched, engine: Engine, redis_url: str, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """Bars, rates, workers that are quiet, imports: as wide as the terminal is, and the last look stays."""
    fill(engine, redis_url)
    Store(engine).record(*[dispatch(externalid=name) for name in "abc"])
    with engine.begin() as conn:
        imports.report(conn, imports.begin(conn, "cli:ford", "back\x1b[31mlog.mbox", "R"), 0.25, 10, 9, 1, 0)
    drawn = io.StringIO()
    console = Console(
        file=drawn, force_terminal=True, width=columns, height=40, color_system=None, markup=False
    )
    monkeypatch.setattr(looking, "screen", lambda: console)
    result = watched()
    assert (result.code, result.err) == (0, "")
    last = drawn.getvalue().rpartition("\x1b[?1049l")[2]
    assert max(len(line) for line in last.splitlines()) <= columns
    assert "pending" in last
    if columns > 100:
        assert "█" * 30 in last
        assert "0.0 calls, 0 interactions  ▁" in last
        assert "w1@x, w2@x quiet for 6" in last
        assert "back\ufffd[31mlog.mbox by cli:ford: 25 %; 10 read, 9 new, 1 duplicate, 0 rejected" in last


def test_watching_outlives_an_outage(
    watched: Watched, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database is away that is said, and it goes on when it is back."""
    away: list[bool] = []

    def once() -> None:
        away.append(True)
        if len(away) == 1:
            raise OperationalError(None, None, Exception())

    result = watched(looks=2, between=once)
    assert result.code == 0
    assert "can't reach the database" in result.err
    assert len(result.out.splitlines()) == 2


def test_nothing_is_counted_again_and_again(
    engine: Engine, house: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look reads no table whole: what has to be counted is asked of the census only."""
    monkeypatch.setattr("worker.ops.census.LEAST", 600.0)
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _u, statement, *_: asked.append(statement))
    watch = Watch(engine, settings.load(), None)
    until(lambda: watch.look()["counted"])
    asked.clear()
    for _ in range(3):
        watch.look()
    assert asked
    assert not [one for one in asked if "from interactions group by" in one]
