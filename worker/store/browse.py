"""What the page shows: interactions by filter, one with its timeline, failures by error, the line, rejections.

Everything goes by an index, whatever the size of the tables, and does a bounded amount of work.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any

from sqlalchemy import Connection

from worker.domain.lifecycle import State
from worker.store.anchors import anchor, bounds
from worker.store.claim import NAMES
from worker.store.queries import LISTED
from worker.store.rows import ENDED_ROW, OPEN_ROW
from worker.store.tables import interactions
from worker.store.timeline import timeline

SHOWN = [*LISTED, "reason", "forgotten_at"]
TOP = 2**63 - 1

FIRST_LOOK, SHORTEST_LOOK, LONGEST_LOOK = 1_000, 200, 10_000
"""Rows looked at by one statement: at first, and then as many as there seems to be time for."""

LINKS = 50
TOLD = 1_000
"""Of one interaction: other lifecycles that are named; calls, and remarks, that are told."""

GIVEN_UP, GROUPS = 5_000, 100
"""Given-up rows that are grouped by their error, and groups that are shown."""

SILENT, RECENT, ABANDONED = 30.0, 600.0, 86_400.0
"""Seconds: after which an import counts as silent; for which an ended one is shown; and a silent one."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which interactions: what is None does not narrow.

    Attributes:
        error: text that ``last_error`` holds, in upper case or lower.
        externalid: the whole of it.
        created_after: this time too.
        created_before: up to, and without, this time.
    """

    state: str | None = None
    route: str | None = None
    provider: str | None = None
    lane: str | None = None
    error: str | None = None
    externalid: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None

    def where(self) -> tuple[str, dict[str, Any]]:
        """The SQL condition and its parameters."""
        given = {name: value for name in _CONDITIONS if (value := getattr(self, name)) is not None}
        return " and ".join(["true", *(_CONDITIONS[name] for name in given)]), given

    def possible(self) -> bool:
        """Whether a row can fit at all: there is such a state, and Postgres can hold the texts."""
        texts = (self.route, self.provider, self.lane, self.error, self.externalid)
        return self.state in (None, *State) and not any("\0" in text for text in texts if text is not None)


_CONDITIONS = {
    "state": "state = %(state)s::interaction_state",
    "error": "strpos(lower(last_error), lower(%(error)s)) > 0",
    "created_after": "created_at >= %(created_after)s",
    "created_before": "created_at < %(created_before)s",
    **{name: f"{name} = %({name})s" for name in ("route", "provider", "lane", "externalid")},
}


@dataclass(slots=True)
class Page:
    """What a search has found.

    Attributes:
        rows: the newest first.
        before: where the next page goes on; None: there is no more.
        looked: rows that were looked at.
        reached: when the oldest of these was recorded.
        complete: False: time was up before the page was full; further back there may be more.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    before: int | None = None
    looked: int = 0
    reached: datetime | None = None
    complete: bool = True


# Python has no infinity among its times: what a held route keeps back has no time here.
_COLUMNS = ", ".join(name for name in SHOWN if name != "due_at")
_CHUNK = """
with chunk as materialized ({newest})
select count.looked, count.last, count.reached, fitting.*
from (select count(*) as looked, min(id) as last, min(created_at) as reached from chunk) count
left join lateral (
    select {columns}, nullif(due_at, 'infinity') as due_at from chunk
    where {where} order by id desc limit %(wanted)s) fitting on true
order by fitting.id desc
"""


def page(
    conn: Connection,
    wanted: Filter,
    *,
    before: int | None = None,
    limit: int = 50,
    seconds: float = 0.08,
) -> Page:
    """Find interactions, the newest first.

    Rows that are recorded meanwhile have higher ids: going on with ``before``, what stays within the filter is found
    exactly once.

    Args:
        conn: as anybody who may look.
        wanted: which.
        before: only ids below this one, as the last page gave it.
        limit: rows at most.
        seconds: when these are over the search ends, with what it has.
    """
    if not wanted.possible():
        return Page()
    started = monotonic()
    search = _Search(conn, wanted, before, limit)
    look = FIRST_LOOK
    while not search.take(look):
        left = seconds - (monotonic() - started)
        if left <= 0:
            search.page.complete = False
            break
        pace = search.page.looked / (monotonic() - started)
        look = min(max(int(pace * left), SHORTEST_LOOK), LONGEST_LOOK)
    return search.page


def _below(before: int | None) -> int:
    """A cursor as Postgres compares it by an index: larger numbers are of another type."""
    return TOP if before is None else max(min(before, TOP), 0)


def _is_id(identity: int) -> bool:
    return 0 < identity < TOP


class _Search:
    """A page that is being filled, chunk by chunk."""

    def __init__(self, conn: Connection, wanted: Filter, before: int | None, limit: int) -> None:
        self.page = Page()
        self._conn, self._limit = conn, limit
        self._where, self._params = wanted.where()
        floor, below = bounds(conn, wanted.created_after, wanted.created_before)
        self._params["floor"] = floor or 0
        self._params["below"] = min(below or TOP, _below(before))
        self._anchor = anchor(conn, externalid=wanted.externalid, state=wanted.state, error=wanted.error)

    def take(self, look: int) -> bool:
        """Look at the next rows; whether the page is full, or there are no more."""
        room = self._limit - len(self.page.rows)
        sql = _CHUNK.format(newest=self._anchor.newest(", ".join(SHOWN)), columns=_COLUMNS, where=self._where)
        params = {**self._params, "look": look, "wanted": room + 1}
        with self._anchor.steady(self._conn):
            found = self._conn.exec_driver_sql(sql, params).mappings().all()
        fitting = [{name: row[name] for name in SHOWN} for row in found if row["id"] is not None]
        self.page.rows += fitting[:room]
        self.page.looked += found[0]["looked"]
        if len(fitting) > room:
            self._stop_at(self.page.rows[-1])
            return True
        if found[0]["looked"] < look:
            self.page.before = None
            self.page.reached = found[0]["reached"] or self.page.reached
            return True
        self._params["below"] = self.page.before = found[0]["last"]
        self.page.reached = found[0]["reached"]
        return len(fitting) == room

    def _stop_at(self, row: dict[str, Any]) -> None:
        self.page.before, self.page.reached = row["id"], row["created_at"]


# --- one interaction ------------------------------------------------------------------------------

_ONE = ", ".join(c.name for c in interactions.c if c.name not in ("call", "unsure", "request", "due_at"))


def one(conn: Connection, identity: int, *, words: bool) -> dict[str, Any] | None:
    """One lifecycle with its timeline, or None.

    Args:
        conn: as anybody who may look.
        identity: its id.
        words: with what customers wrote: the request, and the API's answers.

    Returns:
        The columns but those of the delivery's own; ``held``: it waits for a route that is held; ``timeline``, and
        ``whole``: it is all of it; ``others``: id, state and time of the newest other lifecycles of its externalid.
    """
    if not _is_id(identity):
        return None
    found = conn.exec_driver_sql(
        f"""select {_ONE}, {"request, " if words else ""}nullif(due_at, 'infinity') as due_at,
            coalesce(due_at = 'infinity', false) as held
        from interactions where id = %(id)s""",
        {"id": identity},
    )
    row = found.mappings().one_or_none()
    if row is None:
        return None
    moments, whole = timeline(conn, row, words=words, most=TOLD)
    return {**row, "timeline": moments, "whole": whole, "others": _others(conn, row)}


def _others(conn: Connection, row: Any) -> list[tuple[int, str, datetime]]:
    arms = " union all ".join(
        f"""(select id, state, created_at from interactions where externalid = %(externalid)s and {arm}
        order by id desc limit {LINKS + 1})"""
        for arm in (OPEN_ROW, "state = 'waiting'", ENDED_ROW)
    )
    found = conn.exec_driver_sql(
        f"select * from ({arms}) l where id <> %(id)s order by id desc limit {LINKS}",
        {"externalid": row["externalid"], "id": row["id"]},
    )
    return [(identity, state, at) for identity, state, at in found]


# --- what is stuck, and what is on its way ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failures:
    """Given-up interactions by their error.

    Attributes:
        groups: ``state``, ``error``, ``count`` and ``newest_id`` of each, the largest first.
        looked: how many given-up rows these are of.
        all: there certainly are no more.
    """

    groups: list[dict[str, Any]]
    looked: int
    all: bool


def failures(conn: Connection) -> Failures:
    """Group the newest given-up rows by their error."""
    arms = " union all ".join(
        f"""(select id, state, last_error from interactions where state = '{state}'
        order by id desc limit {GIVEN_UP})"""
        for state in ("failed", "release_failed")
    )
    found = conn.exec_driver_sql(
        f"""with newest as materialized (
            select * from ({arms}) given_up order by id desc limit {GIVEN_UP})
        select state, last_error as error, count(*) as count, max(id) as newest_id,
            (select count(*) from newest) as looked
        from newest group by state, last_error order by count(*) desc, max(id) desc limit {GROUPS}"""
    )
    groups = [dict(row) for row in found.mappings()]
    looked = max((group.pop("looked") for group in groups), default=0)
    return Failures(groups, looked, looked < GIVEN_UP)


def due_by_lane(conn: Connection) -> dict[str, dict[str, float | None]]:
    """How long the most overdue release, live and backlog dispatch have been due: ``oldest_seconds``, None for nought.

    As ``claim.oldest_due`` tells it of all: what was refused counts from when that happened.
    """
    found = conn.exec_driver_sql(
        f"""with recursive {NAMES}
        select r.rank, max(greatest(extract(epoch from now() - greatest(d.due_at, d.updated_at)), 0))::float8
        from names n cross join (values (0), (1), (2)) r(rank) cross join lateral (
            select due_at, updated_at from interactions
            where state in ('pending', 'releasing') and provider = n.provider and rank = r.rank
              and due_at <= now()
            order by due_at limit 1) d
        group by r.rank"""
    )
    oldest: dict[int, float] = dict(map(tuple, found))
    lanes = enumerate(("release", "live", "backlog"))
    return {lane: {"oldest_seconds": oldest.get(rank)} for rank, lane in lanes}


def running_imports(conn: Connection) -> list[dict[str, Any]]:
    """The imports that run, and those that ended in the last minutes, the newest first.

    ``silent``: not heard of for a while, as one whose process was killed. After a day it is told no more.
    """
    found = conn.exec_driver_sql(
        """select *, ended_at is null and age > make_interval(secs => %(silent)s) as silent from (
            select id, who, source, route, started_at, updated_at, ended_at, share, read, new, duplicate, rejected,
                outcome, clock_timestamp() - updated_at as age
            from imports order by id desc limit 5000) newest
        where age < make_interval(secs => case when ended_at is null then %(abandoned)s else %(recent)s end)
        order by id desc limit 100""",
        {"silent": SILENT, "abandoned": ABANDONED, "recent": RECENT},
    )
    return [{name: value for name, value in row.items() if name != "age"} for row in found.mappings()]


# --- rejections -------------------------------------------------------------------------------------


def rejected(conn: Connection, before: int | None = None, limit: int = 50) -> Sequence[dict[str, Any]]:
    """The newest rejected jobs with ids below one, without their content."""
    found = conn.exec_driver_sql(
        """select id, at, door, place, reason from rejections where id < %(before)s
        order by id desc limit %(limit)s""",
        {"before": _below(before), "limit": limit},
    )
    return [dict(row) for row in found.mappings()]


def rejection(conn: Connection, identity: int, *, words: bool) -> dict[str, Any] | None:
    """One rejected job, or None; ``job`` is what came, where words are allowed."""
    if not _is_id(identity):
        return None
    found = conn.exec_driver_sql(
        f"select id, at, door, place, reason{', job' if words else ''} from rejections where id = %(id)s",
        {"id": identity},
    )
    row = found.mappings().one_or_none()
    if row is None:
        return None
    return {**row, "job": bytes(row["job"])} if words else dict(row)
