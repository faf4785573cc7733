"""``vcc web``: the page, served by one process until it is told to stop."""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Annotated

import typer
import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from worker import logs, sentinels
from worker.ops import resources
from worker.ops.census import Census
from worker.ops.failures import CommandError
from worker.ops.options import Json
from worker.ops.printing import emit, say
from worker.ops.web.app import make
from worker.ops.web.deps import Deps
from worker.ops.web.guard import is_loopback
from worker.settings import Settings
from worker.store.database import connect

if TYPE_CHECKING:
    from redis import Redis

log = logs.get_logger(__name__)

PATIENCE = 2.0
"""Seconds that Redis may take to answer."""

GRACE = 2
"""Seconds that an answer under way has when the page is to end."""


def web(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port to listen at; 0: a free one.")] = 8899,
    as_json: Json = False,
) -> None:
    """Run the operators' page.

    What happened to an interaction, what is in line, what is stuck, and why it is paused; /metrics for Prometheus.
    Without VCC_WEB_USERS it is for whoever is on this machine, and listens nowhere else: `vcc user` makes users.
    """
    settings = resources.settings()
    settings.database()
    if not is_loopback(_named(host)) and not settings.web_users.get_secret_value().strip():
        raise typer.BadParameter(
            f"without users the page is for this machine only: set VCC_WEB_USERS (`vcc user NAME`) to listen at {host}",
            param_hint="--host",
        )
    logs.configure("INFO", format=settings.log_format)
    app = _Told(make(deps(settings)))
    listener = _listen(host, port)
    url = f"http://{_named(host)}:{listener.getsockname()[1]}"
    if as_json:
        emit({"url": url})
    else:
        say(f"the page is at {url}")
    _serve(app, listener)


def deps(settings: Settings) -> Deps:
    """Put together what the pages work with; nothing is connected yet."""

    @cache
    def redis() -> "Redis":
        return sentinels.client(
            settings.redis(), socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, protocol=2
        )

    def ring() -> None:
        resources.Bell()()  # one that found Redis away would not try again

    engine = connect(settings.database())
    return Deps(settings, engine, redis, Census(engine, settings.leak_after), ring)


def _named(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        why = (
            os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        )  # create_server adds to it
        raise CommandError(f"can't listen at {host}, port {port}: {why}; see --host and --port") from None


def _serve(app: ASGIApp, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it would have queries, and with them what an error is searched for
        server_header=False,
        lifespan="off",
        ws="none",
        forwarded_allow_ips="127.0.0.1,::1",
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=20,
    )
    # uvicorn ends in good order, and then has the signal do what it would have done without it
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([listener])


class _Told:
    """Logs each request: what was asked for, without its query, and what became of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            took = round((time.monotonic() - started) * 1000, 1)
            log.info("request", method=scope["method"], path=scope["path"][:200], status=status, ms=took)
