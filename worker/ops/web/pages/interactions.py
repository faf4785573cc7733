"""Interactions: the list, one of them, the search for an externalid, and the retry of those given up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from worker.domain.lifecycle import State
from worker.ops.web import guard
from worker.ops.web.deps import deps
from worker.ops.web.render import link, number, page
from worker.settings import seconds
from worker.store import audit, browse, retry

AGES = {"1h": "an hour", "24h": "a day", "7d": "a week", "30d": "30 days"}
GIVEN_UP = ("failed", "release_failed")
TEXTS = ("route", "provider", "lane", "error", "externalid")
TIMES = ("age", "older")
BOUNDS = {"created_after": "recorded from", "created_before": "recorded before"}
LARGEST = 2**63 - 1
LONGEST = 500
"""Characters of what the audit keeps of an order."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The filter as the browser sent it, and as the store wants it."""

    given: dict[str, str]
    filter: browse.Filter

    @property
    def narrowed(self) -> bool:
        """Whether anything is set."""
        return any(self.given.values())


def _asked(conn: Connection, fields: Mapping[str, str]) -> Asked:
    """Read a filter.

    Raises:
        HTTPException: 400, a value can't be one.
    """
    given = {
        name: fields.get(name, "") for name in ("state", *TEXTS, *TIMES)
    }  # a route may begin with a blank
    if given["state"] and given["state"] not in list(State):
        raise HTTPException(400, "There is no such state.")
    after, before = (_before_now(conn, given[name]) for name in ("age", "older"))
    texts = {name: given[name] or None for name in TEXTS}
    return Asked(
        given,
        browse.Filter(state=given["state"] or None, **texts, created_after=after, created_before=before),
    )


def _before_now(conn: Connection, age: str) -> datetime | None:
    if not age:
        return None
    try:
        length = timedelta(seconds=seconds(age))
        now: datetime = conn.exec_driver_sql("select now()").scalar_one()
        return now - length
    except (ValueError, OverflowError):
        raise HTTPException(400, "An age is written like 30m, 24h or 7d.") from None


def _id(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= LARGEST):
        raise HTTPException(404)
    return int(text)


def listing(request: Request) -> Response:
    """Show a page of interactions, the newest first."""
    query = request.query_params
    before = _id(query["before"]) if query.get("before") else None
    with deps(request).engine.connect() as conn:
        asked = _asked(conn, query)
        found = browse.page(conn, asked.filter, before=before)
    may = request.state.who.may_change
    return page(
        request,
        "interactions.html",
        given=asked.given,
        narrowed=asked.narrowed,
        found=found,
        before=before,
        AGES=AGES,
        GIVEN_UP=GIVEN_UP,
        retryable=may and any(row["state"] in GIVEN_UP for row in found.rows),
    )


def find(request: Request) -> Response:
    """Lead to the interaction of an externalid, or to the list of its lifecycles."""
    given = request.query_params.get("externalid", "")
    with deps(request).engine.connect() as conn:
        for externalid in dict.fromkeys(
            (given, given.strip())
        ):  # copied with a blank beside it, or having one
            found = (
                browse.page(conn, browse.Filter(externalid=externalid), limit=2).rows if externalid else []
            )
            if found:
                break
    if len(found) == 1:
        return RedirectResponse(f"/interactions/{found[0]['id']}", 303)
    return RedirectResponse(link("/interactions", externalid=externalid), 303)


def one(request: Request) -> Response:
    """Show an interaction with its timeline."""
    words = request.state.who.may_change
    with deps(request).engine.connect() as conn:
        row = browse.one(conn, _id(request.path_params["id"]), words=words)
    if row is None:
        raise HTTPException(404, "There is no such interaction: it may have been pruned.")
    return page(
        request,
        "interaction.html",
        row=row,
        GIVEN_UP=GIVEN_UP,
        carried=_pretty(row["request"]) if words else "",
    )


def _pretty(value: Any) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


# --- retry ----------------------------------------------------------------------------------------


def again(request: Request) -> Response:
    """Say how many would be tried again, and try them when that is confirmed.

    What is confirmed is what was counted: chosen ones by their ids, all that match up to the moment of counting, and
    of both only what has not changed since. So a confirmation that is sent twice changes nothing the second time.
    Killed in between, the committed batches are under way; the audit has the order.
    """
    form = {name: values[0] for name, values in request.state.form.items()}
    engine = deps(request).engine
    with engine.connect() as conn:
        wanted = _which(conn, form, request.state.form)
        if form.get("confirm") != "yes":
            matching = sum(retry.count(conn, which) for which in wanted)
            return _confirm(request, form, wanted, matching)
    told = _told(form, wanted)
    with engine.begin() as conn:
        audit.note(conn, request.state.who.name, "retry", told)
    done = sum(retry.retry(engine, which) for which in wanted)
    deps(request).ring()
    response = RedirectResponse(_back(form), 303)
    guard.flash(response, f"{number(done)} {'is' if done == 1 else 'are'} tried again.")
    return response


def _which(
    conn: Connection, form: Mapping[str, str], fields: Mapping[str, Sequence[str]]
) -> list[retry.Which]:
    """What is meant: those that were chosen, or all that match the filter."""
    updated_before = _moment(form, "updated_before") or _now(conn)
    if form.get("what") == "chosen":
        ids = [_id(text) for text in fields.get("id", [])]
        return [retry.Which(state=state, ids=ids, updated_before=updated_before) for state in GIVEN_UP]
    asked = _asked(conn, form)
    states = [asked.given["state"]] if asked.given["state"] else list(GIVEN_UP)
    if not set(states) <= set(GIVEN_UP):
        raise HTTPException(400, "Only what failed can be tried again.")
    wanted = asked.filter
    after = _moment(form, "created_after") or wanted.created_after
    before = _moment(form, "created_before") or wanted.created_before
    return [
        retry.Which(
            state=state,
            route=wanted.route,
            provider=wanted.provider,
            lane=wanted.lane,
            error=wanted.error,
            externalids=[wanted.externalid] if wanted.externalid else None,
            created_after=after,
            created_before=before,
            updated_before=updated_before,
        )
        for state in states
    ]


def _now(conn: Connection) -> datetime:
    found: datetime = conn.exec_driver_sql("select now()").scalar_one()
    return found


def _moment(form: Mapping[str, str], name: str) -> datetime | None:
    """A bound as the confirmation has it, so that it means the same a minute later."""
    try:
        found = datetime.fromisoformat(form[name]) if form.get(name) else None
    except ValueError:
        found = None
    return found if found is not None and found.tzinfo is not None else None


def _confirm(
    request: Request, form: Mapping[str, str], wanted: Sequence[retry.Which], matching: int
) -> Response:
    fields = [(name, form[name]) for name in ("what", "state", *TEXTS, *TIMES) if form.get(name)]
    if form.get("what") == "chosen":
        fields += [("id", text) for text in request.state.form.get("id", [])]
    for name in (*BOUNDS, "updated_before"):
        if (at := getattr(wanted[0], name)) is not None:
            fields.append((name, at.isoformat()))
    return page(
        request,
        "retry.html",
        matching=matching,
        told=_told(form, wanted),
        fields=fields,
        back=_back(form),
    )


def _told(form: Mapping[str, str], wanted: Sequence[retry.Which]) -> str:
    """Say which are meant, for the page and the audit; not the text of an error, which may quote anything."""
    if form.get("what") == "chosen":
        return f"the chosen: {', '.join(map(str, wanted[0].ids or []))}"[:LONGEST]
    parts = [
        f"{name} {form[name]}"
        for name in ("state", "route", "provider", "lane", "externalid")
        if form.get(name)
    ]
    parts += ["with a certain error"] if form.get("error") else []
    for name, told in BOUNDS.items():
        if (at := getattr(wanted[0], name)) is not None:
            parts.append(f"{told} {at.astimezone(UTC):%Y-%m-%d %H:%M:%S}")
    return f"all that match: {', '.join(parts) or 'everything given up'}"[:LONGEST]


def _back(form: Mapping[str, str]) -> str:
    given = {name: form.get(name, "") for name in ("state", *TEXTS, *TIMES)}
    return link("/interactions", **given)
