"""What an operator's word changes: given-up rows are tried again, a held route is let go."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from worker.domain import lifecycle as life
from worker.domain.requestid import new_requestid
from worker.store import rows
from worker.store.database import as_json
from worker.store.record import ROUNDS, UNIQUE_VIOLATION, CrowdedError, keep_receipts
from worker.store.rows import ENDED_ROW, OPEN_ROW

BATCH = 1000

SENT_SINCE = """state not in ('awaiting_dispatch', 'orphaned')
    and not (state = 'cancelled' and i.state = 'release_failed')"""
"""What makes a given-up row history; what never reached the API does not make a release that failed so."""


@dataclass(frozen=True, slots=True)
class Which:
    """The given-up rows that are meant; what is None does not narrow.

    Attributes:
        error: text that ``last_error`` holds, in upper case or lower.
        ids: the lifecycles' own.
        created_after: this time too.
        created_before: up to, and without, this time.
        updated_before: given up before this time, and not touched since.
    """

    state: str = "failed"
    route: str | None = None
    externalids: Sequence[str] | None = None
    provider: str | None = None
    lane: str | None = None
    error: str | None = None
    ids: Sequence[int] | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_before: datetime | None = None

    def where(self) -> tuple[str, dict[str, Any]]:
        """The SQL condition and its parameters.

        Only the newest lifecycle of an externalid is ever meant, and none whose words were taken out of it: there is
        nothing left to send.
        """
        texts = (self.route, self.provider, self.lane, self.error, *(self.externalids or ()))
        if self.state not in _GIVEN_UP or any("\0" in text for text in texts if text is not None):
            return "false", {}
        given = {name: value for name in _CONDITIONS if (value := getattr(self, name)) is not None}
        params: dict[str, Any] = {
            name: as_json(_listed(value)) if name in ("externalids", "ids") else value
            for name, value in given.items()
        }
        sql = " and ".join(
            [
                "i.forgotten_at is null",
                *(_CONDITIONS[name] for name in given),
            ]
        )
        # arm by arm, as the partial indexes are; an older lifecycle may have come to life again
        for arm in (OPEN_ROW, "state = 'waiting'", f"{ENDED_ROW} and id > i.id and {SENT_SINCE}"):
            sql += f" and not exists (select from interactions where externalid = i.externalid and {arm})"
        return sql, params


def _listed(values: Sequence[str] | Sequence[int]) -> list[str | int]:
    """The values, without numbers that are no id."""
    return [value for value in values if isinstance(value, str) or 0 < value < 2**63]


_GIVEN_UP = ("failed", "release_failed")
_CONDITIONS = {
    "state": "i.state = %(state)s::interaction_state",
    "externalids": "i.externalid in (select jsonb_array_elements_text(%(externalids)s::jsonb))",
    "ids": "i.id = any (array(select jsonb_array_elements_text(%(ids)s::jsonb)::bigint))",
    # coalesce, or the index of all that have an error might be taken for that of the given-up ones
    "error": "strpos(lower(coalesce(i.last_error, '')), lower(%(error)s)) > 0",
    "created_after": "i.created_at >= %(created_after)s",
    "created_before": "i.created_at < %(created_before)s",
    "updated_before": "i.updated_at < %(updated_before)s",
    **{name: f"i.{name} = %({name})s" for name in ("route", "provider", "lane")},
}


def count(conn: Connection, which: Which) -> int:
    """How many rows a retry would take up."""
    where, params = which.where()
    return int(
        conn.exec_driver_sql(f"select count(*) from interactions i where {where}", params).scalar_one()
    )


def retry(engine: Engine, which: Which) -> int:
    """Try the rows again; returns how many. Killed in between, those of the committed batches are under way.

    By id, upwards: what is refused once more while this goes on is not taken up again.
    """
    total = after = 0
    while True:
        done, after = _attempt(engine, which, after)
        if not after:
            return total
        total += done


def _attempt(engine: Engine, which: Which, after: int) -> tuple[int, int]:
    """Retry a batch; should a new lifecycle take an externalid at this very moment, look again."""
    for _ in range(ROUNDS):
        try:
            return _batch(engine, which, after)
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != UNIQUE_VIOLATION:
                raise
    raise CrowdedError("others keep opening new lifecycles of the same externalids: try again later")


def _batch(engine: Engine, which: Which, after: int) -> tuple[int, int]:
    """Retry the next rows past an id; how many, and the last one's id, 0 past the end."""
    where, params = which.where()
    with engine.begin() as conn:
        found = rows.lock(
            conn,
            f"select i.id from interactions i where {where} and i.id > %(after)s order by i.id limit {BATCH}",
            {**params, "after": after},
            request=True,
        )
        last = max((row.id or 0 for row in found), default=0)
        forgotten = _forgotten(conn, [row.id or 0 for row in found])
        found = [row for row in found if row.state == which.state and row.id not in forgotten]
        replaced = [(life.retry(row, new_requestid()), row) for row in found]
        rows.update(conn, found)
        keep_receipts(conn, [(old, row.externalid, row.action) for old, row in replaced if old is not None])
        rows.remark(conn, [(row.id or 0, "retried", "by an operator") for row in found])
        return len(found), last


def _forgotten(conn: Connection, ids: Sequence[int]) -> set[int]:
    """Of rows that are locked by now, those whose words were taken out while the lock was waited for."""
    return set(
        conn.exec_driver_sql(
            "select id from interactions where id = any (%(ids)s::bigint[]) and forgotten_at is not null",
            {"ids": list(ids)},
        ).scalars()
    )


def let_go(conn: Connection, route: str) -> int | None:
    """Let a held route's rows go; returns how many, or None where the route is not held.

    A row that is just being parked by somebody who still saw the route held is let go by the next sweep.
    """
    conn.exec_driver_sql("set local statement_timeout = 0")
    held = conn.exec_driver_sql(
        "delete from routes where route = %(route)s and held_at is not null", {"route": route}
    ).rowcount
    if not held:
        return None
    return conn.exec_driver_sql(
        """update interactions set due_at = now(), updated_at = clock_timestamp()
        where state = 'pending' and due_at = 'infinity' and route = %(route)s""",
        {"route": route},
    ).rowcount
