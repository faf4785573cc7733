"""How pages are written: templates that escape everything, and the few ways in which values are shown."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

HERE = Path(__file__).parent
_UNSEEN = re.compile(
    r"[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""What is not seen, or turns the text around it: control characters, marks of direction, halves of characters."""

NOTHING = "\N{EN DASH}"

STATES = {
    "awaiting_dispatch": "a release that waits for its dispatch",
    "waiting": "waits until its predecessor is released",
    "pending": "to be dispatched",
    "dispatched": "with an agent",
    "releasing": "to be released",
    "released": "taken out of its route",
    "cancelled": "released before it was sent",
    "ended": "ended without a release",
    "failed": "dispatch given up",
    "release_failed": "release given up",
    "orphaned": "a release without a dispatch",
}


class Exact(str):
    """A text that a form sends back: escaped as all are, and otherwise as it is."""

    __slots__ = ()


def plain(value: Any) -> Any:
    """Make what a template prints safe to look at: control characters are shown as such, None as nothing."""
    if value is None:
        return ""
    if not isinstance(value, str) or value.isprintable() or isinstance(value, Markup | Exact):
        return value
    return _UNSEEN.sub("\ufffd", value)


def number(value: float | None) -> str:
    """Write a number: 1,234."""
    return NOTHING if value is None else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """Write a time in its largest unit.

    >>> duration(200)
    '3 min'
    """
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"


def when(at: datetime | None) -> Markup:
    """Write a moment, in UTC."""
    if at is None:
        return Markup("") + NOTHING
    at = at.astimezone(UTC)
    return Markup('<time datetime="{}">{}</time>').format(at.isoformat(), at.strftime("%Y-%m-%d %H:%M:%S"))


def ago(at: datetime | None) -> str:
    """Write how long ago a moment was."""
    return NOTHING if at is None else duration(max((datetime.now(UTC) - at).total_seconds(), 0.0))


def link(path: str, **query: Any) -> str:
    """Write an address with a query of what is given."""
    given = {name: value for name, value in query.items() if value not in (None, "")}
    return f"{path}?{urlencode(given)}" if given else path


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    finalize=plain,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {"number": number, "duration": duration, "when": when, "ago": ago, "exact": Exact}
_ENVIRONMENT.globals |= {"link": link, "STATES": STATES}


def page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """Answer with a page; who looks and the token for forms come from the guard."""
    state = request.state
    values |= {
        "who": getattr(state, "who", None),
        "csrf": getattr(state, "csrf", ""),
        "flash": getattr(state, "flash", None),
        "path": request.scope["path"],
    }
    return HTMLResponse(_ENVIRONMENT.get_template(template).render(values), status)


def problem(request: Request, status: int, title: str, sentence: str) -> HTMLResponse:
    """Answer with a page that says what is wrong, and what to do."""
    return page(request, "problem.html", status, title=title, sentence=sentence)
