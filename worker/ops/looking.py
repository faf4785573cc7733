"""``vcc show``, ``list``, ``rejections`` and ``stats``: what there is to see, and nothing changed."""

# ruff: noqa: PLC0415 - heavy modules are imported by the commands that need them
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.domain.lifecycle import State
from worker.ops import resources
from worker.ops.failures import CommandError, explain
from worker.ops.options import Json, Lane, Limit, readable
from worker.ops.overview import line, overview, watched
from worker.ops.printing import emit, plain, say, screen, table, tell

if TYPE_CHECKING:
    from redis import Redis
    from sqlalchemy import Engine

    from worker.ops.watching import Watch

WATCH_EVERY = 1.0
"""Seconds between two looks of ``vcc stats --watch``."""


def show(
    externalid: Annotated[str, typer.Argument(metavar="EXTERNALID", callback=readable)], as_json: Json = False
) -> None:
    """Show what happened to one externalid.

    Its lifecycles, each with its timeline, call by call.
    """
    from worker.store import queries

    with resources.opened() as (_, engine), engine.connect() as conn:
        found = queries.show(conn, externalid)
    if not found:
        raise CommandError(f"nothing is known of {plain(externalid)}: see `vcc list` and `vcc rejections`")
    if as_json:
        emit({"externalid": externalid, "lifecycles": found})
        return
    for lifecycle in found:
        _print_lifecycle(externalid, lifecycle)


def _print_lifecycle(externalid: str, found: dict[str, Any]) -> None:
    facts = "route provider lane attempts dispatch_requestid release_requestid last_error".split()
    tell(f"{plain(externalid)}: {found['state']}" + (f" ({found['reason']})" if found["reason"] else ""))
    tell(
        "".join(
            f"  {name}: {plain(found[name])}\n" for name in facts if found[name] not in (None, "")
        ).rstrip("\n")
    )
    rows = [(moment["at"], moment["event"], moment["detail"]) for moment in found["timeline"]]
    screen().print(table(["at", "event", "detail"], rows))
    tell("")


def listing(
    state: Annotated[State | None, typer.Option(help="Only those in this state.")] = None,
    route: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those of this route.", callback=readable)
    ] = None,
    lane: Annotated[Lane | None, typer.Option(help="Only those of this lane.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
) -> None:
    """List interactions, the newest first."""
    from worker.store import queries

    with resources.opened() as (_, engine), engine.connect() as conn:
        found = queries.listing(conn, state=state, route=route, lane=lane, limit=limit)
    columns = "externalid state route provider lane attempts due_at last_error created_at".split()
    _print_rows(found, columns, as_json=as_json, nothing="no such interaction")


def rejections(limit: Limit = 50, as_json: Json = False) -> None:
    """List jobs that could not be recorded.

    The newest first, each with where it stood and the reason.
    """
    from worker.store import queries

    with resources.opened() as (_, engine), engine.connect() as conn:
        found = queries.rejections(conn, limit)
    _print_rows(found, "id at door place reason".split(), as_json=as_json, nothing="nothing was rejected")


def _print_rows(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], *, as_json: bool, nothing: str
) -> None:
    if as_json:
        emit(rows)
    elif not rows:
        tell(nothing)
    else:
        headings = [column.removesuffix("_at").replace("_", " ") for column in columns]
        screen().print(table(headings, [[row[column] for column in columns] for row in rows]))


def stats(
    watch: Annotated[bool, typer.Option("--watch", help="Look again every second, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """Show the whole at a glance.

    States, what is due, the valve and why it is closed, calls, rejections, held routes, what waits at the doors.

    It counts all there is, once. With --watch what takes long to count is as old as it says, and there is more:
    rates, imports, workers.
    """
    from worker.ops.watching import Watch, redis_of

    with resources.opened() as (settings, engine), redis_of(settings) as redis:
        if watch:
            _watch(Watch(engine, settings, redis), as_json=as_json)
        elif as_json:
            emit(_stats(engine, redis))
        else:
            screen().print(overview(_stats(engine, redis)))


def _stats(engine: "Engine", redis: "Redis | None") -> dict[str, Any]:
    from worker.ops.queues import doors
    from worker.store import queries

    with engine.connect() as conn:
        return queries.stats(conn) | doors(conn, redis)


def _watch(watch: "Watch", *, as_json: bool) -> None:
    """Look again and again; Ctrl-C is how that ends as it should."""
    from rich.console import Group
    from rich.live import Live

    console, drawn = screen(), Group()
    with suppress(KeyboardInterrupt):
        if as_json or not console.is_terminal:
            _print_looks(watch, as_json=as_json)
        with Live(console=console, auto_refresh=False, screen=True) as live:
            for look, trouble in _looks(watch):
                drawn = watched(look, watch.rates.course(), trouble)
                live.update(drawn, refresh=True)
    console.print(drawn, end="")  # the last look stays


def _print_looks(watch: "Watch", *, as_json: bool) -> None:
    for look, trouble in _looks(watch):
        if trouble:
            say(trouble)
        elif as_json:
            emit(look)
        else:
            tell(line(look))


def _looks(watch: "Watch") -> Iterator[tuple[dict[str, Any], str]]:
    """Look every second, for ever; while the database is away, give the last look and say so."""
    from sqlalchemy.exc import DBAPIError

    from worker.store.database import is_transient

    look, trouble = watch.look(), ""
    while True:
        yield look, trouble
        time.sleep(WATCH_EVERY)
        try:
            look, trouble = watch.look(), ""
        except DBAPIError as error:
            if not is_transient(error):
                raise
            trouble = f"{explain(error)}; this was the last look"
