"""Logging in and out."""

import math
from threading import BoundedSemaphore
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from worker.logs import get_logger
from worker.ops.web import render
from worker.ops.web.guard import Guard
from worker.ops.web.users import User
from worker.store import audit

_TOGETHER = BoundedSemaphore(2)
"""Passwords that are checked at once: each takes 32 MB and a core."""

PATIENCE = 5.0
"""Seconds that somebody waits for their turn."""

WRONG = "The name or the password is wrong."

log = get_logger(__name__)


def show(request: Request) -> Response:
    """Ask for name and password; without users there is nothing to ask."""
    guard: Guard = request.state.guard
    if not guard.users:
        return RedirectResponse("/", 303)
    return _form(request, back=request.query_params.get("next", ""))


def log_in(request: Request) -> Response:
    """Open a session, under a new token: whatever cookie the browser came with is worth nothing afterwards."""
    guard: Guard = request.state.guard
    name, password, back = (_one(request, field) for field in ("name", "password", "next"))
    if not guard.users:
        return RedirectResponse("/", 303)
    address = request.client.host if request.client else ""
    wait = guard.attempts.admit(name, address)
    if wait > 0:
        _tell(guard, name, "has to wait", address)
        return _wait(request, name, back, wait)
    if not _TOGETHER.acquire(timeout=PATIENCE):
        guard.attempts.withdrawn(name, address)
        return _wait(request, name, back, PATIENCE)
    try:
        user = guard.users.verified(name, password)
    finally:
        _TOGETHER.release()
    _tell(guard, name, "wrong" if user is None else "right", address)
    if user is None:
        _note_failure(guard, name)
        return _form(request, 403, name=name, back=back, wrong=WRONG)
    guard.attempts.succeeded(user.name, address)  # the password was right, even if the session can't be kept
    return _opened(request, user, back)


def _opened(request: Request, user: User, back: str) -> Response:
    guard: Guard = request.state.guard
    response = RedirectResponse(local(back), 303)
    write = guard.begin(request, response, user)
    with guard.engine.begin() as conn:
        write(conn)
        audit.note(conn, user.name, "login")
    return response


def log_out(request: Request) -> Response:
    """End the session, so that its cookie is worth nothing, wherever it has been copied to."""
    guard: Guard = request.state.guard
    response = RedirectResponse("/login", 303)
    with guard.engine.begin() as conn:
        ended = guard.end(request, response, conn)
        if ended is not None:
            audit.note(conn, ended.name, "logout")
    return response


def local(path: str) -> str:
    r"""Give the path if it leads to a page of ours, else the overview.

    >>> local("/interactions?state=failed"), local("//evil.example"), local("/\\evil.example")
    ('/interactions?state=failed', '/', '/')
    """
    # browsers read a backslash as a slash, and pass over control characters
    fine = path.startswith("/") and not path.startswith(("//", "/log")) and path.isprintable()
    return path if fine and "\\" not in path and len(path) <= 2000 else "/"


def _form(request: Request, status: int = 200, **values: Any) -> Response:
    return render.page(request, "login.html", status, **({"name": "", "back": "", "wrong": ""} | values))


def _wait(request: Request, name: str, back: str, seconds: float) -> Response:
    """Refuse the right password too: who guesses learns nothing meanwhile."""
    rounded = math.ceil(seconds)
    sentence = f"There were too many tries. Wait {rounded:,} s, and try again."
    response = _form(request, 429, name=name, back=back, wrong=sentence)
    response.headers["Retry-After"] = str(rounded)
    return response


def _one(request: Request, field: str) -> str:
    return str((request.state.form.get(field) or [""])[0])


def _known(guard: Guard, name: str) -> str:
    """The name, if it is one: what else stands in its field may be a password."""
    return name if guard.users.named(name) else "unknown"


def _tell(guard: Guard, name: str, outcome: str, address: str) -> None:
    log.info("login", user=_known(guard, name), outcome=outcome, address=address)


def _note_failure(guard: Guard, name: str) -> None:
    with guard.engine.begin() as conn:
        audit.note(conn, _known(guard, name), "login failed")


ROUTES = [
    Route("/login", show, methods=["GET"]),
    Route("/login", log_in, methods=["POST"]),
    Route("/logout", log_out, methods=["POST"]),
]
