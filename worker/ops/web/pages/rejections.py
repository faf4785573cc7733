"""Rejections: jobs that could not be recorded, as they came, with the reason; and sending one again, mended."""

from typing import Any
from uuid import NAMESPACE_OID, uuid5

import msgspec
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from worker.domain.meeting import Verdict
from worker.intake.record import Incoming, take_in
from worker.ops.web import guard
from worker.ops.web.deps import deps
from worker.ops.web.pages.interactions import LARGEST
from worker.ops.web.render import page
from worker.store import audit, browse, mended

PAGE = 50
DOOR = "page"

NOTHING_SENT = {
    Verdict.DUPLICATE: ", but nothing is sent: its externalid is dispatched already",
    Verdict.REPEATED: ", as it had been before: its requestid is known",
    Verdict.NOTHING: ", but nothing is sent: its externalid is released already",
}


def listing(request: Request) -> Response:
    """Show a page of rejections, the newest first, without what they hold."""
    before = _before(request)
    with deps(request).engine.connect() as conn:
        rows = browse.rejected(conn, before, PAGE + 1)
    return page(request, "rejections.html", rows=rows[:PAGE], more=len(rows) > PAGE, before=before)


def changes(request: Request) -> Response:
    """Show a page of the audit, the newest first."""
    before = _before(request)
    with deps(request).engine.connect() as conn:
        rows = audit.newest(conn, before, PAGE + 1)
    return page(request, "audit.html", rows=rows[:PAGE], more=len(rows) > PAGE, before=before)


def _before(request: Request) -> int | None:
    return _id(request.query_params["before"]) if request.query_params.get("before") else None


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= LARGEST):
        raise HTTPException(404)
    return int(text)


def one(request: Request) -> Response:
    """Show a rejection; to operators with the job, and a form to mend it."""
    with deps(request).engine.connect() as conn:
        row = _row(conn, request)
    return _shown(request, row)


def _row(conn: Connection, request: Request) -> dict[str, Any]:
    words = request.state.who.may_change
    row = browse.rejection(conn, _id(request.path_params["id"]), words=words)
    if row is None:
        raise HTTPException(404, "There is no such rejection: it was sent again, erased or pruned.")
    return row


def _requestid(row: dict[str, Any]) -> str:
    """What a mended job goes by where it names nothing itself: the rejection's, however often it is sent."""
    return str(uuid5(NAMESPACE_OID, f"vcc rejection {row['id']} {row['at'].isoformat()}"))


def _shown(request: Request, row: dict[str, Any], *, text: str | None = None, wrong: str = "") -> Response:
    came = _text(row["job"]) if "job" in row else None
    return page(
        request,
        "rejection.html",
        200 if not wrong else 422,
        row=row,
        came=came,
        job=came if text is None else text,
        requestid=_requestid(row),
        wrong=wrong,
    )


def _text(job: bytes) -> str:
    """The job as people read it: JSON in lines, what is no UTF-8 escaped."""
    try:
        return msgspec.json.format(job, indent=2).decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return job.decode(errors="backslashreplace")


def send(request: Request) -> Response:
    """Take the mended job in.

    Killed between the record and the end of the rejection, it stays among the rejections; sent again, by whomever, it
    has the same requestid, and changes nothing but that it is ended.
    """
    with_ = deps(request)
    form = {name: values[0] for name, values in request.state.form.items()}
    text = form.get("job", "").replace("\r\n", "\n")
    with with_.engine.connect() as conn:
        row = _row(conn, request)
    incoming = Incoming(text.encode(), _requestid(row), f"rejection {row['id']}")
    verdict, detail = _try(request, incoming, row["id"])
    if verdict is Verdict.REJECTED:
        return _shown(request, row, text=text, wrong=detail)
    with_.ring()
    response = RedirectResponse("/rejections", 303)
    guard.flash(response, f"Rejection {row['id']} is mended and taken in{NOTHING_SENT.get(verdict, '')}.")
    return response


def _try(request: Request, incoming: Incoming, rejection: int) -> tuple[Verdict, str]:
    """Take the job in, then end its rejection, unless it is rejected once more; what it came to, and why."""
    with_ = deps(request)
    taken = take_in(with_.engine, with_.settings, DOOR, [incoming])
    ((verdict, detail),) = taken.details
    with with_.engine.begin() as conn:
        if verdict is Verdict.REJECTED:
            mended.forget_try(conn, DOOR, incoming.place)  # the one that is looked at stands for it
            return verdict, detail
        mended.end(conn, rejection)
        audit.note(conn, request.state.who.name, "send again", f"rejection {rejection}: {verdict}")
    return verdict, detail
