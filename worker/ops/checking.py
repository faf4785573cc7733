"""``vcc check``: is everything there that the work needs, and if not, what to do."""

# ruff: noqa: PLC0415 - heavy modules are imported by the commands that need them
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from worker.ops import resources
from worker.ops.failures import explain
from worker.ops.options import Json
from worker.ops.printing import emit, screen, table

if TYPE_CHECKING:
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look came to; one that is ``ok`` and has a remedy all the same is a warning."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""

    @property
    def mark(self) -> str:
        """How it stands, in a word."""
        return "failed" if not self.ok else "warning" if self.remedy else "ok"


def check(as_json: Json = False) -> None:
    """Check that all is there, and name the remedies.

    Database, migrations, Redis and its settings, addresses, credentials, token.
    """
    found = list(_findings())
    if as_json:
        emit([{"name": f.name, "ok": f.ok, "detail": f.detail, "remedy": f.remedy} for f in found])
    else:
        screen().print(
            table(["", "what", "detail", "remedy"], [(f.mark, f.name, f.detail, f.remedy) for f in found])
        )
    raise typer.Exit(0 if all(f.ok for f in found) else 1)


def _findings() -> Iterator[Finding]:
    from worker.settings import SettingsError

    try:
        settings = resources.settings()
    except SettingsError as error:
        yield Finding("settings", False, str(error), "correct the variable that it names")
        return
    for name, look in _LOOKS.items():
        try:
            yield from look(settings)
        except Exception as error:
            detail, _, remedy = explain(error).partition(": ")
            yield Finding(name, False, detail, remedy)


def _database(settings: "Settings") -> Iterator[Finding]:
    from worker.store import migrate
    from worker.store.database import connect, pooled

    engine = connect(settings.database())
    try:
        with engine.connect() as conn:
            version = conn.exec_driver_sql("show server_version").scalar_one()
            heard = conn.exec_driver_sql("show enable_seqscan").scalar_one() == "off"
            way = ", through a pooler" if pooled(conn) else ""
        yield Finding(
            "database", True, f"PostgreSQL {version.partition(' ')[0]}{way}", "" if heard else _UNHEARD
        )
        missing = migrate.pending(engine)
    finally:
        engine.dispose()
    if missing:
        yield Finding("migrations", False, f"missing: {', '.join(missing)}", "run `vcc migrate`")
    else:
        yield Finding("migrations", True, "up to date")


_UNHEARD = (
    "the pooler drops the worker's settings: give them to its role (docs/operations.md, Through a pooler)"
)


def _redis(settings: "Settings") -> Iterator[Finding]:
    from worker import sentinels

    url = settings.redis()
    with sentinels.client(url, socket_timeout=5, socket_connect_timeout=5) as client:
        version = client.info("server")["redis_version"]
        way = ", named by sentinels" if url.startswith(sentinels.SCHEME) else ""
        yield Finding("redis", True, f"Redis {version}{way}")
        yield from _redis_settings(client)


def _broker(settings: "Settings") -> Iterator[Finding]:
    if settings.broker_url is None:
        return
    from worker.app import app

    with app.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=5)
        server = connection.default_channel.connection.server_properties
    yield Finding("broker", True, f"{server['product']} {server['version']}")


_REDIS_WANTED = {
    "maxmemory-policy": ("noeviction", "jobs would be evicted when memory runs short"),
    "appendonly": ("yes", "jobs not taken in yet would be lost with a restart"),
}


def _redis_settings(client: Any) -> Iterator[Finding]:
    from redis.exceptions import ResponseError

    for name, (wanted, why) in _REDIS_WANTED.items():
        try:
            found = client.config_get(name).get(name, "")
        except ResponseError:  # hosted ones often don't tell
            yield Finding(f"redis {name}", True, "can't be read", f"make sure that it is {wanted}: {why}")
            continue
        remedy = "" if found == wanted else f"set it to {wanted}: {why}"
        yield Finding(f"redis {name}", True, found, remedy)


def _api(settings: "Settings") -> Iterator[Finding]:
    from worker.vonage.transport import check_urls

    check_urls(settings)
    yield Finding("api", True, settings.invoke_url)
    secret = settings.client_secret.get_secret_value()
    given = {"VCC_CLIENT_ID": settings.client_id, "VCC_CLIENT_SECRET": secret}
    if missing := " and ".join(name for name, value in given.items() if not value):
        yield Finding("credentials", False, f"{missing} not set", "set what VCC's administrator gave you")
    else:
        yield Finding("credentials", True, "set")
        yield _token(settings)


def _token(settings: "Settings") -> Finding:
    from worker.domain.outcome import Accepted
    from worker.vonage.invoke import Api

    api = Api(settings)
    try:
        outcome = api.check()
    finally:
        api.close()
    if isinstance(outcome, Accepted):
        return Finding("token", True, f"from {settings.token_url}")
    return Finding("token", False, outcome.answer.error or outcome.name, _REMEDIES[outcome.name])


_REMEDIES = {
    "unauthorised": "check VCC_CLIENT_ID, VCC_CLIENT_SECRET and VCC_REGION",
    "throttled": "wait a little: the account has made too many calls",
    "not_sent": "check the network, VCC_AUTH_URL and VCC_REGION",
    "misdirected": "check VCC_AUTH_URL and VCC_REGION",
}
"""By the outcomes that asking for a token can have."""

_LOOKS: dict[str, Callable[["Settings"], Iterator[Finding]]] = {
    "database": _database,
    "redis": _redis,
    "broker": _broker,
    "api": _api,
}
