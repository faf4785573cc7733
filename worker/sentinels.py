"""Redis behind sentinels, and what each of those who talk to it makes of the one URL that names them.

    sentinel://user:password@host:26379,host:26379,host:26379/0?master=mymaster

User and password are Redis's; ``sentinel_username`` and ``sentinel_password``, after the ``?``, are for sentinels that
ask for one themselves.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, unquote

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

SCHEME = "sentinel://"
PORT = 26379

PATIENCE = 2.0
"""Seconds that one sentinel is asked, before the next."""

_URL = re.compile(
    r"sentinel://(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?(?P<hosts>[^@/?#]+)(?:/(?P<db>\d*))?\?(?P<query>[^#]+)"
)
_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]\s]+)(?::(\d{1,5}))?")
_NAMED = frozenset(("master", "sentinel_username", "sentinel_password"))


class Watched(NamedTuple):
    """A Redis, by the sentinels that watch it.

    Attributes:
        hosts: where they are.
        master: what they call it.
        login: for Redis, username and password as far as there are any.
        own: the same for the sentinels.
        db: the database's number.
    """

    hosts: list[tuple[str, int]]
    master: str
    login: Mapping[str, str]
    own: Mapping[str, str]
    db: int


def read(url: str) -> Watched:
    """Read the URL.

    Raises:
        ValueError: it can't be read; the text quotes nothing of it.
    """
    found = _URL.fullmatch(url)
    hosts = [_HOST.fullmatch(host) for host in found["hosts"].split(",")] if found else []
    query = dict(parse_qsl(found["query"], keep_blank_values=True)) if found else {}
    if not found or not all(hosts) or not query.get("master") or not query.keys() <= _NAMED:
        raise ValueError(
            "names no Redis behind sentinels: write sentinel://:password@host:26379,host:26379/0?master=name, with"
            " what is special in the password percent-encoded"
        )
    login = {"username": unquote(found["user"] or ""), "password": unquote(found["password"] or "")}
    return Watched(
        [(one[1].strip("[]"), int(one[2] or PORT)) for one in hosts if one],
        query["master"],
        {name: value for name, value in login.items() if value},
        {name: query[key] for name in ("username", "password") if query.get(key := f"sentinel_{name}")},
        int(found["db"] or 0),
    )


def client(url: str, **options: Any) -> "Redis":
    """Make a client of the Redis at the URL, or of the one that the sentinels name.

    Args:
        url: as in ``REDIS_URL``.
        options: as for ``redis.Redis.from_url``.
    """
    if not url.startswith(SCHEME):
        return Redis.from_url(url, **options)
    return Redis.from_pool(pool(url, **options))


def for_kombu(url: str) -> tuple[str, dict[str, Any]]:
    """Tell Celery's broker by the same URL: what kombu takes for it, and its transport options."""
    if not url.startswith(SCHEME):
        return url, {}
    watched = read(url)
    user, password = (quote(watched.login.get(name, ""), safe="") for name in ("username", "password"))
    login = f"{user}:{password}@" if watched.login else ""
    hosts = [f"[{host}]" if ":" in host else host for host, _ in watched.hosts]
    urls = [
        f"{SCHEME}{login}{host}:{port}/{watched.db}"
        for host, (_, port) in zip(hosts, watched.hosts, strict=True)
    ]
    return ";".join(urls), {"master_name": watched.master, "sentinel_kwargs": asking(watched)}


def pool(url: str, **options: Any) -> SentinelConnectionPool:
    """Make connections to whichever Redis is the master, asked anew for each one.

    Args:
        url: names the sentinels.
        options: as for ``redis.ConnectionPool``.
    """
    watched = read(url)
    sentinel = Sentinel(watched.hosts, sentinel_kwargs=asking(watched))  # type: ignore[no-untyped-call]
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        watched.master, sentinel, db=watched.db, **watched.login, **options
    )


def asking(watched: Watched) -> dict[str, Any]:
    """How a sentinel is asked: briefly, for there are others."""
    return {
        "socket_timeout": PATIENCE,
        "socket_connect_timeout": PATIENCE,
        "retry": Retry(NoBackoff(), 0),
        **watched.own,
    }
