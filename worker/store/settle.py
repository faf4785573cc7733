"""Settle: write what a call came to, once.

Killed before the commit: nothing is written, the rows come back by their lease and the API drops the repeat.
Killed after it, or asked twice: the invocation has its outcome, and the second settle does nothing.

Locks are taken in one order everywhere: the invocation, its rows by id, the route, the valve.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import random
from typing import Any

from sqlalchemy import Connection, Engine

from worker.domain.backoff import backoff
from worker.domain.lifecycle import KEPT, NOW, Interaction, State
from worker.domain.outcome import (
    Accepted,
    Forbidden,
    Misdirected,
    NotSent,
    Outcome,
    Refused,
    Throttled,
    Unauthorised,
    Unknown,
)
from worker.domain.settlement import HOLD_AFTER, Circumstances, settle_row
from worker.store import gate, rows
from worker.store.claim import Claim
from worker.store.database import as_json, patiently
from worker.store.gate import Passage
from worker.store.rows import OPEN_ROW

LATELY = 600.0
"""Seconds in which an accepted call shows that the address and the account are right."""

RECENT = 1000
"""How many calls back the question is answered whether others succeed."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The settings that a settle needs: seconds, and calls per second."""

    give_up_after: float
    rate: float | None = None


def settle(
    engine: Engine, claim: Claim, passage: Passage, outcome: Outcome, size: int, bounds: Bounds
) -> bool:
    """Write the outcome of a call: its record, its rows, the route, the valve; in one transaction.

    Args:
        engine: the database; waited for while it is away.
        claim: what was sent.
        passage: how the valve was passed.
        outcome: what came of it.
        size: bytes of the body.
        bounds: the settings that count here.

    Returns:
        Whether that made something due at once: a remembered release, a waiting dispatch, rows of a refused call.
    """
    if isinstance(outcome, Accepted) and not passage.ailing:
        started = patiently(lambda: _settle_accepted(engine, claim, outcome, size))
        if started is not None:
            return started
    return patiently(lambda: _settle(engine, claim, passage, outcome, size, bounds))


def _settle_accepted(engine: Engine, claim: Claim, outcome: Accepted, size: int) -> bool | None:
    """Write the common case, every row still in flight by this call and nothing remembered, in one statement.

    Returns:
        Whether a waiting dispatch was started; None, and nothing written, where any row asks for a decision.
    """
    with engine.connect() as conn:
        written = conn.exec_driver_sql(
            SETTLE_ACCEPTED,
            {
                **_record(claim.call, outcome, size),
                # in the order in which everybody locks rows: the index is read by ascending id
                "ids": sorted(row.id for row in claim.rows),
                "routes": list({row.route for row in claim.rows if row.action == "dispatch"}),
                "provider": claim.provider,
            },
        ).scalar_one()
        if written != len(claim.rows):
            return None
        released = [row.externalid for row in claim.rows if row.action == "release"]
        started = rows.start_waiting(conn, [(externalid, False) for externalid in released])
        conn.commit()
        return started > 0


def _settle(
    engine: Engine, claim: Claim, passage: Passage, outcome: Outcome, size: int, bounds: Bounds
) -> bool:
    with engine.begin() as conn:
        if not _close_record(conn, claim.call, outcome, size):
            return False
        found = _lock(conn, claim)
        held = _count_refusal(conn, claim, found, outcome)
        about = _circumstances(conn, claim, found, outcome, bounds, held)
        sent = {row.id: (row.action, row.requestid) for row in claim.rows}
        for row in found:
            settle_row(row, sent[row.id or 0], outcome, about)
        left = _write(conn, found)
        _move_valve(conn, claim, passage, outcome, bounds)
        return left


CLOSE_RECORD = """
    update invocations set outcome = %(outcome)s, status = %(status)s, error = %(error)s,
        answer = %(answer)s, seconds = %(seconds)s, bytes = %(bytes)s
    where id = %(call)s and coalesce(outcome, 'lost') = 'lost'
"""

CALM_ROUTES = """
    update routes set refused = 0, refused_since = null, message = null
    where refused > 0 and held_at is null and route = any (%(routes)s::text[])
"""

OPEN_PROVIDER = "delete from providers where provider = %(provider)s"

# The fence says it all: a row that this call has in flight is in the state, and under the requestid, that was sent.
SETTLE_ACCEPTED = f"""
with closed as ({CLOSE_RECORD} returning id),
done as (
    update interactions i set
        state = case i.state when 'pending' then 'dispatched' else 'released' end::interaction_state,
        due_at = null, call = null, unsure = '{{}}', cap = null, first_sent_at = null, last_error = null,
        reason = null, updated_at = clock_timestamp(),
        dispatched_at = case i.state when 'pending' then now() else i.dispatched_at end,
        released_at = case i.state when 'releasing' then now() else i.released_at end
    from closed where i.id = any (%(ids)s::bigint[]) and i.call = %(call)s
        and (i.state = 'releasing' or i.state = 'pending' and i.release_requestid is null)
    returning 1
),
calm as ({CALM_ROUTES}), open as ({OPEN_PROVIDER})
select count(*) from done
"""


def _record(call: int, outcome: Outcome, size: int) -> dict[str, Any]:
    answer = outcome.answer
    return {
        "call": call,
        "outcome": outcome.name,
        "status": answer.status,
        "error": answer.error,
        "answer": answer.body.replace("\0", "\ufffd") or None,
        "seconds": answer.seconds,
        "bytes": size,
    }


def _close_record(conn: Connection, call: int, outcome: Outcome, size: int) -> bool:
    """Give the invocation its outcome; False if it has one already."""
    return bool(conn.exec_driver_sql(CLOSE_RECORD, _record(call, outcome, size)).rowcount)


def _lock(conn: Connection, claim: Claim) -> list[Interaction]:
    return rows.lock(conn, "select unnest(%(ids)s::bigint[])", {"ids": [row.id for row in claim.rows]})


def _circumstances(
    conn: Connection,
    claim: Claim,
    found: Sequence[Interaction],
    outcome: Outcome,
    bounds: Bounds,
    held: frozenset[str],
) -> Circumstances:
    attempts = max((row.attempts for row in found), default=1)
    return Circumstances(
        call=claim.call,
        size=len(claim.rows),
        give_up_after=bounds.give_up_after,
        wait=backoff(attempts, random()),  # noqa: S311 -- jitter
        others_succeed=_others_succeed(conn, found, outcome),
        held_routes=held,
        taken=_taken(conn, found) if isinstance(outcome, Accepted) else frozenset(),
    )


def _others_succeed(conn: Connection, found: Sequence[Interaction], outcome: Outcome) -> bool:
    if isinstance(outcome, Unknown):
        longest = max((row.sent_for or 0 for row in found), default=0)
    elif isinstance(outcome, Misdirected | Forbidden):
        longest = LATELY
    else:
        return False
    return _accepted_within(conn, "now() - %(since)s * interval '1 second'", {"since": longest})


def _accepted_within(conn: Connection, since: str, params: dict[str, object]) -> bool:
    return bool(
        conn.exec_driver_sql(
            f"""select exists (select from (
                select outcome, started_at, seconds from invocations order by id desc limit {RECENT}) i
            where outcome = 'accepted' and started_at + seconds * interval '1 second' >= {since})""",
            params,
        ).scalar_one()
    )


def _taken(conn: Connection, found: Sequence[Interaction]) -> frozenset[str]:
    """Externalids of failed rows whose place a newer lifecycle has taken; that one is told what VCC may hold."""
    failed = [row.externalid for row in found if row.state is State.FAILED]
    if not failed:
        return frozenset()
    return frozenset(
        conn.exec_driver_sql(
            f"""update interactions set may_hold = true
            where {OPEN_ROW} and externalid in (select jsonb_array_elements_text(%(failed)s::jsonb))
            returning externalid""",
            {"failed": as_json(failed)},
        ).scalars()
    )


def _write(conn: Connection, found: Sequence[Interaction]) -> bool:
    rows.update(conn, found)
    started = rows.start_waiting(conn, rows.endings(found))
    return started > 0 or any(_is_due(row) for row in found)


def _is_due(row: Interaction) -> bool:
    """Whether this settle made the row due, now or ahead of the rest."""
    return row.state in (State.PENDING, State.RELEASING) and row.due is not None and KEPT < row.due <= NOW


# --- routes -------------------------------------------------------------------------------------


def _count_refusal(
    conn: Connection, claim: Claim, found: Sequence[Interaction], outcome: Outcome
) -> frozenset[str]:
    """Count single dispatches refused in a row on a route; returns the routes that are held.

    The route's row makes settles wait for each other here, so that no more than ``HOLD_AFTER`` rows fail.
    """
    if not isinstance(outcome, Refused):
        return frozenset()
    held = set(conn.exec_driver_sql("select route from routes where held_at is not null").scalars())
    single = found[0] if len(claim.rows) == 1 and found else None
    if single is None or single.state is not State.PENDING or single.call != claim.call:
        return frozenset(held)
    was_held = conn.exec_driver_sql(
        """insert into routes (route, refused, refused_since, message) values (%(route)s, 1, now(), %(message)s)
        on conflict (route) do update set refused = routes.refused + 1, message = excluded.message,
            refused_since = coalesce(routes.refused_since, now())
        returning held_at is not null""",
        {"route": single.route, "message": outcome.answer.error},
    ).scalar_one()
    return frozenset({*held, single.route or ""}) if was_held else frozenset(held)


def _hold_route(conn: Connection, passage: Passage) -> None:
    """Hold the route whose count is full: its rows wait until an operator lets them go.

    Rows that somebody has locked are skipped, lest two settles wait for each other: refused once more, they
    find the route held.
    """
    full = conn.exec_driver_sql(
        """update routes set held_at = now() where held_at is null and refused >= %(most)s
        returning route, refused_since, message""",
        {"most": HOLD_AFTER},
    ).all()
    for route, since, message in full:
        park(conn, route)
        if not _accepted_within(conn, "%(since)s", {"since": since}):
            gate.close(conn, passage.epoch, "misconfigured", message, wait=1.0)


def park(conn: Connection, route: str) -> None:
    """Let a held route's rows wait for ever; those in flight are left to their settle.

    A row whose release is remembered goes on: that release must not wait for the operator too.
    """
    conn.exec_driver_sql("set local statement_timeout = 0")
    conn.exec_driver_sql(
        """update interactions set due_at = 'infinity', updated_at = clock_timestamp() where id in (
            select id from interactions where state = 'pending' and call is null and route = %(route)s
              and due_at < 'infinity' and release_requestid is null order by id for update skip locked)""",
        {"route": route},
    )


def _accepted_route(conn: Connection, claim: Claim) -> None:
    dispatched = {row.route for row in claim.rows if row.route and row.action == "dispatch"}
    conn.exec_driver_sql(CALM_ROUTES, {"routes": list(dispatched)})
    conn.exec_driver_sql(OPEN_PROVIDER, {"provider": claim.provider})


# --- the valve ----------------------------------------------------------------------------------

REASONS: dict[type[Outcome], str] = {
    Throttled: "throttled",
    Unauthorised: "unauthorised",
    Misdirected: "misconfigured",
    NotSent: "unreachable",
    Unknown: "unreachable",
}


def _move_valve(conn: Connection, claim: Claim, passage: Passage, outcome: Outcome, bounds: Bounds) -> None:
    if isinstance(outcome, Accepted):
        _accepted_route(conn, claim)
    if isinstance(outcome, Forbidden):
        _close_provider(conn, claim.provider, outcome.answer.error)
    if reason := REASONS.get(type(outcome)):
        _close_valve(conn, passage, outcome, reason)
    elif passage.ailing:
        gate.mend(conn, passage, bounds.rate)
    if isinstance(outcome, Refused):
        _hold_route(conn, passage)


def _close_valve(conn: Connection, passage: Passage, outcome: Outcome, reason: str) -> None:
    if isinstance(outcome, Throttled):
        gate.slow_down(conn, passage.epoch)
    gate.close(
        conn,
        passage.epoch,
        reason,
        outcome.answer.error,
        wait=backoff(1, random()),  # noqa: S311 -- jitter
        at_least=outcome.answer.retry_after or None,  # "at once" would be a loop
    )


def _close_provider(conn: Connection, provider: str, message: str | None) -> None:
    """Leave this provider's rows alone for a while: half a minute, doubled up to eight."""
    conn.exec_driver_sql(
        """insert into providers (provider, closed_until, failures, message)
        values (%(provider)s, now() + interval '30 seconds', 1, %(message)s)
        on conflict (provider) do update set failures = providers.failures + 1, message = excluded.message,
            closed_until = now() + interval '30 seconds' * power(2, least(providers.failures, 4))""",
        {"provider": provider, "message": message},
    )
