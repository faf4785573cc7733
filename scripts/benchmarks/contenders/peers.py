"""What the other designs share: the table, the two statements, the call.

Every statement commits by itself, which is the least that writing before and after a call costs.
"""

import logging
import os
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.contenders.contender import Contender

if TYPE_CHECKING:
    from benchmarks.stand import Stand

TABLE = """create table if not exists interactions (
    externalid text primary key, state text not null, job jsonb not null,
    created_at timestamptz not null default now(), dispatched_at timestamptz)"""

RECORD = """insert into interactions (externalid, state, job) values (%s, 'pending', %s::text::jsonb)
    on conflict (externalid) do nothing"""
ANSWERED = "update interactions set state = 'dispatched', dispatched_at = now() where externalid = %s"

INVOKE = "/interactions/Invoke"
HEADERS = {"authorization": "Bearer light", "accept": "application/vnd.newvoicemedia.v1+json"}
TRIES = 5

logging.getLogger("httpx").setLevel(logging.WARNING)  # which would log every call


def database() -> str:
    """Name the database of the other designs."""
    return os.environ["PEERS_URL"]


def api() -> str:
    """Name the API."""
    return os.environ["VCC_API_URL"]


def broker(number: int) -> str:
    """Name a database of the Redis; 0 is this project's."""
    return f"{os.environ['REDIS_URL'].removesuffix('/0')}/{number}"


def invocation(
    requestid: str, externalid: str, route: str, linkeddata: list[dict[str, str]]
) -> dict[str, Any]:
    """Make the body of a call, of one interaction."""
    request = {"action": "dispatch", "requestid": requestid, "externalid": externalid, "route": route}
    return {
        "requests": [{**request, "linkeddata": linkeddata, "routingdata": {"interactiontype": "nonlive"}}]
    }


class Peer(Contender):
    """A design that keeps its interactions in the table above."""

    def __init__(self, stand: "Stand") -> None:
        super().__init__(stand)
        self._conn = psycopg.connect(stand.peers, autocommit=True)
        self._conn.execute(TABLE)

    def clean(self) -> None:
        """Empty the table."""
        self._conn.execute("truncate interactions")
        self._conn.execute("vacuum analyze interactions")

    def recorded(self) -> int:
        """Count the answers."""
        found = self._conn.execute("select count(*) from interactions where state = 'dispatched'").fetchone()
        return int(found[0]) if found else 0
