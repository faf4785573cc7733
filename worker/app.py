"""The Celery app: ``celery -A worker.app worker``, ``inspect`` and ``flower`` work as every Celery user expects.

What a process needs for its work (database, API, Redis) is made on first use, so never before a fork.
"""

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import redis
from celery import Celery, bootsteps, signals
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import Engine

from worker import logs, sentinels, settings, tracing
from worker.settings import Settings
from worker.stopping import Stopping
from worker.store.database import connect
from worker.vonage.invoke import Api

T = TypeVar("T")

app = Celery("vcc", include=["worker.broker", "worker.tasks", "worker.readers"])
app.config_from_object("celeryconfig")

stopping = Stopping()
"""Set when the worker is told to stop, in all its processes."""

log = logs.get_logger(__name__)

_made: dict[Callable[[], Any], Any] = {}
_making = threading.RLock()
# a reader's thread may be at it while the parent forks: the child would wait for that thread, which it does not have
os.register_at_fork(before=_making.acquire, after_in_parent=_making.release, after_in_child=_making.release)


def per_process(make: Callable[[], T]) -> Callable[[], T]:
    """Let a process make the thing once, on first use, however many threads ask at the same time."""

    @wraps(make)
    def get() -> T:
        with _making:
            if make not in _made:
                _made[make] = make()
            made: T = _made[make]
            return made

    return get


@per_process
def config() -> Settings:
    """The process's settings."""
    return settings.load()


@per_process
def engine() -> Engine:
    """The process's engine; a connection for each thread of the pool."""
    return connect(config().database(), pool=20)


@per_process
def api() -> Api:
    """The process's connection to the Interactions API."""
    return Api(config())


@per_process
def redis_client() -> "redis.Redis":
    """The process's connection to Redis, for what is no Celery message."""
    return sentinels.client(config().redis(), socket_timeout=5, socket_connect_timeout=5, protocol=2)


@per_process
def trace_redis() -> "redis.Redis":
    """The process's connection to Redis for the names of traces, which nobody waits for."""
    soon: dict[str, Any] = {"socket_timeout": 0.3, "socket_connect_timeout": 0.3}
    return sentinels.client(config().redis(), protocol=2, retry=Retry(NoBackoff(), 0), **soon)


class Ending(bootsteps.StartStopStep):
    """The worker's step that has it end in time, however it is told to."""

    requires = ("celery.worker.components:Pool",)

    def start(self, _worker: Any) -> None:
        """Begin to watch, after the pool has forked."""
        stopping.enforce(forked=False)

    def register_with_event_loop(self, _worker: Any, hub: Any) -> None:
        """Wake the event loop with the order; it would look a second later."""
        hub.add_reader(stopping.fileno(), lambda: None)

    def close(self, worker: Any) -> None:
        """Tell everybody, should it be no signal that stops the worker."""
        stopping.set(worker.exitcode or 0)


app.steps["worker"].add(Ending)


@signals.worker_shutting_down.connect
def _stop(**_: Any) -> None:
    stopping.set()


@signals.celeryd_after_setup.connect
def _trace(**_: Any) -> None:
    """Trace, if somebody wants it: before anything is made that is traced, and before the pool forks."""
    if (traced := tracing.start(trace_redis)) is not None:
        log.info("traces on") if traced else log.warning("traces off")


def forget_resources() -> None:
    """Let everything be made anew on its next use."""
    _made.clear()


SWITCH = 0.0005
"""Seconds that a thread computes while another wants to: with Python's 5 ms a release waits at each of its steps."""


@signals.worker_ready.connect
def make_nimble(**_: Any) -> None:
    """Keep the threads from waiting for each other, and for the garbage collector.

    It would go through all that is loaded for good, and hold every thread up for 50 ms and more.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH)


@signals.worker_process_init.connect
def start_child(**_: Any) -> None:
    """Start a forked process with resources of its own; it stops when its parent is told to."""
    gc.freeze()  # as the parent will, once it is ready
    forget_resources()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which may be sent to the whole group
    stopping.enforce(forked=True)


@signals.worker_process_shutdown.connect
def _end_child(**_: Any) -> None:
    tracing.flush()
    if stopping.is_set():
        os._exit(0)  # billiard would sleep for another second


@signals.celeryd_init.connect
def _introduce(sender: str, instance: Any, options: Any, **_: Any) -> None:
    """Name the worker in its lines, from the first one on; Celery's banner is none."""
    logs.common(worker=sender)
    _log(options.get("loglevel"), options.get("logfile"))
    instance.quiet = True


@signals.setup_logging.connect
def _log(loglevel: int | str | None = None, logfile: str | None = None, **_: Any) -> None:
    """Log as the settings say."""
    logs.configure(loglevel or logging.INFO, logfile, config().log_format)
    if logging.getLogger().level > logging.DEBUG:
        for name in ("celery.worker.strategy", "celery.app.trace"):
            logging.getLogger(name).addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Whether it is more than that a message came and went: two lines each would be a seventh of its whole cost."""
    one = record.levelno == logging.INFO and isinstance(record.args, dict) and record.args.get("name")
    return one not in ("vcc.dispatch", "vcc.release")
