"""What ``vcc stats --watch`` looks at, once a second: nothing is counted for it that is dear to count."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from sqlalchemy import Engine

from worker import sentinels
from worker.domain.lifecycle import State
from worker.ops.census import Census
from worker.ops.queues import doors
from worker.settings import Settings
from worker.store.glance import glance

PATIENCE = 1.0
"""Seconds that Redis may take to answer; then its part is left out."""

LOOKS = 60
"""Looks of which the rates are shown."""

LATELY = 5
"""Looks over which a rate is told in numbers: a single one shows the chance of when it came."""


@contextmanager
def redis_of(settings: Settings) -> Iterator["Redis | None"]:
    """Give a client that does not wait long; None where there is no Redis."""
    if settings.redis_url is None:
        yield None
        return
    with sentinels.client(
        settings.redis(), socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, protocol=2
    ) as client:
        yield client


class Rates:
    """Calls and interactions per second, over the last looks."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, int]] = deque(maxlen=LOOKS + 1)

    def take(self, at: float, calls: int, interactions: int) -> None:
        """Note what there have been up to a moment."""
        self._seen.append((at, calls, interactions))

    def lately(self) -> dict[str, float | None]:
        """Tell both over the last few looks; None at the first."""
        seen = list(self._seen)[-LATELY - 1 :]
        return {"calls": _rate(seen[0], seen[-1], 1), "interactions": _rate(seen[0], seen[-1], 2)}

    def course(self) -> list[float]:
        """Tell the interactions per second from look to look."""
        return [_rate(before, after, 2) or 0.0 for before, after in pairwise(self._seen)]


def _rate(before: tuple[float, int, int], after: tuple[float, int, int], what: int) -> float | None:
    seconds = after[0] - before[0]
    return max(after[what] - before[what], 0) / seconds if seconds > 0 else None


class Watch:
    """Looks again and again; what has to be counted is as old as it says."""

    def __init__(self, engine: Engine, settings: Settings, redis: "Redis | None") -> None:
        self._engine, self._redis = engine, redis
        self._census = Census(engine, settings.leak_after)
        self.rates = Rates()

    def look(self) -> dict[str, Any]:
        """Look once: as ``queries.stats`` has it, and more; what is not known yet is None."""
        with self._engine.connect() as conn:
            found = glance(conn) | doors(conn, self._redis)
        calls = found["invocations"]
        self.rates.take(time.monotonic(), calls["calls"], calls["interactions"])
        return self._counted() | found | {"per_second": self.rates.lately(), "workers": self._workers()}

    def _counted(self) -> dict[str, Any]:
        counts = self._census.counts()
        if counts is None:
            return dict.fromkeys(("states", "due", "in_flight", "rejections", "counted"))
        states = dict.fromkeys(map(str, State), 0)
        for (state, _), many in counts.states.items():
            states[state] += many
        return {
            "states": states,
            "due": sum(counts.due.values()),
            "in_flight": counts.in_flight,
            "rejections": counts.rejections,
            "counted": {
                "seconds_ago": max((datetime.now(UTC) - counts.at).total_seconds(), 0.0),
                "took": counts.seconds,
            },
        }

    def _workers(self) -> dict[str, float] | None:
        """Tell of each worker for how many seconds it has done nothing; None where Redis can't tell."""
        from worker.consumption import KEY  # noqa: PLC0415 - brings Celery along

        if self._redis is None:
            return None
        try:
            with self._redis.pipeline(transaction=False) as pipe:
                pipe.time()
                pipe.hgetall(KEY)
                (now, micro), consumed = pipe.execute()
        except RedisError:
            return None
        quiet: dict[str, float] = {}
        for field, at in consumed.items():
            with suppress(ValueError):  # what no worker has written
                name = field.decode(errors="replace").partition(" ")[2]
                quiet[name] = min(quiet.get(name, 1e9), max(now + micro / 1e6 - float(at), 0.0))
        return dict(sorted(quiet.items()))
