"""The page's application: its paths, and what is answered where something is wrong."""

from http import HTTPStatus
from typing import cast

from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from worker.logs import get_logger
from worker.ops import health, metrics
from worker.ops.web import logins
from worker.ops.web.deps import Deps
from worker.ops.web.guard import AWAY, Guard
from worker.ops.web.pages import interactions, overview, rejections, valve
from worker.ops.web.render import HERE, problem
from worker.store.database import told
from worker.store.record import CrowdedError

log = get_logger(__name__)

ROUTES = [
    Route("/", overview.overview),
    Route("/pause", valve.pause, methods=["POST"]),
    Route("/resume", valve.resume, methods=["POST"]),
    Route("/find", interactions.find),
    Route("/interactions", interactions.listing),
    Route("/interactions/{id}", interactions.one),
    Route("/retry", interactions.again, methods=["POST"]),
    Route("/rejections", rejections.listing),
    Route("/rejections/{id}", rejections.one, methods=["GET"]),
    Route("/rejections/{id}", rejections.send, methods=["POST"]),
    Route("/audit", rejections.changes),
    *logins.ROUTES,
    Route("/metrics", metrics.endpoint),
    Route("/healthz", health.alive),
    Route("/readyz", health.ready),
    Mount("/static", StaticFiles(directory=HERE / "static")),
]


def make(deps: Deps) -> ASGIApp:
    """Make the application, behind its guard.

    Raises:
        SettingsError: ``VCC_WEB_USERS`` can't be read.
    """
    app = Starlette(
        routes=ROUTES,
        exception_handlers={
            HTTPException: _refused,
            SQLAlchemyError: _away,
            CrowdedError: _crowded,
            Exception: _broken,
        },
    )
    app.state.deps = deps
    return Guard(app, deps)


def _refused(request: Request, found: Exception) -> Response:
    error = cast("HTTPException", found)
    phrase = HTTPStatus(error.status_code).phrase
    sentence = error.detail if error.detail != phrase else "There is no such page."
    if error.status_code == 405:
        sentence = "There is nothing that answers to this method."
    response = problem(request, error.status_code, phrase, sentence)
    response.headers.update(error.headers or {})
    return response


def _away(request: Request, error: Exception) -> Response:
    log.error("page failed", path=request.scope["path"], error=told(error))
    return problem(request, 503, "Service Unavailable", AWAY)


def _crowded(request: Request, _error: Exception) -> Response:
    return problem(request, 409, "Conflict", "Others are changing the same interactions: try again.")


def _broken(request: Request, _error: Exception) -> Response:
    return problem(request, 500, "Internal Server Error", "This should not have happened: see the log.")
