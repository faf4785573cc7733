"""Who works: when each worker last took something off a queue, or looked at a door, and was done with it.

A ping is answered by a worker's main process, also where its pool hangs; this is told by those who do the work. It
goes into one hash in Redis, by Redis's own clock: ``vcc:consumed``, field ``<queue> <worker>``, value in seconds since
1970. No task waits for that: a thread of each process tells what is new every five seconds, and what it can't tell is
told the next time. A worker that ends as it was told to takes its fields along, so those that stay and grow old are of
workers that hang or were killed.
"""

import threading
import time
from contextlib import suppress
from typing import Any

from celery import signals
from redis.exceptions import RedisError

from worker import app as process
from worker.app import app
from worker.settings import SettingsError

KEY = "vcc:consumed"
EVERY = 5.0
"""Seconds between two tellings of a process."""

FORGOTTEN_AFTER = 86_400
"""Seconds after which a worker that was not heard of is missed no more."""

# By Redis's clock, less the time since: a worker's own may be wrong.
_TELL = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
for n = 2, #ARGV, 2 do
    redis.call('HSET', KEYS[1], ARGV[n], string.format('%.3f', now - ARGV[n + 1]))
end
local all = redis.call('HGETALL', KEYS[1])
for n = 1, #all, 2 do
    if (tonumber(all[n + 1]) or 0) < now - ARGV[1] then redis.call('HDEL', KEYS[1], all[n]) end
end
"""

_LEAVE = """
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, -#ARGV[1]) == ARGV[1] then redis.call('HDEL', KEYS[1], field) end
end
"""

_name = ""
"""The worker's, in all its processes."""


class Consumption:
    """What a process has worked off; its thread starts with the first of it, so never before a fork."""

    def __init__(self) -> None:
        self._at: dict[str, float] = {}
        self._news = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def note(self, queue: str) -> None:
        """Note that something was worked off; cheap, for it is asked with each message."""
        self._at[queue] = time.monotonic()
        if not self._news.is_set():
            self._news.set()
            self._start()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="consumption", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while self._news.wait() and not process.stopping.is_set():
            self._news.clear()
            with suppress(RedisError, SettingsError):
                self._tell()
            process.stopping.wait(EVERY)

    def _tell(self) -> None:
        now = time.monotonic()
        noted = [part for queue, at in self._at.copy().items() for part in (f"{queue} {_name}", now - at)]
        process.redis_client().eval(_TELL, 1, KEY, FORGOTTEN_AFTER, *noted)


@process.per_process
def consumption() -> Consumption:
    """What this process has worked off."""
    return Consumption()


def note(queue: str) -> None:
    """Note that something of a queue's, or a door's, was worked off."""
    consumption().note(queue)


@signals.task_postrun.connect
def _note(task: Any, **_: Any) -> None:
    """Note a task's queue, as its message names it: not any name, for anybody may write that."""
    queue: Any = (task.request.delivery_info or {}).get("routing_key")
    if _name and queue in app.amqp.queues:
        note(queue)


@signals.celeryd_init.connect
def _remember_name(sender: str, **_: Any) -> None:
    global _name  # noqa: PLW0603 -- what is forked from here has it too
    _name = sender


@signals.worker_shutdown.connect
def _leave(**_: Any) -> None:
    """Take the worker's fields away: nobody has to miss it."""
    with suppress(RedisError, SettingsError):
        process.redis_client().eval(_LEAVE, 1, KEY, f" {_name}")
