"""Record jobs: the one way in, whatever the door.

Killed at any line: nothing of the batch is recorded, or all of it (one transaction a round). Whoever sent
the batch sends it again; jobs that were recorded are recognised by their requestid and change nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from worker.domain.job import printable
from worker.domain.lifecycle import FINAL, Interaction, State
from worker.domain.meeting import DUE, LEAVES_NO_MARK, Ask, Family, Met, Verdict, meet
from worker.store import rows
from worker.store.claim import Claim, Terms, claim_recorded
from worker.store.database import PATIENCE, Where, as_json, patience, patiently, transaction
from worker.store.fresh import record_fresh
from worker.store.rows import ENDED_ROW, OPEN_ROW

ROUNDS = 50
UNIQUE_VIOLATION = "23505"

Known = dict[str, tuple[str, str]]
_NEVER_SENT = frozenset((State.CANCELLED, State.ORPHANED))
_HOLD = "hold"  # the action of a requestid that is only known because a release waits for it


class CrowdedError(Exception):
    """Too many writers at the same externalids; the batch can be recorded again."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A job that can't be recorded, whole, with the reason."""

    job: bytes
    reason: str
    place: str = ""


def record(where: Where, asks: Sequence[Ask], *, grace: float) -> list[Met]:
    """Record jobs in their order and say what each came to, in the same order.

    Args:
        where: the database.
        asks: the jobs, a few thousand at most.
        grace: seconds that a release waits for its dispatch.

    Raises:
        sqlalchemy.exc.DBAPIError: the database was away for longer than ``PATIENCE``; nothing is recorded, or
            all of it, and the same asks can be recorded again.
    """
    return record_and_claim(where, asks, grace, None)[0]


def record_and_claim(
    where: Where, asks: Sequence[Ask], grace: float, terms: Terms | None
) -> tuple[list[Met], Claim | None]:
    """Record as ``record`` does; on these terms also claim, in the same transaction, what is to be sent at once."""
    if not asks:
        return [], None
    if terms is not None and isinstance(where, Connection):
        met = _meet_nothing(asks, grace)
        claim = record_fresh(where, [m.row for m in met if m.row], terms) if met else None
        if claim is not None:
            return met, claim
    return patiently(lambda: _rounds(where, asks, grace, terms), seconds=patience(where))


def _meet_nothing(asks: Sequence[Ask], grace: float) -> list[Met]:
    """What dispatches come to if nothing is known of them; empty where that is not the question."""
    families = {ask.job.externalid: Family(grace) for ask in asks}
    if len(families) < len(asks) or any(ask.job.action == "release" for ask in asks):
        return []
    return [meet(families[ask.job.externalid], ask) for ask in asks]


def _rounds(
    where: Where, asks: Sequence[Ask], grace: float, terms: Terms | None
) -> tuple[list[Met], Claim | None]:
    for _ in range(ROUNDS):
        try:
            with transaction(where) as conn:
                met = _once(conn, asks, grace)
                due = [m.row for m in met if m.verdict in DUE and m.row is not None]
                return met, claim_recorded(conn, due, terms) if terms and due else None
        except _TakenError:
            continue
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != UNIQUE_VIOLATION:
                raise
    raise CrowdedError(f"{len(asks)} jobs did not land in {ROUNDS} rounds: record them again")


class _TakenError(Exception):
    """Somebody else took one of our externalids or requestids first: look again, now that it can be seen."""


def _once(conn: Connection, asks: Sequence[Ask], grace: float) -> list[Met]:
    families = _families(conn, asks, grace)
    # after the lock: what somebody recorded a moment ago under the same requestids is a repeat, no duplicate
    known, held = _known(conn, asks)
    for family in families.values():
        family.held_routes = held
    before = {id(row) for family in families.values() for row in _members(family)}
    met = [_meet(families[ask.job.externalid], ask, known) for ask in asks]
    touched = {id(m.row): m.row for m in met if m.row is not None}
    for family in families.values():
        touched.update({id(row): row for row in _members(family)})
    rows.update(conn, [row for key, row in touched.items() if key in before])
    added = [row for family in families.values() for row in family.added]
    if not rows.insert(conn, added) or not _keep_receipts(conn, asks, met):
        raise _TakenError
    rows.remark(conn, [(m.row.id, m.verdict, m.detail) for m in met if m.row and m.row.id and m.detail])
    return met


def _members(family: Family) -> list[Interaction]:
    named = family.by_dispatch.values()
    return [row for row in (family.open, family.waiting, family.newest, *named) if row is not None]


def _meet(family: Family, ask: Ask, known: Known) -> Met:
    externalid, action = ask.job.externalid, ask.job.action
    was = known.get(ask.requestid)
    if was == (externalid, action):
        # a requestid of our own making can only be here because this very batch was recorded a moment ago
        return Met(Verdict.REPEATED if ask.known else Verdict.OPENED)
    if was == (externalid, _HOLD) and ask.requestid not in family.by_dispatch:
        raise _TakenError  # a release that waits for this dispatch was recorded just now
    if was is not None and was != (externalid, _HOLD):
        return Met(Verdict.REJECTED, None, "requestid: belongs to another job already; take a fresh one")
    named = ask.job.dispatch_requestid
    if named is not None and known.get(named, (externalid, _HOLD)) not in (
        (externalid, "dispatch"),
        (externalid, _HOLD),
    ):
        return Met(Verdict.REJECTED, None, "dispatch_requestid: is not a dispatch of this externalid")
    known[ask.requestid] = (externalid, action)
    if named is not None and named not in family.by_dispatch:
        if known.get(named) == (
            externalid,
            "dispatch",
        ):  # it was a duplicate, or a retry took its place: the release is for what it joined
            ask = replace(ask, job=msgspec.structs.replace(ask.job, dispatch_requestid=None))
        else:
            known[named] = (externalid, _HOLD)
    return meet(family, ask)


def _known(conn: Connection, asks: Sequence[Ask]) -> tuple[Known, frozenset[str]]:
    """Which of the requestids have been here before, for which externalid and which action; which routes are held."""
    named = [ask.job.dispatch_requestid for ask in asks if ask.job.dispatch_requestid]
    found = conn.exec_driver_sql(
        """with asked as materialized (
            select distinct value as requestid from jsonb_array_elements_text(%(ids)s::jsonb))
        select a.requestid, x.externalid, x.action from asked a cross join lateral (
            (select externalid, case when state in ('awaiting_dispatch', 'orphaned') then 'hold' else 'dispatch' end
                as action
             from interactions where dispatch_requestid = a.requestid limit 1)
            union all
            (select externalid, 'release' from interactions where release_requestid = a.requestid limit 1)
            union all
            (select externalid, action from receipts r where r.requestid = a.requestid limit 1)) x
        union all select null, route, null from routes where held_at is not null""",
        {"ids": as_json([*(ask.requestid for ask in asks), *named])},
    )
    known: Known = {}
    held = set()
    for requestid, name, action in found:
        if requestid is None:
            held.add(name)
        else:
            known[requestid] = (name, action)
    return known, frozenset(held)


def _families(conn: Connection, asks: Sequence[Ask], grace: float) -> dict[str, Family]:
    """Lock what the jobs can meet, and sort it by externalid.

    Each look-up is lateral with a limit, so that it stays an index look-up a job whatever the planner believes
    about the table; ordered by ``id + 0``, since by ``id`` it might walk the primary key backwards instead.
    """
    families = {ask.job.externalid: Family(grace) for ask in asks}
    requestids = [ask.job.dispatch_requestid or ask.requestid for ask in asks]
    locked = rows.lock(
        conn,
        f"""with asked as materialized (
            select distinct value as externalid from jsonb_array_elements_text(%(externalids)s::jsonb)),
        named as materialized (
            select distinct value as requestid from jsonb_array_elements_text(%(requestids)s::jsonb))
        select x.id from asked a cross join lateral (
            (select id from interactions where externalid = a.externalid and {OPEN_ROW} limit 1)
            union all
            (select id from interactions where externalid = a.externalid and state = 'waiting' limit 1)
            union all
            (select e.id from (
                select id, state from interactions where externalid = a.externalid and {ENDED_ROW}
                  and state <> 'awaiting_dispatch' order by id + 0 desc limit 1) newest
             cross join lateral (
                select newest.id union all
                (select id from interactions where newest.state in ('cancelled', 'orphaned')
                   and externalid = a.externalid and {ENDED_ROW}
                   and state not in ('awaiting_dispatch', 'cancelled', 'orphaned')
                 order by id + 0 desc limit 1)) e)) x
        union all
        select x.id from named n cross join lateral (
            select id from interactions where dispatch_requestid = n.requestid limit 1) x""",
        {"externalids": as_json(list(families)), "requestids": as_json(requestids)},
    )
    for row in locked:
        _place(families, row)
    return families


def _place(families: dict[str, Family], row: Interaction) -> None:
    family = families.get(row.externalid)
    if family is None:
        return
    if row.dispatch_requestid is not None:
        family.by_dispatch[row.dispatch_requestid] = row
    if row.state is State.WAITING:
        family.waiting = row
    elif row.state in FINAL:
        # they come in the order of their ids; what never reached the API hides nothing that VCC may hold
        if not (row.state in _NEVER_SENT and family.newest is not None and family.newest.leftover):
            family.newest = row
    elif not row.is_hold:
        family.open = row


def _keep_receipts(conn: Connection, asks: Sequence[Ask], met: Sequence[Met]) -> bool:
    """Remember the requestids that no row carries; False if one of them was used by somebody else meanwhile."""
    receipts = [
        (ask.requestid, ask.job.externalid, ask.job.action)
        for ask, m in zip(asks, met, strict=True)
        if ask.known and m.verdict in LEAVES_NO_MARK
    ]
    receipts += [(m.replaced, m.row.externalid, "release") for m in met if m.replaced and m.row]
    return keep_receipts(conn, receipts)


def keep_receipts(conn: Connection, receipts: Sequence[tuple[str, str, str]]) -> bool:
    """Insert receipts (requestid, externalid, action); False if one was there already."""
    if not receipts:
        return True
    landed = conn.exec_driver_sql(
        """insert into receipts (requestid, externalid, action)
        select e->>0, e->>1, e->>2 from jsonb_array_elements(%(receipts)s::jsonb) e order by 1
        on conflict do nothing""",
        {"receipts": as_json(receipts)},
    ).rowcount
    return landed == len(receipts)


def reject(where: Where, door: str, rejections: Sequence[Rejection], *, seconds: float = PATIENCE) -> None:
    """Keep jobs that can't be recorded, whole, where an operator can see them; waits so long for the database."""
    if rejections:
        patiently(lambda: _reject(where, door, rejections), seconds=patience(where, seconds))


def _reject(where: Where, door: str, rejections: Sequence[Rejection]) -> None:
    with transaction(where) as conn:
        conn.exec_driver_sql(
            # once, however often its message, entry or row comes again
            """insert into rejections (door, place, reason, job)
            select %(door)s, %(place)s::text, %(reason)s, %(job)s::bytea
            where %(place)s::text = '' or not exists (select from rejections
                where place <> '' and door = %(door)s and place = %(place)s and job = %(job)s)""",
            [
                {"door": door, "place": printable(r.place), "reason": printable(r.reason), "job": r.job}
                for r in rejections
            ],
        )
