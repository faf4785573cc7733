"""``vcc dispatch``, ``release``, ``retry``, ``pause`` and ``resume``: an operator's word.

What changes more than a job of its own stands in the audit: in the transaction that changes it where there is one.
"""

# ruff: noqa: PLC0415 - heavy modules are imported by the commands that need them
import getpass
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from worker.ops import resources
from worker.ops.failures import CommandError
from worker.ops.options import GivenUp, Json, Kind, Lane, Provider, readable
from worker.ops.overview import valve
from worker.ops.printing import emit, plain, tell

if TYPE_CHECKING:
    from sqlalchemy import Engine

Requestid = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The API's idempotency key; made if left out.", callback=readable),
]


NAMED = 20
"""Externalids that an entry of the audit names at most."""


def who() -> str:
    """Name the operator at this terminal, for the audit."""
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # an account without a name, as containers have it
        return f"cli:{os.getuid()}"


def _json_option(help: str) -> Any:  # noqa: A002 - as Typer calls it
    return typer.Option(metavar="JSON", help=help, callback=readable)


def dispatch(
    externalid: Annotated[str, typer.Argument(metavar="EXTERNALID", callback=readable)],
    route: Annotated[str, typer.Option(metavar="NAME", help="The named route.", callback=readable)],
    provider: Provider = None,
    interactiontype: Annotated[Kind | None, typer.Option(help="How VCC is to route it [nonlive].")] = None,
    linkeddata: Annotated[str | None, _json_option("What the agent sees: a list of objects.")] = None,
    routingdata: Annotated[str | None, _json_option("Skills, personal queue: an object.")] = None,
    extra: Annotated[str | None, _json_option("Further members of the Interaction object.")] = None,
    requestid: Requestid = None,
    lane: Annotated[Lane, typer.Option(help="backlog: behind everything live.")] = Lane.LIVE,
    again: Annotated[
        bool, typer.Option("--again", help="The customer wrote again: a new lifecycle.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Record a dispatch; the workers send it."""
    from worker.ops.recording import decoded, record_jobs, with_kind

    job = {
        "action": "dispatch",
        "externalid": externalid,
        "route": route,
        "provider": provider,
        "linkeddata": decoded("--linkeddata", linkeddata),
        "routingdata": with_kind(decoded("--routingdata", routingdata), interactiontype),
        "extra": decoded("--extra", extra),
        "requestid": requestid,
        "lane": lane.value,
        "again": again,
    }
    (done,) = record_jobs([job])
    if as_json:
        emit(done)
    else:
        tell(f"{plain(externalid)}: {done['detail']}")


def release(
    externalids: Annotated[list[str], typer.Argument(metavar="EXTERNALID", callback=readable)],
    requestid: Requestid = None,
    force: Annotated[
        bool, typer.Option("--force", help="Also what was dispatched elsewhere, or is unknown.")
    ] = False,
    provider: Provider = None,
    as_json: Json = False,
) -> None:
    """Record releases.

    The workers send each when its dispatch has settled, with the provider that the dispatch named.
    """
    from worker.ops.recording import record_jobs

    if requestid is not None and len(externalids) > 1:
        raise typer.BadParameter("goes with one EXTERNALID only", param_hint="--requestid")
    if provider is not None and not force:
        raise typer.BadParameter(
            "goes with --force only; else the dispatch's provider is used", param_hint="--provider"
        )
    jobs = [
        {"action": "release", "externalid": one, "requestid": requestid, "provider": provider}
        for one in externalids
    ]
    if force:
        with resources.opened() as (_, engine):
            _note(engine, "release by force", _some(externalids))
    done = record_jobs(jobs, rules="force" if force else "job")
    if as_json:
        emit(done)
    else:
        for one in done:
            tell(f"{plain(one['externalid'])}: {one['detail']}")


def retry(
    externalids: Annotated[list[str] | None, typer.Argument(metavar="EXTERNALID", callback=readable)] = None,
    state: Annotated[GivenUp, typer.Option(help="Which of those given up.")] = GivenUp.FAILED,
    route: Annotated[
        str | None, typer.Option(metavar="NAME", help="Only those of this route.", callback=readable)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: Json = False,
) -> None:
    """Try given-up interactions again.

    All of a state, of a route, or those that are named; asks first on a terminal.
    """
    from worker.store import retry as store

    which = store.Which(state.value, route, externalids or None)
    with resources.opened() as (_, engine):
        with engine.connect() as conn:
            matching = store.count(conn, which)
        go = matching > 0 and not dry_run and (yes or agreed(f"Try {matching:,} again?"))
        if go:
            about = [f"route {route}"] if route is not None else []
            about += [_some(externalids)] if externalids else []
            _note(engine, "retry", f"{matching:,} {state.value}" + "".join(f", {one}" for one in about))
        retried = store.retry(engine, which) if go else 0
    if retried:
        _ring()
    if as_json:
        emit({"matching": matching, "retried": retried})
    else:
        tell(f"{retried:,} of {matching:,} are tried again" if go else f"{matching:,} could be tried again")


def agreed(question: str) -> bool:
    """Ask where somebody is there to answer."""
    return not sys.stdin.isatty() or typer.confirm(question, err=True)


def _some(externalids: Sequence[str]) -> str:
    """Name the first, and count the rest."""
    more = len(externalids) - NAMED
    return ", ".join(externalids[:NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _note(engine: "Engine", action: str, detail: str) -> None:
    """Note what is about to be done in more than one transaction: killed in between, a part of it is."""
    from worker.store import audit

    with engine.begin() as conn:
        audit.note(conn, who(), action, detail)


def pause(
    reason: Annotated[str, typer.Argument(metavar="REASON", callback=readable, show_default=False)] = "",
    as_json: Json = False,
) -> None:
    """Stop all calls, until `vcc resume`.

    Jobs are recorded all the same.
    """
    from worker.store import audit, gate

    with resources.opened() as (_, engine):
        with engine.begin() as conn:
            gate.pause(conn, reason)
            audit.note(conn, who(), "pause", reason)
        _tell_valve(engine, as_json=as_json)


def resume(
    route: Annotated[
        str | None, typer.Option(metavar="NAME", help="Let this held route go, instead.", callback=readable)
    ] = None,
    as_json: Json = False,
) -> None:
    """Take a pause back, or let a held route go.

    Calls are tried at once; only what the API asked us to wait for still has to pass.
    """
    from worker.store import audit, gate

    with resources.opened() as (_, engine):
        if route is not None:
            _let_go(engine, route, as_json=as_json)
            return
        with engine.begin() as conn:
            gate.resume(conn)
            audit.note(conn, who(), "resume")
        _ring()
        _tell_valve(engine, as_json=as_json)


def _let_go(engine: Any, route: str, *, as_json: bool) -> None:
    from worker.store import audit
    from worker.store.retry import let_go

    with engine.begin() as conn:
        freed = let_go(conn, route)
        if freed is not None:
            audit.note(conn, who(), "resume", f"route {route}: {freed:,}")
    if freed is None:
        raise CommandError(f"the route {route!r} is not held: `vcc stats` names those that are")
    _ring()
    if as_json:
        emit({"route": route, "released": freed})
    else:
        tell(f"{freed:,} interactions of {route} go on; `vcc retry --route` takes up those that failed")


def _tell_valve(engine: Any, *, as_json: bool) -> None:
    from worker.store import gate

    with engine.connect() as conn:
        found = asdict(gate.read(conn))
    if as_json:
        emit({"gate": found})
    else:
        tell(f"valve: {valve(found)}")


def _ring() -> None:
    bell = resources.Bell()
    bell()
    bell.tell()
