"""Take a customer's words out of all that is recorded about an externalid, and keep the skeleton.

Words are what a job brought beside its ids, its route and its provider; what the API said of it, for it may have
repeated them; and rejected jobs. Which interactions there were, when, and what came of them stays.

One transaction: killed at any line, nothing happened, or all. Locks as everywhere: the invocations, the rows by id.
Nothing is taken from what is still to be sent, or may be under way.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine

from worker.domain.lifecycle import Interaction, State
from worker.store import audit, rows
from worker.store.record import ROUNDS, CrowdedError
from worker.store.rows import ENDED_ROW, OPEN_ROW

TO_BE_SENT = frozenset((State.PENDING, State.WAITING))

_IDS = " union all ".join(
    f"select id from interactions where externalid = %(externalid)s and {arm}"
    for arm in (OPEN_ROW, "state = 'waiting'", ENDED_ROW)
)


class StillNeededError(Exception):
    """The words are still needed, or can still come back; the text says what to do first."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was erased.

    Attributes:
        known: how many lifecycles there are, and rejected jobs that named the externalid.
        lifecycles: those whose words were erased.
        calls: whose answer was erased, and
        others: how many other interactions those calls carried.
        rejections: rejected jobs that were deleted.
        mentions: numbers of rejected jobs that only mention the externalid, or name others too: they stay.
    """

    known: int = 0
    lifecycles: int = 0
    calls: int = 0
    others: int = 0
    rejections: int = 0
    mentions: tuple[int, ...] = ()

    @property
    def anything(self) -> bool:
        """Whether there was anything to erase."""
        return bool(self.lifecycles or self.calls or self.rejections)

    @property
    def sentence(self) -> str:
        """The same for people."""
        shared = f" (which carried {self.others:,} others too)" if self.others else ""
        return (
            f"{self.lifecycles:,} lifecycles, the answers to {self.calls:,} calls{shared}, "
            f"{self.rejections:,} rejected jobs"
        )


def forget(engine: Engine, externalid: str, who: str, *, really: bool = True) -> Forgotten:
    """Erase the words; once more changes nothing.

    Args:
        engine: the database.
        externalid: whose words go.
        who: for the audit.
        really: otherwise tell what would be erased.

    Raises:
        StillNeededError: a job is still to be taken in, a dispatch to be sent, or a call to be settled.
        CrowdedError: others keep changing the same interactions.
    """
    for _ in range(ROUNDS):
        with engine.connect() as conn:
            found = _forget(conn, externalid, who)
            if found is not None:
                (conn.commit if really else conn.rollback)()
                return found
    raise CrowdedError("others keep changing the same interactions: forget them again later")


def _forget(conn: Connection, externalid: str, who: str) -> Forgotten | None:
    """Erase; None, and nothing to be committed, where something moved before it was locked."""
    conn.exec_driver_sql("set local statement_timeout = 0")  # rejections have no index of what they hold
    ids = _ids(conn, externalid)
    calls = _lock_calls(conn, ids)
    carried = _carried(conn, list(calls))
    locked = rows.lock(conn, "select unnest(%(ids)s::bigint[])", {"ids": sorted({*ids, *carried})})
    found = [row for row in locked if row.id in ids]
    if _ids(conn, externalid) != ids or _lock_calls(conn, ids) != calls:
        return None
    _refuse(conn, externalid, found, any(outcome is None for outcome in calls.values()))
    named, mentions = _rejections(conn, externalid)
    erased = Forgotten(
        known=len(ids) + len(named),
        lifecycles=_erase_rows(conn, found),
        **_erase_answers(conn, ids, list(calls), carried),
        rejections=len(named),
        mentions=tuple(mentions),
    )
    conn.exec_driver_sql("delete from rejections where id = any (%(ids)s::bigint[])", {"ids": named})
    if erased.anything:
        audit.note(conn, who, "forget", f"{externalid}: {erased.sentence}")
    return erased


def _ids(conn: Connection, externalid: str) -> list[int]:
    return sorted(conn.exec_driver_sql(_IDS, {"externalid": externalid}).scalars())


def _lock_calls(conn: Connection, ids: Sequence[int]) -> dict[int, str | None]:
    """Lock the calls that carried these rows; their outcomes."""
    found = conn.exec_driver_sql(
        "select id, outcome from invocations where ids && %(ids)s::bigint[] order by id for update",
        {"ids": list(ids)},
    )
    return dict(map(tuple, found))


def _carried(conn: Connection, calls: Sequence[int]) -> list[int]:
    """All rows that the calls carried: what the API said of one stands beside the others too."""
    return list(
        conn.exec_driver_sql(
            "select distinct unnest(ids) from invocations where id = any (%(calls)s::bigint[])",
            {"calls": list(calls)},
        ).scalars()
    )


def _refuse(conn: Connection, externalid: str, found: Sequence[Interaction], under_way: bool) -> None:
    if under_way or any(row.call is not None for row in found):
        raise StillNeededError("a call that carries it is under way: wait until it is settled")
    if any(row.state in TO_BE_SENT for row in found):
        raise StillNeededError(
            "it is still to be dispatched: `vcc release` it first, or wait until it was sent"
        )
    if conn.exec_driver_sql(
        "select exists (select from inbox where job->>'externalid' = %(externalid)s)",
        {"externalid": externalid},
    ).scalar_one():
        raise StillNeededError("a job about it is still in the inbox: wait until a worker has taken it in")


def _erase_rows(conn: Connection, found: Sequence[Interaction]) -> int:
    """Erase what the rows hold; a release that waits for its dispatch holds nothing, and gets its words with that."""
    erased = conn.exec_driver_sql(
        """update interactions set request = '{}', last_error = null, forgotten_at = now()
        where id = any (%(ids)s::bigint[]) and state <> 'awaiting_dispatch'
          and (forgotten_at is null or request <> '{}' or last_error is not null)
        returning id""",
        {"ids": [row.id for row in found]},
    ).scalars()
    told = [(number, "forgotten", "an operator had the customer's words erased") for number in erased]
    rows.remark(conn, told)
    return len(told)


def _erase_answers(
    conn: Connection, ids: Sequence[int], calls: Sequence[int], carried: Sequence[int]
) -> dict[str, int]:
    """Erase what the API said to calls that carried the rows, to whomever it was; and where else it was noted.

    A message that another row of such a call, a route, a provider or the valve shows is cleared where it came of one.
    """
    errors = conn.exec_driver_sql(
        """select distinct error from invocations
        where id = any (%(calls)s::bigint[]) and error is not null and outcome <> 'lost'""",
        {"calls": list(calls)},
    )
    params = {
        "calls": list(calls),
        "ids": list(ids),
        "errors": list(errors.scalars()),
        "carried": list(carried),
    }
    row = conn.exec_driver_sql(
        """with erased as (
            update invocations set answer = null, error = case outcome when 'lost' then error end
            where id = any (%(calls)s::bigint[])
              and (answer is not null or (error is not null and outcome <> 'lost'))
            returning ids)
        select count(*) as calls, (select count(distinct other) from erased e, unnest(e.ids) other
            where other <> all (%(ids)s::bigint[])) as others from erased""",
        params,
    ).one()
    conn.exec_driver_sql(
        """update interactions set last_error = null
        where id = any (%(carried)s::bigint[]) and last_error = any (%(errors)s::text[])""",
        params,
    )
    for table in ("routes", "providers", "gate"):
        conn.exec_driver_sql(
            f"update {table} set message = null where message = any (%(errors)s::text[])", params
        )
    return dict(row._mapping)


# --- rejected jobs --------------------------------------------------------------------------------


def _rejections(conn: Connection, externalid: str) -> tuple[list[int], list[int]]:
    """Rejected jobs that are about the externalid and no other; and those that only mention it."""
    spelled = {externalid, *(json.dumps(externalid, ensure_ascii=plain)[1:-1] for plain in (True, False))}
    found: Any = conn.exec_driver_sql(
        """select id, job from rejections where exists (
            select from unnest(%(spelled)s::bytea[]) one where position(one in job) > 0) order by id""",
        {"spelled": [one.encode() for one in spelled]},
    )
    alone = re.compile(
        rb"(?<![0-9A-Za-z])(?:" + b"|".join(re.escape(one.encode()) for one in spelled) + rb")(?![0-9A-Za-z])"
    )
    named: list[int] = []
    mentions: list[int] = []
    for number, job in found:
        if set(externalids(job)) == {externalid}:
            named.append(number)
        elif alone.search(job):
            mentions.append(number)
    return named, mentions


def externalids(job: bytes) -> Iterator[str]:
    """Whom a rejected job names, as far as it can be read: as JSON, or as an email.

    >>> list(externalids(b'{"kwargs": {"externalid": "e"}}'))
    ['e']
    """
    try:
        yield from _members(msgspec.json.decode(job))
    except (msgspec.DecodeError, RecursionError):
        text = job.decode(errors="replace")
        for told in re.findall(r'"externalid"\s*:\s*("(?:[^"\\]|\\.)*")', text):
            yield _unquoted(told)
        yield from re.findall(r"(?im)^message-id:\s*<([^>\r\n]*)>", text)


def _members(value: Any) -> Iterator[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if isinstance(value, dict) and isinstance(name := value.get("externalid"), str):
        yield name
    for one in inner:
        yield from _members(one)


def _unquoted(text: str) -> str:
    try:
        return str(msgspec.json.decode(text))
    except msgspec.DecodeError:
        return text[1:-1]
