"""``/healthz`` and ``/readyz``: whether this process lives, and whether what it needs can be had."""

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from worker.ops.metrics import AWAY
from worker.ops.probing import probe
from worker.store import migrate

PATIENCE = 2.0
"""Seconds that a server may take to answer."""

READY = "ready"


async def alive(_request: Request) -> Response:
    """Answer: that is all that is asked, and it waits for no thread."""
    return PlainTextResponse("alive\n")


def ready(request: Request) -> Response:
    """Say of the database and of Redis in one word how they are; 503 unless both are ready."""
    state = request.app.state
    found = {"database": _word(state, "database", _database), "redis": _word(state, "redis", _redis)}
    return JSONResponse(found, 200 if set(found.values()) == {READY} else 503)


def _word(state: Any, part: str, ask: Callable[[Any], str]) -> str:
    try:
        return probe(state, f"ready {part}", lambda: ask(state.deps)).answer(PATIENCE)
    except TimeoutError:
        return "silent"
    except AWAY:
        return "away"


def _database(deps: Any) -> str:
    return "unmigrated" if migrate.pending(deps.engine) else READY


def _redis(deps: Any) -> str:
    deps.redis().ping()
    return READY
