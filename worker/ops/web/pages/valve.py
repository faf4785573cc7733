"""The valve by hand: pause, resume, and letting a held route go."""

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from worker.ops.web import guard
from worker.ops.web.deps import deps
from worker.ops.web.render import number
from worker.store import audit, gate
from worker.store.retry import let_go

LONGEST = 200
"""Characters of a reason."""


def pause(request: Request) -> Response:
    """Stop all calls until somebody resumes."""
    reason = _field(request, "reason").strip()[:LONGEST]
    with deps(request).engine.begin() as conn:
        gate.pause(conn, reason)
        audit.note(conn, request.state.who.name, "pause", reason)
    return _done("Paused: no call is made until somebody resumes.")


def resume(request: Request) -> Response:
    """Take the pause back, or let a held route go."""
    with_, route = deps(request), _field(request, "route")
    with with_.engine.begin() as conn:
        if route:
            freed = let_go(conn, route)
            if freed is None:
                raise HTTPException(409, "This route is not held any more.")
            audit.note(conn, request.state.who.name, "resume", f"route {route}: {freed} go on")
            told = f"{number(freed)} interactions go on; retry those that failed."
        else:
            gate.resume(conn)
            audit.note(conn, request.state.who.name, "resume")
            told = "Resumed."
    with_.ring()
    return _done(told)


def _field(request: Request, name: str) -> str:
    return str((request.state.form.get(name) or [""])[0])


def _done(told: str) -> Response:
    response = RedirectResponse("/", 303)
    guard.flash(response, told)
    return response
