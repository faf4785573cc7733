"""The whole at a glance without counting: what can be asked every second, however many interactions there are."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection

from worker.store import browse, gate, tallies


def glance(conn: Connection) -> dict[str, Any]:
    """Tell what ``queries.stats`` tells and nobody has to count, in the same shape.

    And by lane how long the oldest has been due, and the imports.
    """
    oldest = {lane: of["oldest_seconds"] for lane, of in browse.due_by_lane(conn).items()}
    return {
        "oldest_due_seconds": max(
            (seconds for seconds in oldest.values() if seconds is not None), default=None
        ),
        "oldest_due": oldest,
        **stuck(conn),
        "invocations": _calls(conn),
        "imports": browse.running_imports(conn),
    }


def stuck(conn: Connection) -> dict[str, Any]:
    """Tell whether the valve is open, and what else is held, with the API's words."""
    held = conn.exec_driver_sql("select route, message from routes where held_at is not null order by 1")
    closed = conn.exec_driver_sql(
        "select provider, message from providers where closed_until > now() order by 1"
    )
    return {
        "gate": asdict(gate.read(conn)),
        "held_routes": dict(map(tuple, held)),
        "held_providers": dict(map(tuple, closed)),
    }


def _calls(conn: Connection) -> dict[str, int]:
    """Calls since ever, pruned ones too; without those that never left."""
    ever = tallies.totals(conn)
    made = [total for outcome, total in ever.items() if outcome not in ("not_sent", "lost")]
    accepted = ever.get("accepted")
    return {
        "calls": sum(total.calls for total in made),
        "accepted": accepted.calls if accepted else 0,
        "interactions": accepted.interactions if accepted else 0,
    }
