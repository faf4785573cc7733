"""How Postgres reads: the statements that an engine is given, and which of them would read a large table as a whole."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import current_thread
from typing import Any

from sqlalchemy import Engine, event

LARGE = frozenset(
    "interactions invocations events receipts tallies rejections audit".split()
)  # what grows with what is done
_PLANNED = ("select", "with", "insert", "update", "delete")
_SCANS = ("Index Scan", "Index Only Scan", "Bitmap Index Scan")
_READ_ON = (
    "Sort",
    "Incremental Sort",
    "Aggregate",
    "WindowAgg",
    "Hash",
    "Materialize",
    "BitmapOr",
    "BitmapAnd",
)
"""What asks for all rows below it, however few are wanted above."""


@dataclass(slots=True)
class Asked:
    """What was asked.

    Attributes:
        statements: each, with its plan the first time.
    """

    statements: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def whole(self) -> dict[str, list[str]]:
        """The statements that read a large table as a whole, with what does it."""
        found = {statement: list(whole_scans(plan)) for statement, plan in self.statements.items()}
        return {statement: scans for statement, scans in found.items() if scans}


@contextmanager
def asked(engine: Engine) -> Iterator[Asked]:
    """Write down what an engine is asked meanwhile; each statement is planned where and as it is asked."""
    told = Asked()

    def listen(_conn: Any, cursor: Any, statement: str, params: Any, *_rest: Any) -> None:
        if current_thread().name == "census":  # the one that reads all there is, and nobody waits for
            return
        if statement not in told.statements and statement.lstrip(" \n(").lower().startswith(_PLANNED):
            with cursor.connection.cursor() as other:
                found = other.execute(f"explain (format json) {statement}", params or None).fetchone()
            told.statements[statement] = found[0][0]["Plan"]

    event.listen(engine, "before_cursor_execute", listen)
    try:
        yield told
    finally:
        event.remove(engine, "before_cursor_execute", listen)


def whole_scans(plan: Mapping[str, Any], table: str = "", *, limited: bool = False) -> Iterator[str]:
    """Name the scans of a plan that read a large table, or an index of it, to its end.

    That is a sequential scan, and one of an index that has no condition and no limit to how much is wanted of it.
    """
    kind, table = plan["Node Type"], plan.get("Relation Name", table)
    limited = kind == "Limit" or (limited and kind not in _READ_ON)
    if table in LARGE and (
        kind == "Seq Scan" or (kind in _SCANS and "Index Cond" not in plan and not limited)
    ):
        yield f"{kind} on {table} {plan.get('Index Name', '')}".rstrip()
    for part in plan.get("Plans", ()):
        yield from whole_scans(part, table if "Bitmap" in kind else "", limited=limited)
