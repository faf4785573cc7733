"""The doors that Celery opens, and the work that it wakes: each body a few lines.

Arguments are JSON, by keyword; without a ``requestid`` the message's own id serves, so that a message delivered
twice is recognised. Their bodies take anything, since a call that Python refuses would be lost with its message:
what can't be a job goes into ``rejections``.
"""

import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from celery import signals
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from worker import app as process
from worker import discreet
from worker.app import app
from worker.delivery.courier import Courier
from worker.delivery.deliver import SLICE, Bench, deliver
from worker.discreet import Task, message_id
from worker.domain.meeting import Verdict
from worker.intake.inbox import Inbox
from worker.intake.reader import Door, Onward, Reader
from worker.intake.record import Incoming, take_in
from worker.intake.stream import Stream
from worker.intake.together import Together
from worker.logs import get_logger
from worker.settings import SettingsError
from worker.store.database import told
from worker.store.prune import prune
from worker.store.record import CrowdedError
from worker.traceparent import traceparent
from worker.upkeep.sweep import sweep

log = get_logger(__name__)

WAKE_KEY = "vcc:wake"
WAKE_SECONDS = 2
STALE = 7200
"""Seconds after which a wake-up is dropped; long, for it is told by two clocks, and one may be off."""

DOOR = {
    "base": discreet.Door,
    "bind": True,
    "acks_late": True,
    "reject_on_worker_lost": True,
    "Request": "worker.tasks:Request",
}


def wake() -> None:
    """Ask for a delivery, unless one is asked for already. If it gets lost, the next tick asks again."""
    try:
        if process.redis_client().set(WAKE_KEY, 1, nx=True, ex=WAKE_SECONDS):
            deliver_due.apply_async(expires=STALE, retry=False)
    except (RedisError, BrokerError, SettingsError) as error:
        log.warning("wake failed", reason=type(error).__name__)


@process.per_process
def together() -> Together:
    """The threads' common transactions."""
    return Together(lambda batch: take_in(process.engine(), process.config(), "celery", batch))


@process.per_process
def courier() -> Courier:
    """The thread that sends what these doors took in, in the worker's main process, whatever its pool."""
    made = Courier(deliver_all)
    signals.worker_shutdown.connect(lambda **_: made.close(), weak=False)
    return made


class Request(discreet.Request):
    """A door's message: when its job is recorded, what is due is sent straight on."""

    def acknowledge(self) -> None:
        """Acknowledge; this happens in the main process."""
        super().acknowledge()
        courier().ask()


@app.task(name="vcc.dispatch", **DOOR)
def dispatch(self: Task, *args: Any, **fields: Any) -> None:
    """Record a dispatch: externalid, route, interactiontype, provider, linkeddata, routingdata, extra and so on."""
    fits = len(args) <= len(_DISPATCH) and "action" not in fields
    _take_in(self, [_dispatch_job(*args, **fields) if fits else _odd(args, fields)])


@app.task(name="vcc.release", **DOOR)
def release(self: Task, *args: Any, **fields: Any) -> None:
    """Record a release: externalid, requestid, dispatch_requestid."""
    fits = len(args) <= len(_RELEASE) and "action" not in fields
    job = {"action": "release", **dict(zip(_RELEASE, args, strict=False)), **fields}
    _take_in(self, [job if fits else _odd(args, fields)])


@app.task(name="vcc.dispatch_many", **DOOR)
def dispatch_many(self: Task, jobs: Any = None, *args: Any, **fields: Any) -> None:
    """Record many dispatches: a list of jobs."""
    _take_in(
        self,
        jobs if isinstance(jobs, list) and not (args or fields) else [_odd((jobs, *args), fields)],
        many=True,
    )


@app.task(name="vcc.release_many", **DOOR)
def release_many(self: Task, externalids: Any = None, *args: Any, **fields: Any) -> None:
    """Record many releases: a list of externalids."""
    if not isinstance(externalids, list) or args or fields:
        _take_in(self, [_odd((externalids, *args), fields)])
        return
    _take_in(self, [{"action": "release", "externalid": one} for one in externalids], many=True)


_DISPATCH = (
    "externalid route interactiontype provider linkeddata routingdata extra requestid lane again".split()
)
_RELEASE = "externalid requestid dispatch_requestid".split()


def _dispatch_job(*args: Any, **fields: Any) -> dict[str, Any]:
    job = {**dict(zip(_DISPATCH, args, strict=False)), **fields}
    kind = job.pop("interactiontype", None)
    given = job.get("routingdata")
    if kind is not None and (given is None or isinstance(given, dict)):
        job["routingdata"] = {"interactiontype": kind, **(given or {})}
    return {**job, "action": "dispatch"}


def _odd(args: Sequence[Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Arguments that are no job: kept whole, to be refused by the one place that refuses."""
    return {"arguments": list(args), **fields}


def _take_in(task: Task, jobs: list[Any], *, many: bool = False) -> None:
    """Record jobs out of a message, which is acknowledged when they are."""
    mid, trace = message_id(task), traceparent()
    batch = [
        Incoming(job, f"{mid}-{index}" if many else mid, f"message {mid}", trace=trace)
        for index, job in enumerate(jobs)
    ]
    if rejected := together().take_in(batch).count(Verdict.REJECTED):
        log.warning("jobs rejected", door="celery", message=mid, rejected=rejected, jobs=len(batch))


def calmly(work: Callable[[], None]) -> Callable[[], None]:
    """Let work that the next tick repeats fail in one line, without what an exception's text might quote."""

    @wraps(work)
    def calm() -> None:
        try:
            work()
        except (SQLAlchemyError, RedisError, BrokerError, CrowdedError, SettingsError) as error:
            reason = str(error) if isinstance(error, SettingsError) else told(error)
            log.error("work failed", work=work.__name__, reason=reason)

    return calm


_OPEN: dict[str, Callable[[Connection], Door]] = {
    "stream": lambda _: Stream(process.redis_client()),
    "inbox": Inbox,
}


def reader(name: str, onward: Onward) -> Reader:
    """Make a reader of the stream or the inbox."""
    return Reader(process.engine(), process.config(), name, _OPEN[name], onward)


@app.task(name="vcc.intake", base=Task)
@calmly
def intake() -> None:
    """Drain the stream and the inbox, each unless a worker's reader is at it."""
    left = False
    for name in _OPEN:
        end = time.monotonic() + SLICE
        found = reader(name, Onward(lambda: None, lambda _: wake())).run(_until(end), waits=False)
        left = left or (found and time.monotonic() >= end)
    if left and not process.stopping.is_set():
        intake.apply_async(expires=STALE, retry=False)


def _until(end: float) -> Callable[[], bool]:
    return lambda: time.monotonic() < end and not process.stopping.is_set()


@app.task(name="vcc.deliver", base=Task)
@calmly
def deliver_due() -> None:
    """Make calls while something is due."""
    # the key goes back first, then the table is read: whoever records after that wakes the next one
    _forget_wake()
    end = time.monotonic() + SLICE
    bench = Bench(process.engine(), process.api(), process.config(), wake, process.stopping)
    deliver(bench, go_on=_until(end))


@calmly
def deliver_all() -> None:
    """Make calls while something is due, for as long as it takes."""
    bench = Bench(process.engine(), process.api(), process.config(), wake, process.stopping)
    deliver(bench, go_on=lambda: not process.stopping.is_set())


def _forget_wake() -> None:
    try:
        process.redis_client().delete(WAKE_KEY)
    except RedisError as error:
        log.warning("wake key kept", reason=type(error).__name__)


@app.task(name="vcc.sweep", base=Task)
@calmly
def sweep_rows() -> None:
    """Wake what is due or stranded, expire what time has overtaken."""
    changed = sweep(process.engine(), process.config(), wake)
    if any(changed.values()):
        log.info("swept", **{name.replace(" ", "_"): n for name, n in changed.items() if n})


@app.task(name="vcc.prune", base=Task)
@calmly
def prune_old() -> None:
    """Delete what is older than it has to be kept."""
    for table, gone in prune(process.engine(), process.config().keep_for):
        if gone:
            log.info("pruned", table=table, rows=gone)
        if process.stopping.is_set():
            break
