"""The textbook design, to measure against: one Celery task for each interaction, and nothing else.

As Celery's own pages teach it: the prefork pool, ``acks_late``, a connection to the database and an HTTP client that
each process keeps. Every statement commits by itself, which is the least that writing before and after costs.
"""

import os

import httpx
import psycopg
from celery import Celery, signals

TABLE = """create table textbook (
    externalid text primary key, state text not null, created_at timestamptz not null default now(),
    dispatched_at timestamptz)"""

app = Celery("textbook", broker=os.environ["TEXTBOOK_BROKER"])
app.conf.update(worker_prefetch_multiplier=1, broker_connection_retry_on_startup=True)


class Kept:
    """What a process keeps."""

    conn: psycopg.Connection
    api: httpx.Client


@signals.worker_process_init.connect
def connect(**_: object) -> None:
    """Connect once a process."""
    Kept.conn = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    Kept.api = httpx.Client(base_url=os.environ["VCC_API_URL"], headers={"authorization": "Bearer token"})


@app.task(name="textbook.dispatch", acks_late=True, ignore_result=True)
def dispatch(externalid: str, route: str, linkeddata: list[dict[str, str]]) -> None:
    """Write it down, send it, write down that it was sent."""
    Kept.conn.execute("insert into textbook (externalid, state) values (%s, 'pending')", [externalid])
    request = {
        "action": "dispatch",
        "requestid": dispatch.request.id,
        "externalid": externalid,
        "route": route,
    }
    request |= {"linkeddata": linkeddata, "routingdata": {"interactiontype": "nonlive"}}
    Kept.api.post("/interactions/Invoke", json={"requests": [request]}).raise_for_status()
    Kept.conn.execute(
        "update textbook set state = 'dispatched', dispatched_at = now() where externalid = %s", [externalid]
    )
