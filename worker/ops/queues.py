"""What waits at the doors: lengths of the stream and the inbox, and how old the oldest of each is."""

from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Connection

from worker.client import STREAM

MOST = 100_000
"""Rows of the inbox that are counted at most."""

Door = dict[str, Any]


def doors(conn: Connection, redis: "Redis | None") -> dict[str, Door | None]:
    """Of stream and inbox the ``length`` and ``oldest_seconds``; None where it can't be known, as Redis is away."""
    return {"stream": stream(redis), "inbox": inbox(conn)}


def stream(redis: "Redis | None") -> Door | None:
    """Of the stream alone; a Redis that hangs is waited for as long as its client says."""
    if redis is None:
        return None
    try:
        with redis.pipeline(transaction=False) as pipe:
            pipe.xlen(STREAM)
            pipe.xrange(STREAM, count=1)
            pipe.time()
            length, oldest, (seconds, micro) = pipe.execute()
    except RedisError:
        return None
    came = int(oldest[0][0].split(b"-")[0]) / 1000 if oldest else None
    return {
        "length": length,
        "oldest_seconds": None if came is None else max(seconds + micro / 1e6 - came, 0.0),
    }


def inbox(conn: Connection) -> Door:
    """Of the inbox alone, by id: of two rows the older mostly has the lower one, and there is no other index."""
    row = conn.exec_driver_sql(
        """select (select count(*) from (select from inbox limit %(most)s) waiting) as length,
            (select greatest(extract(epoch from now() - created_at), 0)::float8
                from inbox order by id limit 1) as oldest_seconds""",
        {"most": MOST},
    ).one()
    return dict(row._mapping)
