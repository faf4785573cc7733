"""The door of the page: who is it, may they, and did they mean it. Around everything, so that nothing is forgotten.

Safe by default: a path that nobody thought of needs a login, a form an operator and its token. What it finds out
stands in the request's state, for pages and templates:

    who     Who, or None on the few paths that need no login
    csrf    the token that a form has to hold, as its field ``csrf``
    form    the fields of the form, each a list
    flash   what the last change has to say, or None
    guard   this
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlsplit

import anyio
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker.logs import get_logger
from worker.ops.web import forms, render
from worker.ops.web.attempts import Attempts
from worker.ops.web.forms import RefusedError
from worker.ops.web.users import Role, User, Users
from worker.store import sessions
from worker.store.database import told

log = get_logger(__name__)

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # as good as no-referrer to all others, with which browsers would call the origin of our own forms "null"
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
HSTS = "max-age=31536000"

LIFE = 12 * 3600.0
"""Seconds from the login to the end of a session, whatever is done meanwhile."""

PATIENCE = 30.0
"""Seconds that a form may take to arrive."""

PROBES = ("/healthz", "/readyz")
MACHINES = (*PROBES, "/metrics")
OPEN = ("/login", *MACHINES)
"""Paths that need no login, beside static files."""

FORWARDED = (
    b"forwarded",
    b"via",
    b"x-forwarded-for",
    b"x-forwarded-host",
    b"x-forwarded-proto",
    b"x-real-ip",
)
"""Headers by which a proxy shows."""

_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]+)(:[0-9]{1,5})?", re.ASCII)
AWAY = "The database can't be asked just now: `vcc check` says why, or the page's log."
_SIGNING = secrets.token_bytes(32)
_FLASH = "vcc_flash"


@dataclass(frozen=True, slots=True)
class Who:
    """Who asks.

    Attributes:
        name: as it stands in the audit.
        role: what they may.
        local: there are no users: it is whoever is on this machine.
    """

    name: str
    role: Role
    local: bool = False

    @property
    def may_change(self) -> bool:
        """Whether they may change something, and see what customers wrote."""
        return self.role == "operator"


LOCAL = Who("local", "operator", local=True)


class Guard:
    """ASGI: lets through to the application what may pass.

    Args:
        app: the application.
        deps: has the settings and the engine.
        attempts: who has tried to log in how often.

    Raises:
        SettingsError: ``VCC_WEB_USERS`` can't be read.
    """

    def __init__(self, app: ASGIApp, deps: Any, attempts: Attempts | None = None) -> None:
        self.app = app
        self.engine = deps.engine
        self.users = Users(deps.settings.web_users.get_secret_value())
        self.attempts = attempts or Attempts()
        self._token = deps.settings.metrics_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or have the application answer."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            request = Request(scope, receive)
            answer = _Answer(request, send)
            refused = await self._refused(request)
            if refused is None:
                await self.app(scope, _replayed(receive), answer)
            else:
                await refused(scope, receive, answer)

    async def _refused(self, request: Request) -> Response | None:
        """Find out all that the state holds; the answer, where it is not the application's."""
        state = request.state
        state.who, state.csrf, state.form, state.flash, state.guard = None, "", {}, None, self
        try:
            forms.fields(request.scope["query_string"])
            forms.text(request.scope.get("raw_path") or quote(request.scope["path"]).encode())
            self._look_at_place(request)
            state.csrf = _csrf(key(request) or _visit(request))
            state.flash = _flashed(request)
            if not _needs_nobody(request.scope["path"]):
                state.who = await run_in_threadpool(self._who, request)
            if request.method in ("GET", "HEAD"):
                return _to_login(request) if _lacks_login(request) else None
            return await self._look_at_change(request)
        except RefusedError as error:
            response = _problem(request, error.status, error.sentence)
            if error.status == 405:
                response.headers["Allow"] = "GET, HEAD, POST"
            return response
        except SQLAlchemyError as error:
            log.error("page failed", path=request.scope["path"], error=told(error))
            return _problem(request, 503, AWAY)

    def _look_at_place(self, request: Request) -> None:
        """Refuse what came by a way that it should not."""
        if request.scope["path"] in PROBES:  # asked without a name by load balancers of old
            return
        host = request.headers.get("host", "")
        if not _HOST.fullmatch(host):
            raise RefusedError(400, "The header Host can't be read.")
        # a page on the web can have a name of its own lead to this machine, and would then be at home here
        far = not is_loopback(host) or any(name in FORWARDED for name, _ in request.scope["headers"])
        if not self.users and far:
            raise RefusedError(
                403,
                "Without VCC_WEB_USERS this answers this machine only, "
                "by no other name than localhost or 127.0.0.1, and through no proxy.",
            )
        if request.scope["path"] == "/metrics" and self._token is None and far:
            raise RefusedError(403, "For other machines than this one, set VCC_METRICS_TOKEN.")

    def _who(self, request: Request) -> Who | None:
        if not self.users:
            return LOCAL
        token = request.cookies.get(session_cookie(request))
        if not token:
            return None
        with self.engine.connect() as conn:
            session = sessions.find(conn, token)
        user = self.users.named(session.name) if session else None
        if session is None:
            return None
        if user is None or not hmac.compare_digest(user.stamp, session.stamp):
            with self.engine.begin() as conn:  # or it would go on, were the entry put back
                sessions.end(conn, token)
            return None
        return Who(user.name, user.role)

    async def _look_at_change(self, request: Request) -> Response | None:
        """Refuse a change that somebody else's page asks for, or somebody who may not; read the form."""
        if request.method != "POST":
            raise RefusedError(405, "There is nothing that answers to this method.")
        if _is_foreign(request):
            raise RefusedError(
                403, "This form came from another page: open the page here, and do it there. "
                "Behind a proxy, the proxy has to pass on the header Host."
            )  # fmt: skip
        if _lacks_login(request):
            return _to_login(request)
        try:
            with anyio.fail_after(PATIENCE):
                raw = await forms.body(request.scope, request.receive)
        except TimeoutError:
            raise RefusedError(408, "The form did not come in time.") from None
        request.state.form = forms.fields(raw)
        given = "".join(request.state.form.get("csrf", []))
        if not hmac.compare_digest(given.encode(), request.state.csrf.encode()):
            raise RefusedError(
                403, "This form is too old, or not ours: load the page again, and do it there."
            )
        who = request.state.who
        if request.scope["path"] not in ("/login", "/logout") and not (who and who.may_change):
            raise RefusedError(403, "You may look, and change nothing: that takes the role operator.")
        return None

    def begin(self, request: Request, response: Response, user: User) -> Callable[[Any], None]:
        """Make a new session; what comes back writes it, in a transaction of the caller's."""
        token, old = secrets.token_urlsafe(32), request.cookies.get(session_cookie(request))
        set_cookie(request, response, session_cookie(request), token)
        drop_cookie(request, response, _visit_cookie(request))

        def write(conn: Any) -> None:
            if old:
                sessions.end(conn, old)
            sessions.begin(conn, token, sessions.Session(user.name, user.stamp), LIFE)

        return write

    def end(self, request: Request, response: Response, conn: Any) -> "sessions.Session | None":
        """End the session, here and in the browser, and tell whose it was."""
        drop_cookie(request, response, session_cookie(request))
        return sessions.end(conn, request.cookies.get(session_cookie(request), ""))


def _problem(request: Request, status: int, sentence: str) -> Response:
    return render.problem(request, status, HTTPStatus(status).phrase, sentence)


# --- where it comes from -------------------------------------------------------------------------


def is_loopback(host: str) -> bool:
    """Whether a ``Host`` names this very machine.

    >>> is_loopback("127.0.0.1:8899"), is_loopback("rebound.example")
    (True, False)
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name in ("localhost", "localhost.") or ip_address(name).is_loopback
    except ValueError:
        return False


def _is_foreign(request: Request) -> bool:
    """Whether the browser says that another page sent the form; not every browser says anything."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return True
    origin = request.headers.get("origin")
    if origin is None:
        return False
    # the scheme is left out: a proxy that ends TLS may keep it to itself
    return origin.partition("://")[2].lower() != request.headers.get("host", "").lower()


def _needs_nobody(path: str) -> bool:
    return path in OPEN or path.startswith("/static/")


def _lacks_login(request: Request) -> bool:
    return request.state.who is None and not _needs_nobody(request.scope["path"])


def _to_login(request: Request) -> Response:
    """Send to the login, and from there back to what was asked for, if that was no change."""
    scope = request.scope
    query = scope["query_string"].decode("latin-1")
    wanted = scope["path"] + (f"?{query}" if query else "")
    back = f"?next={quote(wanted, safe='/')}" if request.method == "GET" and wanted != "/" else ""
    return RedirectResponse(f"/login{back}", 303)


def _replayed(receive: Receive) -> Receive:
    """Give an application that asks for the body none: it stands in the state."""
    asked = False

    async def again() -> Message:
        nonlocal asked
        if asked:
            return await receive()
        asked = True
        return {"type": "http.request", "body": b"", "more_body": False}

    return again


# --- cookies -------------------------------------------------------------------------------------


def is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS: with this process, or with a proxy on this machine that says so."""
    return bool(request.scope["scheme"] == "https")


def session_cookie(request: Request) -> str:
    """Name the cookie; behind TLS so that no other host and no plain HTTP can set it."""
    return "__Host-vcc" if is_secure(request) else "vcc"


def _visit_cookie(request: Request) -> str:
    """Name the cookie that a form's token is made from while there is no session."""
    return f"{session_cookie(request)}_visit"


def set_cookie(
    request: Request, response: Response, name: str, value: str, seconds: int | None = None
) -> None:
    """Set a cookie for this host that no script can read.

    Lax, not Strict: else whoever follows a link from a chat to an interaction would be asked to log in, who is
    logged in. With Lax no other site's form brings the cookie along, and no link changes anything.
    """
    response.set_cookie(
        name, value, max_age=seconds, path="/", secure=is_secure(request), httponly=True, samesite="lax"
    )


def drop_cookie(request: Request, response: Response, name: str) -> None:
    """Have the browser forget a cookie."""
    response.delete_cookie(name, path="/", secure=is_secure(request), httponly=True, samesite="lax")


def key(request: Request) -> str:
    """The cookie that a form's token is made from; empty where there is none."""
    names = session_cookie(request), _visit_cookie(request)
    return next((found for name in names if (found := request.cookies.get(name))), "")


def _visit(request: Request) -> str:
    """Make the cookie of a browser that has none; it goes out with the answer."""
    request.state.visit = secrets.token_urlsafe(32)
    return str(request.state.visit)


def _csrf(token: str) -> str:
    """Derive what a form has to hold from a cookie that another site can neither read nor send along."""
    return hmac.digest(token.encode(errors="replace"), b"vcc csrf", "sha256").hex()


def flash(response: Response, text: str) -> None:
    """Have the next page say something, once; for a minute at most."""
    said = base64.urlsafe_b64encode(text[:500].encode()).decode()
    response.set_cookie(
        _FLASH, f"{said}.{_signed(said)}", max_age=60, path="/", httponly=True, samesite="lax"
    )


def _flashed(request: Request) -> str | None:
    said, _, signature = request.cookies.get(_FLASH, "").partition(".")
    if not said or not hmac.compare_digest(_signed(said).encode(), signature.encode(errors="replace")):
        return None
    return base64.urlsafe_b64decode(said).decode()


def _signed(said: str) -> str:
    """So that nobody has the page say something else; a page that starts anew says nothing of before."""
    return hmac.digest(_SIGNING, said.encode(errors="replace"), hashlib.sha256).hex()


def _secured(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Whoever sets a cookie, behind TLS it goes nowhere else."""
    plain = name.lower() == b"set-cookie" and b"; secure" not in value.lower()
    return name, value + b"; Secure" * plain


class _Answer:
    """Passes an answer on, with the headers that each has, whoever made it."""

    def __init__(self, request: Request, send: Send) -> None:
        self._request = request
        self._send = send

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            path = self._request.scope["path"]
            headers = MutableHeaders(scope=message)
            headers.update(HEADERS)
            if path.startswith("/static/"):
                headers["Cache-Control"] = (
                    "no-cache"  # asked for anew: an old script may not serve a new page
                )
            else:
                headers["Cache-Control"] = "no-store"
                for cookie in self._cookies(message["status"]) if path not in MACHINES else ():
                    headers.append("set-cookie", cookie)
            if is_secure(self._request):
                headers["Strict-Transport-Security"] = HSTS
                message["headers"] = [_secured(name, value) for name, value in headers.raw]
        await self._send(message)

    def _cookies(self, status: int) -> list[str]:
        """The cookies that are to be set or dropped beside the application's own."""
        response, request = Response(), self._request
        if visit := getattr(request.state, "visit", ""):
            set_cookie(request, response, _visit_cookie(request), visit)
        if _FLASH in request.cookies and not 300 <= status < 400:
            drop_cookie(request, response, _FLASH)
        return response.headers.getlist("set-cookie")
