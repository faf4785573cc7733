"""Flower, closed where it is open: who may come in, whatever the path, and how long Celery's queues are."""

import hmac
import ipaddress
import os
import re
from base64 import b64decode
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import typer
from celery import Celery
from flower import command  # type: ignore[import-untyped]
from flower.app import Flower  # type: ignore[import-untyped]
from flower.views import BaseHandler  # type: ignore[import-untyped]
from tornado.httputil import HTTPServerRequest
from tornado.web import RequestHandler

from worker import logs, settings

PREFERRED = {
    "FLOWER_MAX_TASKS": "10000",  # each takes kilobytes; by default there may be ten times as many
    "FLOWER_PURGE_OFFLINE_WORKERS": "86400",  # else whoever has been here once stays for ever
    "FLOWER_ENABLE_EVENTS": "false",  # workers send theirs anyway, and would be told to every five seconds
    "FLOWER_INSPECT_TIMEOUT": "2000",  # milliseconds; a busy worker needs more than one second
    "FLOWER_READ_ONLY": "true",  # what is changed here stands in no audit
}
"""Options of Flower's for which we would rather not have its default; who sets them is obeyed."""

OPEN_TO_ALL = re.compile(r".*/healthcheck")

REMEDY = "set FLOWER_BASIC_AUTH=user:password, or listen on 127.0.0.1"


def start(app: Celery, options: list[str]) -> int:
    """Run Flower until it is told to stop, and return the exit status.

    Raises:
        typer.BadParameter: anybody could come in, or nobody.
    """
    if any(re.match("-+basic[-_]auth", option) for option in options):
        raise typer.BadParameter(
            "everybody on this machine can read a process's arguments: set FLOWER_BASIC_AUTH=user:password instead"
        )
    if not os.environ.get("FLOWER_BASIC_AUTH", "").strip():
        os.environ.pop("FLOWER_BASIC_AUTH", None)  # Flower would take it for a login of nobody's
    for name, value in PREFERRED.items():
        os.environ.setdefault(name, value)
    logs.configure("INFO", format=settings.load().log_format)
    command.Flower = Closed
    BaseHandler.get_broker = lambda handler: Queues(handler.capp)
    return int(app.start(["flower", *options]) or 0)


class Closed(Flower):  # type: ignore[misc]
    """Flower behind one door: by itself it asks for no password where it tells its metrics, for one."""

    def __init__(self, options: Any, **given: Any) -> None:
        """Check the options, which are final here, wherever they were set."""
        check(options)
        super().__init__(options=options, **given)

    def find_handler(self, request: HTTPServerRequest, **given: Any) -> Any:
        """Answer who may ask; whoever may not learns nothing, not even which paths there are."""
        status = refusal(self.options, request)
        if status is None:
            return super().find_handler(request, **given)
        return self.get_handler_delegate(request, _Refused, {"status": status})


class _Refused(RequestHandler):
    def initialize(self, status: int) -> None:
        self.status = status

    def check_xsrf_cookie(self) -> None:
        """There is nothing to forge."""

    def prepare(self) -> None:
        self.set_status(self.status)
        if self.status == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.finish("refused\n")


def check(options: Any) -> None:
    """Raise typer.BadParameter where anybody could come in, or the password can't be meant."""
    for one in options.basic_auth or []:
        user, _, password = one.partition(":")
        if not (user and password and one.isascii()):
            raise typer.BadParameter(
                "FLOWER_BASIC_AUTH: write user:password in plain letters, neither of them empty; a comma begins another"
            )
    if not (options.basic_auth or options.auth or (is_loopback(options.address) and not options.unix_socket)):
        where = options.unix_socket or options.address or "every address"
        raise typer.BadParameter(f"anybody who reaches {where} could use Flower: {REMEDY}")


def is_loopback(address: str) -> bool:
    """Whether nobody but this machine reaches the address; the empty one is all of them."""
    try:
        return address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def refusal(options: Any, request: HTTPServerRequest) -> int | None:
    """The status with which a request is refused, whatever it asks for; None: it is not."""
    if OPEN_TO_ALL.fullmatch(request.path):
        return None
    if options.basic_auth:
        return None if _knows(options.basic_auth, request.headers.get("Authorization", "")) else 401
    return None if options.auth or _from_here(request) else 403


def _knows(accepted: Iterable[str], header: str) -> bool:
    scheme, _, told = header.partition(" ")
    try:
        given = b64decode(told)
    except ValueError:
        return False
    found = [
        hmac.compare_digest(one.encode(), given) for one in accepted
    ]  # all, lest the time tell which it was
    return scheme == "Basic" and any(found)


def _from_here(request: HTTPServerRequest) -> bool:
    """Without a password: whether no other site's page makes a browser of this machine ask."""
    try:
        host, origin = urlsplit(f"//{request.host}").hostname, request.headers.get("Origin")
        return is_loopback(host or "") and (not origin or urlsplit(origin).netloc == request.host)
    except ValueError:
        return False


class Queues:
    """The lengths of Celery's queues, asked by Celery's own connection: with every URL that it takes."""

    def __init__(self, app: Celery) -> None:
        self._app = app

    async def queues(self, names: Iterable[str]) -> list[dict[str, Any]]:
        """Tell how many messages wait in each queue, be it one that no worker consumes."""
        from tornado.ioloop import IOLoop  # noqa: PLC0415 - of the thread that asks

        found: list[dict[str, Any]] = await IOLoop.current().run_in_executor(None, self.lengths, names)
        return found

    def lengths(self, names: Iterable[str] = ()) -> list[dict[str, Any]]:
        """The same; waits for the broker."""
        wanted = sorted({*names, *(queue.name for queue in self._app.conf.task_queues)})
        with self._app.connection_for_read() as connection:
            return [{"name": name, "messages": _length(connection, name)} for name in wanted]


def _length(connection: Any, name: str) -> int:
    try:
        with connection.channel() as channel:
            return int(channel.queue_declare(queue=name, passive=True).message_count)
    except connection.channel_errors:  # an empty list is none to Redis
        return 0
